"""A vocabulary that was trained here, exported: Transformers' AutoTokenizer gives the ids that the model was trained on."""

import dataclasses
import functools
import json

import folders
import pytest

transformers = pytest.importorskip("transformers")

from transformer.components.positions import Learned  # noqa: E402
from transformer.config import Config, Data, DataInfo, Model  # noqa: E402
from transformer.data.tokenizers import training  # noqa: E402
from transformer.interop import vocabularies  # noqa: E402

NASTY = ["", " ", "  the   cat ", "\u2581the cat", "two\nlines", "two \r\n lines\n", "\n\n", "a\tb\u00a0c", "CAT, (dog)"]
NASTY += ["na\u00efve caf\u00e9 e\u0301e\u0301", "\ufb01ne \u00bd", "\uff11\uff12", "x\u200by", "\u65e5\u672c\u3000\u8a9e"]
NASTY += ["\U0001f600!", "\x00\x07"]
FAMILIES = {"bert": "encoder_only", "gpt2": "decoder_only"}


@functools.cache
def trained(kind: str, normalization: str):
    texts = [*folders.TEXTS, "Gr\u00f6\u00dfe \ufb01 \u00e9, 1 2\nnew\r\nline", "\u65e5\u672c (x)"]
    data = dataclasses.replace(Data(), vocabulary=kind, vocabulary_size=110, normalization=normalization)
    return training.train(data, texts, lambda line: None)


def exported(folder, model_type, known, mask=False, lowercase=False):
    """The folder's tokenizer, as Transformers loads it."""
    size = known.size + mask
    data_info = DataInfo(size, size, size, size, mask=known.size if mask else None)
    config = Config(
        family=FAMILIES.get(model_type, "encoder_decoder"),
        model=Model(positions=Learned(size=40)),
        data=Data(max_source_length=40, lowercase=lowercase),
    )
    vocabularies.write(folder, config, model_type, known, known, data_info)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("normalization", ["nmt_nfkc", "identity"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ids_of_pieces_are_those_of_training(tmp_path, kind, normalization):
    known = trained(kind, normalization)
    tokenizer = exported(tmp_path, "bert", known)
    again = vocabularies.read(tmp_path, "t5", 1000)[0]["joint"]
    for text in [*NASTY, *folders.TEXTS[:40]]:
        ids = known.encode(text)
        assert tokenizer(text, add_special_tokens=False).input_ids == ids == again.encode(text), ascii(text)
        if "\u2581" not in text:  # which stands for a space
            assert tokenizer.decode([i for i in ids if i != 3]) == known.decode(ids), ascii(text)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "characters", "bytes"])
def test_texts_are_converted_to_lower_case_as_in_training(tmp_path, kind):
    known = trained(kind, "nmt_nfkc")
    tokenizer = exported(tmp_path, "bert", known, lowercase=True)
    for text in [*NASTY, *(text.upper() for text in folders.TEXTS[:10]), "GR\u00d6\u00dfE \u00c9 \u0130"]:
        assert tokenizer(text, add_special_tokens=False).input_ids == known.encode(text.lower()), ascii(text)


@pytest.mark.parametrize(
    ("model_type", "single", "pair"),
    [
        ("bert", "1 A 2", ("1 A 2 B 2", "0 0 0 1 1")),
        ("gpt2", "1 A", None),
        ("bart", "A 2", None),
        ("t5", "A 2", None),
    ],
)
def test_special_tokens_stand_where_the_model_reads_them(tmp_path, model_type, single, pair):
    known = trained("bpe", "nmt_nfkc")
    mask = model_type == "bert"
    tokenizer = exported(tmp_path, model_type, known, mask)
    first, second = (known.encode(text) for text in ("the cat", "a dog"))

    def ids(pattern, **parts):
        return [number for part in pattern.split() for number in parts.get(part, [part])]

    assert tokenizer("the cat").input_ids == list(map(int, ids(single, A=first)))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 2, 3)
    assert tokenizer.mask_token_id == (known.size if mask else None) and tokenizer.model_max_length == 40
    assert tokenizer.decode(tokenizer("the cat").input_ids, skip_special_tokens=True) == "the cat"
    if pair is not None:
        said, types = tokenizer("the cat", "a dog"), {"A": first, "B": second}
        assert said.input_ids == list(map(int, ids(pair[0], **types)))
        places = [n for n, part in zip(pair[1].split(), pair[0].split(), strict=True) for _ in types.get(part, [part])]
        assert said.token_type_ids == list(map(int, places))
        assert tokenizer("the cat <mask>").input_ids[-2] == tokenizer.mask_token_id
