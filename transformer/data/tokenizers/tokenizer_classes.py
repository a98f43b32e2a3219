"""The tokenizer classes of Hugging Face's Transformers: combine a folder's files in one `tokenizer.json`, as these classes do.

A class such as BertTokenizer takes the entries from `tokenizer.json` and the rest (normalization, splitting, special tokens
around a text) from `tokenizer_config.json`. If the two contradict each other, the settings are used. The general class uses
`tokenizer.json` unchanged. For a class that is not known here, a contradiction is an error.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from transformer.data.tokenizers import piece_classes
from transformer.data.tokenizers.tokenizer_parts import (
    Contradiction,
    Described,
    Settings,
    added_token,
    described_as,
    flags,
    known_token,
    template,
    token,
)

GENERAL = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
ROLES = ("unk_token", "pad_token", "bos_token", "eos_token", "cls_token", "sep_token", "mask_token")


def class_name(settings: Settings) -> str:
    """The class that the settings name; a class and its "Fast" variant are the same."""
    return str(settings.get("tokenizer_class") or GENERAL[0]).removesuffix("Fast")


def resolved(described: Mapping[str, Any], settings: Settings) -> Described:
    """The `tokenizer.json` with which the class named in the settings works. Contradiction if the class cannot use the
    files.
    """
    name = class_name(settings)
    build = _BUILDERS.get(name)
    if build is None:
        if name not in GENERAL:
            _check(described, settings, name)
        return _with_special(described, settings, {})
    kind, model = _MODELS[name], described["model"]
    if model.get("type", kind) != kind:
        raise Contradiction(
            f"its tokenizer's class is {name}, which is {kind}, and tokenizer.json is {model['type']}; to take that as it is, "
            "set tokenizer_class in tokenizer_config.json to PreTrainedTokenizerFast"
        )
    defaults = default_tokens(settings)
    return _with_special(dict(described) | build(described, settings, defaults), settings, defaults)


def check_class(settings: Settings, files: str) -> None:
    """Raises Contradiction if `files` have only entries, and the class that says how text is split is not known here."""
    if (name := class_name(settings)) not in _BUILDERS:
        raise Contradiction(
            f"a tokenizer of class {name} needs tokenizer.json, because {files} alone does not say how text is split; write it "
            "with save_pretrained of the tokenizer in Transformers"
        )


def matching(described: Mapping[str, Any], tokens: Mapping[int, str]) -> Described:
    """A `tokenizer.json` that finds these tokens in text, even if special tokens are otherwise read as text."""
    added = {entry["id"]: entry for entry in described.get("added_tokens") or ()}
    added |= {number: added.get(number, added_token(number, name)) | {"special": False} for number, name in tokens.items()}
    return dict(described) | {"added_tokens": [added[number] for number in sorted(added)]}


def default_tokens(settings: Settings) -> Mapping[str, str]:
    """The default special tokens of the class by role, for roles that the settings do not name."""
    return _DEFAULTS.get(class_name(settings), {})


def from_word_pieces(entries: Iterable[str]) -> Described:
    """A `tokenizer.json` from the lines of a `vocab.txt` (WordPiece), not yet resolved."""
    return described_as({"type": "WordPiece", "vocab": {entry: number for number, entry in enumerate(entries)}})


def from_merges(entries: Mapping[str, int], lines: Iterable[str]) -> Described:
    """A `tokenizer.json` from `vocab.json` and the lines of `merges.txt` (byte-level BPE), not yet resolved."""
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    return described_as({"type": "BPE", "vocab": dict(entries), "merges": merges})


def from_bytes(settings: Settings) -> Described:
    """The `tokenizer.json` of ByT5, which has no file of entries (Xue et al. 2022): byte b has the id b + 3, then follow extra
    ids.
    """
    entries = {
        name: number
        for number, name in enumerate(piece_classes.T5_TOKENS[role] for role in ("pad_token", "eos_token", "unk_token"))
    }
    entries |= {letter: len(entries) + byte for byte, letter in enumerate(byte_letters())}
    extra = int(settings.get("extra_ids", 125))
    added = [added_token(number, name) for name, number in entries.items() if len(name) > 1]
    added += [added_token(len(entries) + k, f"<extra_id_{k}>") for k in range(extra)]
    flags = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return described_as({"type": "BPE", "vocab": entries, "merges": []}) | {
        "added_tokens": added,
        "pre_tokenizer": flags,
        "decoder": flags,
        "post_processor": template([], [piece_classes.T5_TOKENS["eos_token"]], [], entries),
    }


def byte_letters() -> list[str]:
    """The letter for each byte (Radford et al. 2019): the byte itself if it is printable, else a letter beyond Latin-1."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


# --- classes -----------------------------------------------------------------------------------------------------------


def _bert(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    vocab = described["model"]["vocab"]
    special = {"unk_token": token(settings, "unk_token", defaults["unk_token"]), "continuing_subword_prefix": "##"}
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": bool(settings.get("do_lower_case", True)),
    }
    before, after = (known_token(settings, role, defaults, vocab) for role in ("cls_token", "sep_token"))
    return {
        "model": {"type": "WordPiece", **special, "max_input_chars_per_word": 100, "vocab": vocab},
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template([before], [after], [], vocab, second_type=1),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }


def _byte_level(described: Mapping[str, Any], settings: Settings) -> Described:
    model = described["model"]
    options = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
    options |= {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    flags = {"trim_offsets": True, "use_regex": True}
    return {
        "model": {"type": "BPE", **options, "vocab": model["vocab"], "merges": model["merges"]},
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": bool(settings.get("add_prefix_space", False)), **flags},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, **flags},
    }


def _gpt2(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    result, vocab = _byte_level(described, settings), described["model"]["vocab"]
    if described.get("post_processor") is not None or not settings.get("add_bos_token"):
        return result
    return result | {"post_processor": template([known_token(settings, "bos_token", defaults, vocab)], [], [], vocab)}


def _roberta(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    vocab = described["model"]["vocab"]
    before, after = (known_token(settings, role, defaults, vocab) for role in ("cls_token", "sep_token"))
    return _byte_level(described, settings) | {
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [after, vocab[after]],
            "cls": [before, vocab[before]],
            "trim_offsets": bool(settings.get("trim_offsets", True)),
            "add_prefix_space": bool(settings.get("add_prefix_space", False)),
        }
    }


_BYTE_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"}
_BYTE_TOKENS |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
_PIECE_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
_PIECE_TOKENS |= {"cls_token": "[CLS]", "mask_token": "[MASK]"}
_TEXT_TOKENS = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")

_BUILDERS: dict[str, piece_classes.Builder] = piece_classes.BUILDERS | {
    "BertTokenizer": _bert,
    "DistilBertTokenizer": _bert,
    "ElectraTokenizer": _bert,
    "GPT2Tokenizer": _gpt2,
    "RobertaTokenizer": _roberta,
    "BartTokenizer": _roberta,
    "ByT5Tokenizer": lambda described, settings, defaults: {},
}
_MODELS = piece_classes.MODELS | {"BertTokenizer": "WordPiece", "DistilBertTokenizer": "WordPiece", "GPT2Tokenizer": "BPE"}
_MODELS |= {"ElectraTokenizer": "WordPiece", "RobertaTokenizer": "BPE", "BartTokenizer": "BPE", "ByT5Tokenizer": "BPE"}
_DEFAULTS = piece_classes.DEFAULTS | {
    "BertTokenizer": _PIECE_TOKENS,
    "DistilBertTokenizer": _PIECE_TOKENS,
    "ElectraTokenizer": _PIECE_TOKENS,
    "GPT2Tokenizer": _TEXT_TOKENS,
}
_DEFAULTS |= {"RobertaTokenizer": _BYTE_TOKENS, "BartTokenizer": _BYTE_TOKENS, "ByT5Tokenizer": piece_classes.T5_TOKENS}
# The class for each type of model, if no file names a class.
CLASSES = {"bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "bart": "BartTokenizer", "t5": "T5Tokenizer"}
CLASSES |= {"distilbert": "DistilBertTokenizer", "electra": "BertTokenizer", "roberta": "RobertaTokenizer"}
CLASSES |= {"xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer", "pegasus": "PegasusTokenizer"}
CLASSES |= {"mbart": "MBartTokenizer", "opt": "GPT2Tokenizer"}


def _with_special(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    """Adds the tokens of the settings, and marks the tokens that have a role as special."""
    vocab, added = described["model"]["vocab"], {entry["content"]: entry for entry in described.get("added_tokens") or ()}
    ids = vocab if isinstance(vocab, Mapping) else {entry: number for number, (entry, _) in enumerate(vocab)}
    listed = settings.get("added_tokens_decoder") or {}
    for number, entry in sorted((int(number), entry) for number, entry in listed.items()):
        if entry["content"] not in added and ids.get(entry["content"], number) == number:
            added[entry["content"]] = added_token(number, entry["content"]) | dict(entry)
    for role in ROLES:
        name = token(settings, role, defaults.get(role))
        if name is None:
            continue
        if name in added:
            added[name] = added[name] | {"special": True}
        elif name in ids:
            added[name] = added_token(ids[name], name) | flags(settings, role)
    return dict(described) | {"added_tokens": sorted(added.values(), key=lambda entry: entry["id"])}


def _check(described: Mapping[str, Any], settings: Settings, name: str) -> None:
    """Raises Contradiction if the settings contradict `tokenizer.json` and the class is not known."""
    found = {}
    for part in (*_parts(described.get("normalizer")), *_parts(described.get("pre_tokenizer"))):
        if part["type"] == "BertNormalizer":
            found |= {"do_lower_case": part["lowercase"], "strip_accents": part["strip_accents"]}
        elif part["type"] == "ByteLevel":
            found["add_prefix_space"] = part["add_prefix_space"]
    for setting, value in found.items():
        if settings.get(setting, value) != value:
            raise Contradiction(
                f"{setting} is {settings[setting]!r} in tokenizer_config.json and {value!r} in tokenizer.json, and the class "
                f"{name} is not known; correct one of the files"
            )


def _parts(described: Any) -> list[Described]:
    """A normalizer or pre-tokenizer, and its components."""
    if not described:
        return []
    inner = [*(described.get("normalizers") or ()), *(described.get("pretokenizers") or ())]
    return [described, *(part for each in inner for part in _parts(each))]
