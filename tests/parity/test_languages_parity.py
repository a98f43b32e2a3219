"""Models of many languages: sources, codes and outputs, greedy and by beam search, are those of Transformers."""

import json
import re

import folders
import pytest
import small
import trained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("google.protobuf")

import theirs  # noqa: E402  (it imports both)

from transformer.inference import predict  # noqa: E402
from transformer.interop import huggingface  # noqa: E402

TEXTS = ["the cat", "a small bird sees the mouse"]
NAMES = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
# name -> (model, tokenizer's class, codes of three languages, of which the folder names the first and the second)
KINDS = {
    "nllb": ("m2m_100", "NllbTokenizer", ("eng_Latn", "fra_Latn", "deu_Latn")),
    "nllb, any class": ("m2m_100", "PreTrainedTokenizerFast", ("eng_Latn", "fra_Latn", "deu_Latn")),
    "m2m": ("m2m_100", "M2M100Tokenizer", ("en", "fr", "de")),
    "mbart-50": ("mbart", "MBart50Tokenizer", ("en_XX", "ro_RO", "de_DE")),
    "mbart-cc25": ("mbart", "MBartTokenizer", ("en_XX", "ro_RO", "de_DE")),
}


def write_tokenizer(folder, kind, codes):
    """Of NLLB a tokenizer.json; of the others a sentencepiece model, to which the class adds its codes."""
    described = {"tokenizer_class": kind, "model_max_length": 30, **NAMES}
    if kind == "PreTrainedTokenizerFast":
        made = folders.byte_bpe(["<s>", "<pad>", "</s>", "<unk>", *codes])
        folders.between(made, codes[0], "</s>").save(str(folder / "tokenizer.json"))
    elif kind == "NllbTokenizer":
        made = folders.byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        vocab = json.loads(made.to_str())["model"]["vocab"]
        entries = [entry.replace("\u0120", "\u2581") for entry in vocab]  # blanks are those of sentencepiece
        merges = [[entry[:1], entry[1:]] for entry in entries if len(entry) == 2]
        entries = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
        transformers.NllbTokenizer(
            vocab=entries, merges=list(map(tuple, merges)), extra_special_tokens=list(codes)
        ).save_pretrained(folder)
        described |= json.loads((folder / "tokenizer_config.json").read_text())
    else:
        made = folders.pieces(folder / "sentencepiece.bpe.model", pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
        entries = ["<s>", "<pad>", "</s>", "<unk>", *map(made.IdToPiece, range(3, made.GetPieceSize()))]
        if kind == "M2M100Tokenizer":
            (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "config.json").write_text(json.dumps({"model_type": "mbart" if "MBart" in kind else "m2m_100"}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def rows(name, tokenizer):
    return len(tokenizer) + (100 if name == "m2m" else 0)  # whose codes are not counted


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("name", small.some(KINDS, "nllb, any class", "mbart-cc25", others=pytest.mark.slow))
def test_translations_are_theirs_in_any_direction(tmp_path, name, beam):
    kind, tokenizer_class, codes = KINDS[name]
    (tmp_path / "a").mkdir()
    tokenizer = write_tokenizer(tmp_path / "a", tokenizer_class, codes)
    number = tokenizer.get_lang_id if tokenizer_class == "M2M100Tokenizer" else tokenizer.convert_tokens_to_ids
    ids = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
    asked = "forced_bos_token_id" if name != "mbart-cc25" else "decoder_start_token_id"  # which has it in front of the output
    ids |= {} if name != "mbart-cc25" else {"decoder_start_token_id": number(codes[1])}
    model = theirs.make(kind, vocab_size=rows(name, tokenizer), decoder_layers=3, **ids)
    model.generation_config.forced_eos_token_id = None
    model.save_pretrained(tmp_path / "a")
    generation = {**ids, asked: number(codes[1]), "max_length": 12, "num_beams": beam, "early_stopping": True}
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps(generation))
    imported = trained.command("--mode=import", f"--source={tmp_path / 'a'}", f"--workdir={tmp_path / 'run'}")
    assert imported.status == 0, imported
    for source, target in ((0, 1), (0, 2), (2, 1)):
        search = (
            {"search.source_code": codes[source], "search.target_code": codes[target]} if (source, target) != (0, 1) else {}
        )
        found = predict.load(tmp_path / "run", search).translate(TEXTS)
        if tokenizer_class != "PreTrainedTokenizerFast":
            tokenizer.src_lang = codes[source]
        for text, mine in zip(TEXTS, found, strict=True):
            given = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            if tokenizer_class == "PreTrainedTokenizerFast":
                given["input_ids"][0, 0] = number(codes[source])
            said = model.generate(**given, **generation | {asked: number(codes[target])})[0]
            wanted = re.sub("__[a-z]+__", "", tokenizer.decode(said, skip_special_tokens=True))  # M2M-100's codes stay there
            assert (mine[0].text if isinstance(mine, list) else mine).strip() == wanted.strip()


@pytest.mark.parametrize("name", small.some(KINDS, "mbart-cc25", others=pytest.mark.slow))
def test_an_export_reads_sources_in_the_language_that_was_chosen(tmp_path, name):
    kind, tokenizer_class, codes = KINDS[name]
    (tmp_path / "a").mkdir()
    tokenizer = write_tokenizer(tmp_path / "a", tokenizer_class, codes)
    model = theirs.make(kind, vocab_size=rows(name, tokenizer), pad_token_id=1, eos_token_id=2, bos_token_id=0)
    model.save_pretrained(tmp_path / "a")
    run = f"--workdir={tmp_path / 'run'}"
    chosen = f"--config.search.source_code={codes[2]}"
    assert trained.command("--mode=import", f"--source={tmp_path / 'a'}", run, chosen).status == 0
    assert trained.command("--mode=export", run, f"--output={tmp_path / 'b'}").status == 0
    written = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    number = tokenizer.get_lang_id if tokenizer_class == "M2M100Tokenizer" else tokenizer.convert_tokens_to_ids
    before = tokenizer("the cat").input_ids
    wanted = [number(codes[2]) if token == number(codes[0]) else token for token in before]
    assert written("the cat").input_ids == wanted != before
    again = huggingface.read(tmp_path / "b").data_info
    assert (again.begin, again.code) == ((None, number(codes[2])) if name == "mbart-cc25" else (number(codes[2]), None))
