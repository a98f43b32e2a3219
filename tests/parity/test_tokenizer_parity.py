"""Tokenizers: ours give the ids of Transformers' classes, and these read what ours write."""

import dataclasses
import json

import folders
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)

from transformer.interop import huggingface, vocabularies  # noqa: E402

TEXTS = [*folders.TEXTS[:30], "Größe, über (12) naïve!", "a  b   c", "ﬁnd 日本 😀", "the"]


def model(folder, name, size):
    """A folder with a model of theirs for a vocabulary of `size`, without its tokenizer."""
    kind, settings = theirs.MODELS[name]
    made = theirs.make(name, vocab_size=size)
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["bert masked", "gpt2", "bart", "t5"])
def test_ids_are_theirs_and_go_round(tmp_path, name):
    made = {
        "bert masked": folders.word_pieces,
        "gpt2": lambda: folders.byte_bpe(["<|endoftext|>"]),
        "bart": lambda: folders.byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
        "t5": folders.unigram,
    }[name]()
    folder = model(tmp_path / "a", name, made.get_vocab_size())
    made.save(str(folder / "tokenizer.json"))
    found = huggingface.read(folder)
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    for path in (folder, tmp_path / "b"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        for text in TEXTS:
            ids = found.vocabularies["joint"].encode(text)
            assert tokenizer(text, add_special_tokens=False).input_ids == ids
            assert found.vocabularies["joint"].decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)
    tokens = {"pad": tokenizer.pad_token_id, "unknown": tokenizer.unk_token_id}
    tokens |= {"mask": tokenizer.mask_token_id} if name in ("bert masked", "bart") else {}
    tokens |= {"begin": tokenizer.cls_token_id, "end": tokenizer.sep_token_id} if name == "bert masked" else {}
    for fact, value in tokens.items():
        assert getattr(found.data_info, fact) == value, fact


@pytest.mark.parametrize("separate", [False, True])
def test_marian_s_ids_are_theirs_and_go_round(tmp_path, separate):
    (tmp_path / "a").mkdir()
    size = folders.marian_pair(tmp_path / "a")
    folder = model(tmp_path / "a", "marian", size)
    fields = json.loads((folder / "config.json").read_text())
    ids = {"pad_token_id": size - 1, "decoder_start_token_id": size - 1}
    if separate:
        table = json.loads((folder / "vocab.json").read_text())
        pieces = [piece for piece in table if piece not in ("</s>", "<unk>", "<pad>")]
        table = {piece: n for n, piece in enumerate(["</s>", "<unk>", *reversed(pieces), "<pad>"])}
        (folder / "target_vocab.json").write_text(json.dumps(table))
        fields |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": size}
    (folder / "config.json").write_text(json.dumps(fields | ids))
    (folder / "tokenizer_config.json").write_text(json.dumps({"separate_vocabs": separate}))
    found = huggingface.read(folder)
    assert found.config.data.joint_vocabulary is False
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    for path in (folder, tmp_path / "b"):
        tokenizer = transformers.MarianTokenizer.from_pretrained(path)
        for text in [*TEXTS, ">>fr<< the cat"]:
            source, target = (found.vocabularies[side].encode(text) for side in ("source", "target"))
            assert tokenizer(text).input_ids == [*source, found.data_info.end]
            assert tokenizer(text_target=text).input_ids == [*target, found.data_info.end]
            assert found.vocabularies["target"].decode(target) == tokenizer.decode(target, skip_special_tokens=True)


def test_a_sentencepiece_file_of_t5_gives_their_ids(tmp_path):
    """Theirs is another program on the same file: it may split otherwise where scores are equal, so whole words are asked."""
    pytest.importorskip("google.protobuf")
    (tmp_path / "a").mkdir()
    folders.pieces(tmp_path / "a" / "spiece.model")
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 5}))
    folder = model(tmp_path / "a", "t5", 60)
    found = huggingface.read(folder)
    size = found.vocabularies["joint"].size
    assert (found.data_info.target_size, found.data_info.sentinels, found.data_info.target_rows) == (size + 5, 5, 60)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == found.data_info.target_size - 1
    same = sum(
        tokenizer(text, add_special_tokens=False).input_ids == found.vocabularies["joint"].encode(text) for text in TEXTS[:30]
    )
    assert same >= 29


