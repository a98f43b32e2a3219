"""Tokenizers in and out: files that contradict each other, folders older than tokenizer.json, what stands around texts."""

import json
from typing import Any

import folders
import pytest

from transformer.components.positions import Learned
from transformer.config import Config, Data, DataInfo, Model
from transformer.data import tokenizers
from transformer.data.tokenizers import tokenizer_classes, vocabulary
from transformer.data.tokenizers.imported import Tokenizer
from transformer.errors import UserError
from transformer.interop import vocabularies

BART = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def read(folder, model_type) -> Tokenizer:
    made = vocabularies.read(folder, model_type, 1000)[0]["joint"]
    assert isinstance(made, Tokenizer)
    return made


def save(folder, tokenizer, **settings):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def old_folder(folder, described, **settings):
    folder.mkdir()
    folders.write_old(folder, described)
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


# --- contradictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast", None])
def test_the_settings_of_a_bert_hold_against_its_tokenizer_json(tmp_path, name):
    named = {} if name is None else {"tokenizer_class": name}
    lower = read(save(tmp_path / "lower", folders.word_pieces(), **named), "bert")
    kept = read(save(tmp_path / "kept", folders.word_pieces(), do_lower_case=False, **named), "bert")
    assert lower.encode("Cat") == lower.encode("cat") == kept.encode("cat") != kept.encode("Cat")
    accents = read(save(tmp_path / "accents", folders.word_pieces(), strip_accents=False, **named), "bert")
    assert lower.encode("nai\u0308ve") == lower.encode("naive") and accents.encode("na\u00efve") != lower.encode("na\u00efve")


def test_the_general_class_takes_tokenizer_json_as_it_is(tmp_path):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}
    made = read(save(tmp_path / "a", folders.word_pieces(), **settings), "bert")
    assert made.encode("Cat") == made.encode("cat")


@pytest.mark.parametrize(("model_type", "special"), [("gpt2", ["<|endoftext|>"]), ("bart", BART)])
def test_the_settings_of_byte_level_bpe_hold_against_its_tokenizer_json(tmp_path, model_type, special):
    plain = read(save(tmp_path / "a", folders.byte_bpe(special)), model_type)
    spaced = read(save(tmp_path / "b", folders.byte_bpe(special), add_prefix_space=True), model_type)
    assert spaced.encode("cat") == plain.encode(" cat") != plain.encode("cat")


def test_a_contradiction_of_a_class_that_is_not_known_is_refused(tmp_path):
    settings = {"tokenizer_class": "AnotherTokenizer", "do_lower_case": False}
    with pytest.raises(UserError, match="do_lower_case"):
        read(save(tmp_path / "a", folders.word_pieces(), **settings), "bert")
    assert read(save(tmp_path / "b", folders.word_pieces(), tokenizer_class="AnotherTokenizer"), "bert").encode("cat")


def test_a_class_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="WordPiece"):
        read(save(tmp_path / "a", folders.byte_bpe(BART), tokenizer_class="BertTokenizer"), "bart")


def test_settings_are_kept_in_a_workdir(tmp_path):
    made = read(save(tmp_path / "a", folders.word_pieces(), do_lower_case=False), "bert")
    made.save(tmp_path, "joint")
    again = tokenizers.load(tmp_path, "joint")
    assert isinstance(again, Tokenizer) and again.settings == made.settings and again.encode("Cat") == made.encode("Cat")


# --- older folders -----------------------------------------------------------------------------------------------------


def test_a_list_of_word_pieces_is_read(tmp_path):
    known = folders.word_pieces()
    described = json.loads(known.to_str())
    old = read(old_folder(tmp_path / "old", described), "bert")
    new = read(save(tmp_path / "new", known), "bert")
    assert old.size == new.size and old.special == new.special and old.around == new.around
    for text in [*folders.TEXTS[:20], "Na\u00efve CAT, [MASK]"]:
        assert old.encode(text) == new.encode(text)
    cased = read(old_folder(tmp_path / "cased", described, do_lower_case=False), "bert")
    assert cased.encode("CAT") != new.encode("CAT")


@pytest.mark.parametrize(("model_type", "special"), [("gpt2", ["<|endoftext|>"]), ("bart", BART)])
def test_entries_and_merges_are_read(tmp_path, model_type, special):
    known = folders.byte_bpe(special)
    old = read(old_folder(tmp_path / "old", json.loads(known.to_str())), model_type)
    new = read(save(tmp_path / "new", known), model_type)
    assert old.size == new.size and old.special == new.special and old.around == new.around
    for text in [*folders.TEXTS[:20], " a  b ", "\u65e5\u672c <mask>"]:
        assert old.encode(text) == new.encode(text) and old.decode(old.encode(text)) == text


