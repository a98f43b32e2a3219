"""Tokenizers of sentencepiece's entries, from its file alone and from `tokenizer.json`: ids are those of Transformers."""

import json

import folders
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("google.protobuf")


from transformer.data import tokenizers  # noqa: E402
from transformer.interop import vocabularies  # noqa: E402

TEXTS = [*folders.TEXTS[:10], "Größe, über (12) naïve!", "a  b   c", " ﬁnd 日本 😀\n the", "", "the"]
FAIRSEQ = {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}
# class -> (model type, the file, ids of its special pieces)
CLASSES = {
    "PegasusTokenizer": ("pegasus", "spiece.model", {}),
    "XLMRobertaTokenizer": ("xlm-roberta", "sentencepiece.bpe.model", FAIRSEQ),
    "CamembertTokenizer": ("camembert", "sentencepiece.bpe.model", FAIRSEQ),
    "MBartTokenizer": ("mbart", "sentencepiece.bpe.model", FAIRSEQ),
    "MBart50Tokenizer": ("mbart", "sentencepiece.bpe.model", FAIRSEQ),
    "M2M100Tokenizer": ("m2m_100", "sentencepiece.bpe.model", FAIRSEQ),
}


def old_folder(folder, name, **settings):
    """As it was published before there was a tokenizer.json."""
    folder.mkdir()
    model_type, file, ids = CLASSES[name]
    made = folders.pieces(folder / file, **ids)
    if name == "M2M100Tokenizer":
        entries = ["<s>", "<pad>", "</s>", "<unk>", *map(made.IdToPiece, range(3, made.GetPieceSize()))]
        (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **settings}))
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_ids_are_theirs_and_go_round(tmp_path, name):
    folder, model_type = old_folder(tmp_path / "a", name), CLASSES[name][0]
    theirs_read = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(theirs_read).__name__ == name
    theirs_read.save_pretrained(tmp_path / "b")  # as Transformers writes it now
    (tmp_path / "b" / "config.json").write_text((folder / "config.json").read_text())
    for path in (folder, tmp_path / "b"):
        [made], known = (
            list(each.values()) if n == 0 else each for n, each in enumerate(vocabularies.read(path, model_type, 10**6))
        )
        made.save(tmp_path, path.name)
        again = tokenizers.load(tmp_path, path.name)
        for text in TEXTS:
            ids = made.encode(text)
            assert theirs_read(text, add_special_tokens=False).input_ids == ids == again.encode(text), text
            if name != "M2M100Tokenizer" or 3 not in ids:  # whose unknown entry they write as <unk>
                assert made.decode(ids) == theirs_read.decode(ids, skip_special_tokens=True).strip()
        whole, body = theirs_read("the cat").input_ids, made.encode("the cat")
        first = next(k for k in range(3) if whole[k : k + len(body)] == body)
        assert [*whole[:first], *whole[first + len(body) :]] == made.around
        assert known["unknown"] == theirs_read.unk_token_id


def test_a_pegasus_is_not_read_without_its_offset(tmp_path):
    [made] = vocabularies.read(old_folder(tmp_path / "a", "PegasusTokenizer"), "pegasus", 10**6)[0].values()
    assert made.pieces([0, 1, 2, 3, 105]) == ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk>"]