def test_byt5_s_ids_are_theirs_and_go_round(tmp_path):
    """It has no file of entries: the class alone says that they are bytes."""
    folder = model(tmp_path / "a", "t5", 384)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    found = huggingface.read(folder)
    assert (found.vocabularies["joint"].size, found.data_info.unknown) == (384, 2)
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    for path in (folder, tmp_path / "b"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        for text in [*TEXTS, "", "\t\n  x\0"]:
            ids = found.vocabularies["joint"].encode(text)
            assert tokenizer(text).input_ids == [*ids, found.data_info.end]
            assert found.vocabularies["joint"].decode(ids) == text == tokenizer.decode(ids)
    again = huggingface.read(tmp_path / "b")
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, found.params))


def test_our_own_model_is_read_by_their_classes(tmp_path):
    """A model of ours with a vocabulary of characters: text in theirs gives the logits of ours."""
    from transformer.components.feed_forward import FeedForward
    from transformer.components.norms import LayerNorm
    from transformer.components.positions import Learned
    from transformer.config import Config, DataInfo, Model, Objective
    from transformer.data.tokenizers.vocabulary import Characters
    from transformer.interop import convert

    known = Characters(sorted({*"".join(folders.TEXTS)}))
    config = Config(
        family="decoder_only",
        model=Model(
            num_decoder_layers=2,
            d_model=12,
            d_ff=20,
            num_heads=3,
            positions=Learned(size=40),
            norm_order="pre",
            norm=LayerNorm(epsilon=1e-5),
            feed_forward=FeedForward(activation="gelu_tanh"),
            embedding_scale="none",
        ),
        objective=Objective(kind="causal_lm"),
    )
    data_info = DataInfo(known.size, known.size, known.size, known.size)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(np.float32), convert.shapes(config, data_info))
    huggingface.write(tmp_path / "out", config, data_info, params, {"text": known})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the small cat über"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == known.encode(text) and tokenizer.decode(ids) == text
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        said = model(torch.tensor([ids])).logits.numpy()
    found = dataclasses.replace(huggingface.read(tmp_path / "out"), params=params)
    source = np.array([ids])
    mine = theirs.ours(found)(source, np.ones_like(source), source, np.ones_like(source), np.zeros_like(source))
    np.testing.assert_allclose(mine, said, atol=1e-4)


NASTY = [
    *TEXTS,
    " ends ",
    "ÀÉ naïve CAT",
    "ﬁ\u0301 x\u200by",
    "a\tb\u00a0c",
    "[cat] <thing>",
    "１２ ½",
    "日本\u3000語",
    "",
    " ",
]


@pytest.mark.parametrize("old", [False, True], ids=["tokenizer.json", "older files"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bert", {}),
        ("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
        ("bert", {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}),
        ("bert", {"strip_accents": False}),
        ("gpt2", {}),
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
        ("bart", {}),
        ("bart", {"tokenizer_class": "BartTokenizerFast", "add_prefix_space": True}),
        ("opt", {}),
        ("electra", {"tokenizer_class": "ElectraTokenizer"}),
        ("electra", {"tokenizer_class": "ElectraTokenizerFast", "do_lower_case": False}),
    ],
)
def test_settings_that_contradict_tokenizer_json_and_older_folders_give_their_ids(tmp_path, name, settings, old):
    special = {"gpt2": ["<|endoftext|>"]}.get(name, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made = folders.word_pieces() if name in ("bert", "electra") else folders.byte_bpe(special)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    folders.write_old(tmp_path, json.loads(made.to_str())) if old else made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = vocabularies.read(tmp_path, name, 1000)[0]["joint"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in NASTY:
        assert tokenizer(text, add_special_tokens=False).input_ids == ours.encode(text), text
    assert tokenizer("").input_ids == ours.around


@pytest.mark.parametrize("old", [False, True], ids=["tokenizer.json", "older files"])
@pytest.mark.parametrize("flags", [{"lstrip": True, "normalized": True}, {"rstrip": True}, {"single_word": True}, {}], ids=str)
@pytest.mark.parametrize("name", ["bart", "bert"])
def test_a_mask_is_found_in_text_as_its_flags_say(tmp_path, name, flags, old):
    made = folders.word_pieces() if name == "bert" else folders.byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    mask = "[MASK]" if name == "bert" else "<mask>"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    folders.write_old(tmp_path, json.loads(made.to_str())) if old else made.save(str(tmp_path / "tokenizer.json"))
    entry = {"content": mask} | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | flags
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": entry}))
    ours = vocabularies.read(tmp_path, name, 1000)[0]["joint"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (f"the {mask} cat", f"the{mask}cat", f"{mask}", f"a  {mask}  {mask}, b"):
        said = ours.encode_with(text, {mask: tokenizer.mask_token_id})
        assert tokenizer(text, add_special_tokens=False).input_ids == said, text