@pytest.mark.parametrize("file", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("model_type", ["bart", "roberta"])
def test_the_mask_of_an_older_folder_takes_the_space_before_it(tmp_path, model_type, file):
    known = folders.byte_bpe(BART)
    folder = old_folder(tmp_path / "a", json.loads(known.to_str()))
    plain, names = read(folder, model_type), {"<mask>": BART.index("<mask>")}
    [before, mask, after] = (plain.encode("the"), names["<mask>"], plain.encode(" cat"))
    assert plain.encode_with("the <mask> cat", names) == [*before, *plain.encode(" "), mask, *after]
    entry = {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}
    (folder / file).write_text(json.dumps({"mask_token": entry}))
    assert read(folder, model_type).encode_with("the <mask> cat", names) == [*before, mask, *after]


@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "GPT2Tokenizer"}])
def test_an_older_folder_of_opt_is_split_as_gpt_2_s(tmp_path, settings):
    described = json.loads(folders.byte_bpe(BART).to_str())
    old = read(old_folder(tmp_path / "a", described, **settings), "opt")
    new = read(old_folder(tmp_path / "b", described, tokenizer_class="GPT2Tokenizer"), "gpt2")
    for text in folders.TEXTS[:20]:
        assert old.encode(text) == new.encode(text) and old.decode(old.encode(text)) == text


@pytest.mark.parametrize("name", ["ElectraTokenizer", "ElectraTokenizerFast"])
def test_an_older_folder_of_electra_is_split_as_bert_s(tmp_path, name):
    described = json.loads(folders.word_pieces().to_str())
    old = read(old_folder(tmp_path / "a", described, tokenizer_class=name), "electra")
    new = read(old_folder(tmp_path / "b", described), "bert")
    assert old.special == new.special and old.around == new.around
    for text in [*folders.TEXTS[:20], "Na\u00efve CAT"]:
        assert old.encode(text) == new.encode(text)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("qwen2", {}),
        ("qwen3", {"tokenizer_class": "Qwen2Tokenizer"}),
        ("gpt_neox", {"tokenizer_class": "GPTNeoXTokenizerFast"}),
        ("bert", {"tokenizer_class": "AnotherTokenizer"}),
    ],
)
def test_an_older_folder_of_a_class_that_is_not_known_needs_tokenizer_json(tmp_path, model_type, settings):
    known = folders.word_pieces() if model_type == "bert" else folders.byte_bpe(["<|endoftext|>"])
    with pytest.raises(UserError, match=r"needs tokenizer\.json"):
        read(old_folder(tmp_path / "a", json.loads(known.to_str()), **settings), model_type)
    assert read(save(tmp_path / "b", known, **settings), model_type).encode("cat")


def test_what_is_added_to_an_older_folder_is_an_entry(tmp_path):
    described = json.loads(folders.word_pieces().to_str())
    folder = old_folder(tmp_path / "old", described)
    size = len(described["model"]["vocab"])
    (folder / "added_tokens.json").write_text(json.dumps({"[THING]": size}))
    made = read(folder, "bert")
    assert made.size == size + 1 and size in made.encode("cat [THING]")


def test_a_folder_without_a_tokenizer_says_what_it_may_have(tmp_path):
    with pytest.raises(UserError) as error:
        vocabularies.read(tmp_path, "bert", 100)
    assert all(name in str(error.value) for name in ("tokenizer.json", "vocab.txt", "merges.txt", "spiece.model"))


# --- out ---------------------------------------------------------------------------------------------------------------


def written(folder, model_type, vocab, data_info, lowercase=False) -> tuple[dict, Tokenizer]:
    folder.mkdir()
    families: Any = {"bert": "encoder_only", "gpt2": "decoder_only"}
    config = Config(
        family=families.get(model_type, "encoder_decoder"),
        model=Model(positions=Learned(size=300)),
        data=Data(max_source_length=33, lowercase=lowercase),
    )
    vocabularies.write(folder, config, model_type, vocab, vocab, data_info)
    described = json.loads((folder / "tokenizer_config.json").read_text())
    return described, Tokenizer((folder / "tokenizer.json").read_text(), described)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "modernbert"])
