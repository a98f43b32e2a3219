"""The vocabularies of a folder of Transformers: `tokenizer.json`, `spiece.model`, or Marian's three files; in and out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer.config import Facts
from transformer.data.imported_vocabulary import Marian, Tokenizer
from transformer.data.vocabulary import SPECIAL, UNKNOWN, Bytes, Characters, SentencePiece, Vocabulary
from transformer.errors import UserError
from transformer.interop.tensors import read_json

FILE, PIECES = "tokenizer.json", "spiece.model"
PAIR = ("source.spm", "target.spm")
# Names of the special tokens, where neither tokenizer_config.json nor special_tokens_map.json says them.
TOKENS = {
    "bert": {"unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "bart": {"unk_token": "<unk>", "mask_token": "<mask>"},
    "t5": {"unk_token": "<unk>"},
    "gpt2": {"unk_token": "<|endoftext|>"},
}
SENTINELS = 100  # of T5, where its file says nothing
CLASSES = {"t5": "T5Tokenizer", "marian": "MarianTokenizer"}


def read(folder: Path, model_type: str, rows: int) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    """Vocabularies by name ("joint", or "source" and "target"), and what Facts they tell. `rows`: of the source's table.

    UserError: there are none, or they are damaged.
    """
    try:
        if model_type == "marian":
            return _read_marian(folder)
        if (path := folder / FILE).is_file():
            return _read_tokenizer(folder, Tokenizer(path.read_text(encoding="utf-8")), model_type)
        if (path := folder / PIECES).is_file():
            return _read_pieces(folder, SentencePiece(path.read_bytes()), model_type, rows)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {error}); fetch it again") from error
    raise UserError(f"{folder}: there is no tokenizer; wants {FILE}, or {PIECES}")


def _read_tokenizer(folder: Path, made: Tokenizer, model_type: str) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    names, ids = TOKENS.get(model_type, {}) | _named(folder), {token: number for number, token in made.tokens.items()}
    special = {role: ids[token] for role, token in names.items() if token in ids}
    facts = {"source_size": made.size, "target_size": made.size}
    unknown = special.get("unk_token", made.unknown)
    if unknown is not None:
        facts["unknown"] = unknown
    if "mask_token" in special:
        facts["mask"] = special["mask_token"]
    if model_type == "bert":
        for role, fact in (("cls_token", "begin"), ("sep_token", "end"), ("mask_token", "mask")):
            if role not in special:
                raise UserError(f"{folder / FILE}: it has no token {names[role]} ({role})")
            facts[fact] = special[role]
        facts["start"] = facts["begin"]
    if model_type == "t5":
        count = sum(token.startswith("<extra_id_") for token in ids)
        in_order = all(ids.get(f"<extra_id_{k}>") == made.size - 1 - k for k in range(count))
        facts["sentinels"] = count if in_order else 0
    return {"joint": made}, facts


def _read_pieces(folder: Path, made: SentencePiece, model_type: str, rows: int) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    sentinels = _settings(folder).get("extra_ids", SENTINELS) if model_type == "t5" else 0
    sentinels = sentinels if made.size + sentinels <= rows else 0
    size = made.size + sentinels
    facts = {"source_size": size, "target_size": size, "sentinels": sentinels, "unknown": made.processor.unk_id()}
    return {"joint": made}, facts


def _read_marian(folder: Path) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    lacking = [name for name in (*PAIR, "vocab.json") if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{folder}: there is no {lacking[0]}; a Marian tokenizer is {', '.join(PAIR)} and vocab.json")
    source, target = ((folder / name).read_bytes() for name in PAIR)
    ids = read_json(folder / "vocab.json")
    own = folder / "target_vocab.json"
    target_ids = read_json(own) if own.is_file() else ids
    made = {"source": Marian(source, ids), "target": Marian(target, target_ids)}
    return dict(made), {"source_size": made["source"].size, "target_size": made["target"].size, "unknown": ids["<unk>"]}


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _named(folder: Path) -> dict[str, str]:
    """Special tokens by role, such as {"mask_token": "<mask>"}."""
    path = folder / "special_tokens_map.json"
    said = (read_json(path) if path.is_file() else {}) | _settings(folder)
    tokens = {role: value.get("content") if isinstance(value, dict) else value for role, value in said.items()}
    return {role: value for role, value in tokens.items() if role.endswith("_token") and isinstance(value, str)}


def write(folder: Path, model_type: str, source: Vocabulary, target: Vocabulary, facts: Facts) -> None:
    """Writes the tokenizer's files. UserError: two vocabularies where Transformers has one."""
    described: dict[str, Any] = {}
    if model_type == "marian":
        _write_marian(folder, source, target)
        described = {"separate_vocabs": (folder / "target_vocab.json").exists()}
    elif source is not target:
        raise UserError(f"a {model_type} model of Transformers has one vocabulary, and this one has two; it cannot be written")
    elif isinstance(source, SentencePiece):
        (folder / PIECES).write_bytes(source.model)
        described = {"extra_ids": facts.sentinels}
    else:
        (folder / FILE).write_text(tokenizer_json(source), encoding="utf-8")
    known = {"pad_token": facts.pad, "eos_token": facts.end, "unk_token": facts.unknown, "mask_token": facts.mask}
    known |= {"cls_token": facts.begin, "sep_token": facts.end} if model_type == "bert" else {"bos_token": facts.begin}
    if model_type == "gpt2":
        known["bos_token"] = facts.start
    tokens = {role: source.pieces([i])[0] for role, i in known.items() if i is not None and i < source.size}
    kind = CLASSES.get(model_type) if not (folder / FILE).exists() else "PreTrainedTokenizerFast"
    described |= tokens | ({} if kind is None else {"tokenizer_class": kind})
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_marian(folder: Path, *sides: Vocabulary) -> None:
    tables = []
    for name, side in zip(PAIR, sides, strict=True):
        if not isinstance(side, Marian | SentencePiece):
            raise UserError(f"a Marian tokenizer is of sentencepiece, and this vocabulary is of {type(side).__name__}")
        (folder / name).write_bytes(side.model)
        tables.append(side.ids if isinstance(side, Marian) else _ids(side))
    (folder / "vocab.json").write_text(json.dumps(tables[0], indent=2, ensure_ascii=False), encoding="utf-8")
    if tables[1] != tables[0]:
        (folder / "target_vocab.json").write_text(json.dumps(tables[1], indent=2, ensure_ascii=False), encoding="utf-8")


def _ids(side: SentencePiece) -> Mapping[str, int]:
    return {piece: number for number, piece in enumerate(side.pieces(range(side.size)))}


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """The `tokenizer.json` of a vocabulary: what it came from, or, of bytes and characters, one that says the same."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    if isinstance(vocabulary, Tokenizer):
        return vocabulary.text
    entries = dict(zip(SPECIAL, range(len(SPECIAL)), strict=True))
    if isinstance(vocabulary, Bytes):
        letters = _byte_letters()
        made = Library(models.BPE(entries | {letters[b]: len(SPECIAL) + b for b in range(256)}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
    elif isinstance(vocabulary, Characters):
        made = Library(models.BPE(entries | vocabulary.ids, [], unk_token=SPECIAL[UNKNOWN]))
        made.decoder = decoders.Fuse()
    else:
        raise TypeError(type(vocabulary))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made.to_str(pretty=True)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte (Radford et al. 2019): itself where it can be seen, else one past Latin-1."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]
