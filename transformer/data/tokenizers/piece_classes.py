"""The tokenizer classes of Transformers whose vocabularies are sentencepiece models: T5, XLM-RoBERTa, CamemBERT, Pegasus,
mBART, mBART-50 and NLLB.

Each class reads the entries and the table of character replacements from the folder. The class itself defines how text is split
and which special tokens are added. For a multilingual model, `src_lang` in `tokenizer_config.json` names the language code that
is added to a text.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformer.data.tokenizers.tokenizer_parts import (
    Described,
    Settings,
    added_token,
    described_as,
    known_token,
    template,
    token,
)

Builder = Callable[[Mapping[str, Any], Settings, Mapping[str, str]], Described]
BLANKS = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}  # several spaces become one
LINES = {"type": "Replace", "pattern": {"Regex": "\n"}, "content": " "}
WORDS = {"type": "WhitespaceSplit"}
_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO "
    "ru_RU si_LK tr_TR vi_VN zh_CN"
)
_MBART_50 = (
    f"{_MBART} af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE "
    "ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
MBART, MBART_50 = _MBART.split(), _MBART_50.split()
OFFSET = 103  # of Pegasus: ids before the entries of its sentencepiece model, less two

T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_TOKENS = {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", **T5_TOKENS}
DEFAULTS: dict[str, Mapping[str, str]] = {
    "T5Tokenizer": T5_TOKENS,
    "PegasusTokenizer": {**T5_TOKENS, "mask_token": "<mask_2>"},
    "MBart50Tokenizer": {role: name for role, name in _TOKENS.items() if role != "bos_token"},
}
DEFAULTS |= dict.fromkeys(("XLMRobertaTokenizer", "CamembertTokenizer", "MBartTokenizer", "NllbTokenizer"), _TOKENS)
LANGUAGES = {"MBartTokenizer": "en_XX", "MBart50Tokenizer": "en_XX", "NllbTokenizer": "eng_Latn"}  # where no file names one


def _space(first: bool = True) -> Described:
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always" if first else "never", "split": True}


def _entries(described: Mapping[str, Any]) -> dict[str, int]:
    vocab = described["model"]["vocab"]
    return dict(vocab) if isinstance(vocab, Mapping) else {entry: number for number, (entry, _) in enumerate(vocab)}


def _charsmap(described: Mapping[str, Any]) -> list[Described]:
    """The table of characters that are normalised, if there is one."""
    normalizer = described.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    return [part for part in parts if part.get("type") == "Precompiled"][:1]


def _sequence(parts: Iterable[Described]) -> Described | None:
    parts = list(parts)
    return {"type": "Sequence", "normalizers": parts} if parts else None


def _unigram(described: Mapping[str, Any], unknown: int, *splits: Described, first: bool = True) -> Described:
    """The parts that all of them have. `first`: a blank is put before a text."""
    return {
        "model": described["model"] | {"unk_id": unknown, "byte_fallback": False},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, _space(first)]},
        "decoder": _space(first),
    }


def _t5(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    entries = _entries(described)
    return _unigram(described, 2, WORDS) | {
        "normalizer": next(iter(_charsmap(described)), None),
        "post_processor": template([], [known_token(settings, "eos_token", defaults, entries)], [], entries),
    }


def _pegasus(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    entries, charsmap = _entries(described), _charsmap(described)
    end, unknown = (known_token(settings, role, defaults, entries) for role in ("eos_token", "unk_token"))
    return _unigram(described, entries[unknown]) | {
        "normalizer": _sequence([*(charsmap or [LINES]), BLANKS]),
        "post_processor": template([], [end], [], entries),
    }


def _xlm_roberta(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    entries = _entries(described)
    begin, end, unknown = (known_token(settings, role, defaults, entries) for role in ("bos_token", "eos_token", "unk_token"))
    return _unigram(described, entries[unknown], WORDS, first=bool(settings.get("add_prefix_space", True))) | {
        "normalizer": next(iter(_charsmap(described)), None),
        "post_processor": template([begin], [end], [end], entries),
    }


def _mbart(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    """The code stands behind a text, and text is not normalised."""
    return _unigram(described, 3, WORDS) | {"normalizer": None, "post_processor": _coded(described, settings, defaults, True)}


def _mbart_50(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    return _unigram(described, 3) | {
        "normalizer": _sequence([*_charsmap(described), BLANKS]),
        "post_processor": _coded(described, settings, defaults, False),
    }


def _nllb(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str]) -> Described:
    charsmap = _charsmap(described)
    unknown = token(settings, "unk_token", defaults["unk_token"])
    return {
        "model": described["model"] | {"unk_token": unknown, "fuse_unk": True, "byte_fallback": False, "dropout": None},
        "normalizer": _sequence([*charsmap, BLANKS] if charsmap else []),
        "pre_tokenizer": _space(),
        "decoder": _space(),
        "post_processor": _coded(described, settings, defaults, bool(settings.get("legacy_behaviour"))),
    }


def _coded(described: Mapping[str, Any], settings: Settings, defaults: Mapping[str, str], behind: bool) -> Described:
    """Contradiction: `src_lang` names no entry."""
    entries = _entries(described) | {each["content"]: each["id"] for each in described.get("added_tokens") or ()}
    language = {"src_lang": LANGUAGES[str(settings["tokenizer_class"]).removesuffix("Fast")]}
    end, code = known_token(settings, "eos_token", defaults, entries), known_token(settings, "src_lang", language, entries)
    return template([], [end, code], [], entries) if behind else template([code], [end], [], entries)


BUILDERS: dict[str, Builder] = {
    "T5Tokenizer": _t5,
    "PegasusTokenizer": _pegasus,
    "XLMRobertaTokenizer": _xlm_roberta,
    "CamembertTokenizer": _xlm_roberta,
    "MBartTokenizer": _mbart,
    "MBart50Tokenizer": _mbart_50,
    "NllbTokenizer": _nllb,
}
MODELS = {name: "BPE" if name == "NllbTokenizer" else "Unigram" for name in BUILDERS}


# --- of a sentencepiece model ------------------------------------------------------------------------------------------

# Entries before those of the model, of which so many at its beginning are left out, and behind them.
_FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
_FRAMES: dict[str, tuple[list[str], int, list[str]]] = {
    "PegasusTokenizer": (["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{n}>" for n in range(2, OFFSET))], 2, []),
    "XLMRobertaTokenizer": (_FAIRSEQ, 3, ["<mask>"]),
    "CamembertTokenizer": (["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"], 1, ["<mask>"]),
    "MBartTokenizer": (_FAIRSEQ, 3, [*MBART, "<mask>"]),
    "MBart50Tokenizer": (_FAIRSEQ, 3, [*MBART_50, "<mask>"]),
}


def from_pieces(model: bytes, name: str) -> Described | None:
    """Of a sentencepiece model that a folder of the class `name` has, not yet resolved; None: it has no such file.

    ValueError: it is damaged.
    """
    if name not in _FRAMES:
        return None
    import base64

    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        found = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    except DecodeError as error:
        raise ValueError(str(error)) from error
    before, left_out, behind = _FRAMES[name]
    pieces = [[each.piece, each.score] for each in found.pieces[left_out:]]
    unlikely = {each: -100.0 for each in before if each.startswith("<unk_") or each == "<unk>NOTUSED"}
    vocab = [*([each, unlikely.get(each, 0.0)] for each in before), *pieces, *([each, 0.0] for each in behind)]
    special = {*before, *behind, *(each.piece for each in found.pieces if each.type == found.SentencePiece.CONTROL)}
    numbers = [(number, each) for number, (each, _) in enumerate(vocab) if each in special]
    charsmap = base64.b64encode(found.normalizer_spec.precompiled_charsmap).decode()
    return described_as({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}) | {
        "added_tokens": [added_token(number, each) | {"lstrip": each == "<mask>"} for number, each in numbers],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
    }