def test_an_encoder_reads_texts_between_the_tokens_that_its_tokenizer_names(tmp_path, model_type):
    folder = save(tmp_path / "a", folders.word_pieces())
    [made], found = (
        list(each.values()) if n == 0 else each for n, each in enumerate(vocabularies.read(folder, model_type, 99))
    )
    ids = {token: number for number, token in made.tokens.items()}
    named = {"begin": "[CLS]", "start": "[CLS]", "end": "[SEP]", "mask": "[MASK]", "unknown": "[UNK]"}
    assert {fact: found[fact] for fact in named} == {fact: ids[token] for fact, token in named.items()}


def test_the_class_the_settings_and_the_longest_text_of_an_original_are_kept(tmp_path):
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 17, "mask_token": "[MASK]"}
    made = read(save(tmp_path / "a", folders.word_pieces(), **settings), "bert")
    described, again = written(tmp_path / "b", "bert", made, DataInfo(*[made.size] * 4, unknown=1, begin=2, end=3, mask=4))
    assert described.items() >= settings.items() and "token_type_ids" in described["model_input_names"]
    assert (tmp_path / "b/tokenizer.json").read_bytes() == (tmp_path / "a/tokenizer.json").read_bytes()
    assert vocabularies.longest(tmp_path / "b") == 17 and again.encode("Cat") == made.encode("Cat")


@pytest.mark.parametrize(
    ("model_type", "around", "longest"), [("bert", [1, 2], 33), ("t5", [2], 33), ("gpt2", [1], 300), ("bart", [2], 33)]
)
def test_texts_in_a_vocabulary_of_ours_stand_between_the_tokens_that_the_model_reads(tmp_path, model_type, around, longest):
    known = vocabulary.Bytes()
    described, again = written(tmp_path / "b", model_type, known, DataInfo(known.size, known.size, known.size, known.size))
    assert again.around == around and described["model_max_length"] == longest


def test_a_mask_and_sentinels_of_ours_are_entries(tmp_path):
    known = vocabulary.Bytes()
    size = known.size + 1
    _, again = written(tmp_path / "a", "bert", known, DataInfo(size, size, size, size, mask=known.size))
    assert again.tokens[known.size] == "<mask>" and known.size in again.special
    size = known.size + 3
    _, again = written(tmp_path / "b", "t5", known, DataInfo(size, size, size, size, sentinels=3))
    assert [again.tokens[size - 1 - k] for k in range(3)] == ["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]


@pytest.mark.parametrize("known", [vocabulary.Bytes(), vocabulary.Characters(sorted({*"".join(folders.TEXTS), "\u00e9"}))])
def test_a_vocabulary_of_ours_is_written_with_texts_in_lower_case(tmp_path, known):
    data_info = DataInfo(known.size, known.size, known.size, known.size)
    text = "The CAT, CAF\u00c9 <s>"
    _, again = written(tmp_path / "lower", "gpt2", known, data_info, lowercase=True)
    assert again.encode(text) == known.encode(text.lower()) != known.encode(text)
    _, again = written(tmp_path / "kept", "gpt2", known, data_info)
    assert again.encode(text) == known.encode(text)


def test_a_tokenizer_that_keeps_capitals_is_not_written_for_texts_in_lower_case(tmp_path):
    cased = read(save(tmp_path / "cased", folders.byte_bpe(BART)), "bart")
    lower = read(save(tmp_path / "lower", folders.word_pieces()), "bert")
    with pytest.raises(UserError, match=r"config\.data\.lowercase"):
        written(tmp_path / "a", "bart", cased, DataInfo(*[cased.size] * 4), lowercase=True)
    written(tmp_path / "b", "bart", cased, DataInfo(*[cased.size] * 4))
    written(tmp_path / "c", "bert", lower, DataInfo(*[lower.size] * 4, mask=4), lowercase=True)


def test_a_pair_has_two_types_and_special_tokens_between(tmp_path):
    made = tokenizer_classes.template(["<s>"], ["</s>"], ["</s>"], {"<s>": 0, "</s>": 2}, second_type=1)
    assert [next(iter(each.values()))["type_id"] for each in made["pair"]] == [0, 0, 0, 1, 1, 1]
    assert [each.get("SpecialToken", {"id": "text"})["id"] for each in made["pair"]] == [
        "<s>",
        "text",
        "</s>",
        "</s>",
        "text",
        "</s>",
    ]
