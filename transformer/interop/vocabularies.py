"""The vocabularies of a folder of Transformers, in and out.

`tokenizer.json`, a sentencepiece model, Marian's three files, M2M-100's two, or what older folders have: `vocab.txt`,
`vocab.json` and `merges.txt`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer.config import Config, DataInfo
from transformer.data.tokenizers import piece_classes, tokenizer_classes
from transformer.data.tokenizers.imported import M2M100, Marian, Tokenizer
from transformer.data.tokenizers.vocabulary import Bytes, Characters, SentencePiece, Vocabulary
from transformer.errors import UserError
from transformer.interop import tokenizer_json
from transformer.interop.formats import FORMATS
from transformer.interop.seq2seq import CODED
from transformer.interop.tensors import read_json

FILE, PIECES = "tokenizer.json", "spiece.model"
PIECES_OF_DECODERS = "tokenizer.model"  # Llama, Mistral, Gemma
PIECES_OF_FAIRSEQ = "sentencepiece.bpe.model"  # XLM-R, CamemBERT, mBART, M2M-100
WORD_PIECES, ENTRIES, MERGES = "vocab.txt", "vocab.json", "merges.txt"  # of folders older than tokenizer.json
PAIR = ("source.spm", "target.spm")
# Names of the special tokens, where neither tokenizer_config.json nor special_tokens_map.json says them.
TOKENS = {
    "bert": {"unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "bart": {"unk_token": "<unk>", "mask_token": "<mask>"},
    "t5": {"unk_token": "<unk>"},
    "gpt2": {"unk_token": "<|endoftext|>"},
}
TOKENS |= dict.fromkeys(("distilbert", "electra", "modernbert"), TOKENS["bert"])
TOKENS |= dict.fromkeys(
    ("roberta", "xlm-roberta", "camembert"),
    {"unk_token": "<unk>", "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"},
)
GENERAL = "PreTrainedTokenizerFast"  # reads tokenizer.json as it is
# Types whose older folders have vocab.json and merges.txt
BYTE_PAIRS = ("gpt2", "bart", "roberta", "qwen2", "qwen3", "opt", "gpt_neox")
T5S = ("t5", "mt5", "umt5")
BYTES_OF_T5 = "ByT5Tokenizer"  # has no file of entries
SENTINELS = 100  # of T5, where its file says nothing
M2M100_CLASS = "M2M100Tokenizer"  # splits by sentencepiece, and has ids of its own
CLASSES = {"t5": "T5Tokenizer", "marian": "MarianTokenizer"}
CAPITALS = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ \u00c0\u00c9\u00d1\u00d6 \u0391\u0392\u0393 \u0416\u0414\u042f"  # in letters of three scripts
)
UNLIMITED = 10**9  # tokens; Transformers writes 10^30 where a tokenizer knows no limit


def read(folder: Path, model_type: str, rows: int) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    """Vocabularies by name ("joint", or "source" and "target"), and what DataInfo they tell. `rows`: of the source's table.

    UserError: there are none, or they are damaged.
    """
    try:
        if model_type == "marian":
            return _read_marian(folder)
        if tokenizer_classes.class_name(_settings(folder, model_type)) == M2M100_CLASS and not (folder / FILE).is_file():
            return _read_m2m_100(folder, model_type)
        if (text := _tokenizer_text(folder, model_type)) is not None:
            return _read_tokenizer(folder, Tokenizer(text, _settings(folder, model_type)), model_type)
        if (path := folder / PIECES).is_file() or (path := folder / PIECES_OF_DECODERS).is_file():
            return _read_pieces(folder, SentencePiece(path.read_bytes()), model_type, rows)
    except tokenizer_classes.Contradiction as error:
        raise UserError(f"{folder}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {error}); fetch it again") from error
    files = f"{FILE}, {PIECES}, {PIECES_OF_DECODERS}, {PIECES_OF_FAIRSEQ}, {WORD_PIECES}, or {ENTRIES} and {MERGES}"
    raise UserError(f"{folder}: there is no tokenizer; wants {files}")


def longest(folder: Path) -> int | None:
    """Tokens of a text at most, as `tokenizer_config.json` says; none: it knows no limit."""
    value = _config(folder).get("model_max_length")
    return int(value) if isinstance(value, int | float) and 2 <= value < UNLIMITED else None


def _tokenizer_text(folder: Path, model_type: str) -> str | None:
    """`tokenizer.json`, or what an older folder has in its place as one."""
    if (path := folder / FILE).is_file():
        return path.read_text(encoding="utf-8")
    if tokenizer_classes.class_name(_settings(folder, model_type)) == BYTES_OF_T5:
        described = tokenizer_classes.from_bytes(_settings(folder, model_type))
    elif model_type in ("bert", "distilbert", "electra") and (path := folder / WORD_PIECES).is_file():
        tokenizer_classes.check_class(_settings(folder, model_type), WORD_PIECES)
        described = tokenizer_classes.from_word_pieces(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    elif model_type in BYTE_PAIRS and (folder / ENTRIES).is_file() and (path := folder / MERGES).is_file():
        tokenizer_classes.check_class(_settings(folder, model_type), f"{ENTRIES} with {MERGES}")
        described = tokenizer_classes.from_merges(
            read_json(folder / ENTRIES), path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        )
    elif path := next((path for name in (PIECES, PIECES_OF_FAIRSEQ) if (path := folder / name).is_file()), None):
        name = tokenizer_classes.class_name(_settings(folder, model_type))
        if (made := piece_classes.from_pieces(path.read_bytes(), name)) is None:
            return None
        described = made
    else:
        return None
    return json.dumps(tokenizer_classes.resolved(described, _settings(folder, model_type)), ensure_ascii=False)


def _read_tokenizer(folder: Path, made: Tokenizer, model_type: str) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    ids = {token: number for number, token in made.tokens.items()}
    usual = {**TOKENS.get(model_type, {}), **tokenizer_classes.default_tokens(made.settings)}
    names = {role: tokenizer_classes.token(made.settings, role, usual.get(role)) for role in tokenizer_classes.ROLES}
    special = {role: ids[token] for role, token in names.items() if token in ids}
    data_info = {"source_size": made.size, "target_size": made.size}
    unknown = special.get("unk_token", made.unknown)
    if unknown is not None:
        data_info["unknown"] = unknown
    if "mask_token" in special:
        data_info["mask"] = special["mask_token"]
    if FORMATS[model_type].family == "encoder_only":
        for role, fact in (("cls_token", "begin"), ("sep_token", "end"), ("mask_token", "mask")):
            if role not in special:
                raise UserError(f"{folder / FILE}: it has no token {names[role]} ({role})")
            data_info[fact] = special[role]
        data_info["start"] = data_info["begin"]
    if model_type in CODED:
        data_info |= _code(made.around, special.get("eos_token"), folder)
    if model_type in T5S:
        count = sum(token.startswith("<extra_id_") for token in ids)
        in_order = all(ids.get(f"<extra_id_{k}>") == made.size - 1 - k for k in range(count))
        data_info["sentinels"] = count if in_order else 0
    return {"joint": made}, data_info


def _code(around: list[int], end: int | None, folder: Path) -> dict[str, int | None]:
    """Of a model of many languages: which token stands before a text, or behind its end."""
    if around == [end]:
        return {"begin": None}
    if len(around) != 2 or end not in around:
        raise UserError(f"{folder}: around texts stand {around}: wants their end, and a language's code before or behind them")
    return {"begin": None, "code": around[1]} if around[0] == end else {"begin": around[0]}


def _read_m2m_100(folder: Path, model_type: str) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    for name in (ENTRIES, PIECES_OF_FAIRSEQ):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: there is no {name}; an {M2M100_CLASS} is {ENTRIES} and {PIECES_OF_FAIRSEQ}")
    made = M2M100((folder / PIECES_OF_FAIRSEQ).read_bytes(), read_json(folder / ENTRIES), _settings(folder, model_type))
    sizes = {"source_size": made.size, "target_size": made.size, "unknown": made.unknown}
    return {"joint": made}, sizes | _code(made.around, made.ids["</s>"], folder)


def _read_pieces(folder: Path, made: SentencePiece, model_type: str, rows: int) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    sentinels = _config(folder).get("extra_ids", SENTINELS) if model_type in T5S else 0
    sentinels = sentinels if made.size + sentinels <= rows else 0
    size = made.size + sentinels
    data_info = {"source_size": size, "target_size": size, "sentinels": sentinels, "unknown": made.processor.unk_id()}
    return {"joint": made}, data_info


def _read_marian(folder: Path) -> tuple[dict[str, Vocabulary], dict[str, Any]]:
    missing = [name for name in (*PAIR, "vocab.json") if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: there is no {missing[0]}; a Marian tokenizer is {', '.join(PAIR)} and vocab.json")
    source, target = ((folder / name).read_bytes() for name in PAIR)
    ids = read_json(folder / "vocab.json")
    own = folder / "target_vocab.json"
    target_ids = read_json(own) if own.is_file() else ids
    made = {"source": Marian(source, ids), "target": Marian(target, target_ids)}
    return dict(made), {"source_size": made["source"].size, "target_size": made["target"].size, "unknown": ids["<unk>"]}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _settings(folder: Path, model_type: str) -> dict[str, Any]:
    """`tokenizer_config.json`, with what Transformers reads of other files beside it, and always with a class."""
    result = _config(folder)
    result.pop("auto_map", None)  # a program of the folder's own, which is not run
    if "added_tokens_decoder" not in result:
        special, added = folder / "special_tokens_map.json", folder / "added_tokens.json"
        result |= read_json(special) if special.is_file() else {}
        if added.is_file():
            result["added_tokens_decoder"] = {
                str(number): {"content": content, "special": False} for content, number in read_json(added).items()
            }
    if not isinstance(result.get("tokenizer_class"), str):
        named = read_json(folder / "config.json").get("tokenizer_class") if (folder / "config.json").is_file() else None
        result["tokenizer_class"] = named if isinstance(named, str) else tokenizer_classes.CLASSES.get(model_type, GENERAL)
    return result


def write(folder: Path, config: Config, model_type: str, source: Vocabulary, target: Vocabulary, data_info: DataInfo) -> None:
    """Writes the tokenizer's files. UserError: two vocabularies where Transformers has one, or texts in lower
    case for a tokenizer that cannot make them so.
    """
    described: dict[str, Any] = {}
    lowercase = config.data.lowercase
    if lowercase and config.objective.kind != "embed":  # sentence_bert_config.json says it of these
        _check_lowercase(model_type, source, target)
    if model_type == "marian":
        _write_marian(folder, source, target)
        described = {"separate_vocabs": (folder / "target_vocab.json").exists()}
    elif source is not target:
        raise UserError(f"a {model_type} model of Transformers has one vocabulary, and this one has two; it cannot be written")
    elif isinstance(source, SentencePiece) and not tokenizer_json.is_ours(source):
        (folder / PIECES).write_bytes(source.model)
        described = {"extra_ids": data_info.sentinels}
    elif isinstance(source, Tokenizer):
        (folder / FILE).write_text(source.text, encoding="utf-8")
        described = {"tokenizer_class": GENERAL} | source.settings
    elif isinstance(source, M2M100):
        (folder / PIECES_OF_FAIRSEQ).write_bytes(source.model)
        (folder / ENTRIES).write_text(json.dumps(source.own_ids, indent=2, ensure_ascii=False), encoding="utf-8")
        described = source.settings | {"tokenizer_class": M2M100_CLASS}
    else:
        assert isinstance(source, Bytes | Characters | SentencePiece)
        text = tokenizer_json.write(source, data_info, _around(config, model_type, data_info), lowercase)
        (folder / FILE).write_text(text, encoding="utf-8")
        described = {"tokenizer_class": GENERAL}
    if model_type in ("bert", "electra"):  # the second text of a pair has another type
        described.setdefault("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    if model_type in CODED and isinstance(source, Tokenizer | M2M100):
        described |= _write_code(folder, source, data_info)
    known = {
        "pad_token": data_info.pad,
        "eos_token": data_info.end,
        "unk_token": data_info.unknown,
        "mask_token": data_info.mask,
    }
    begin = data_info.start if data_info.begin is None else data_info.begin
    if config.family == "encoder_only":
        known |= {"cls_token": begin, "sep_token": data_info.end}
    elif model_type not in CODED:  # whose sources begin with a code
        known |= {"bos_token": data_info.begin}
    if config.family == "decoder_only":
        known["bos_token"] = data_info.start
    tokens = {role: source.pieces([i])[0] for role, i in known.items() if i is not None and i < source.size}
    if isinstance(source, Tokenizer):  # whose class may know them by itself
        tokens = {role: name for role, name in tokens.items() if role not in tokenizer_classes.default_tokens(source.settings)}
    elif data_info.mask is not None and (folder / FILE).exists():
        tokens.setdefault("mask_token", tokenizer_json.MASK)
    if not (folder / FILE).exists() and model_type in CLASSES:
        described["tokenizer_class"] = CLASSES[model_type]
    longest = config.model.most_positions or config.data.max_target_length
    most = longest if config.family == "decoder_only" else config.data.max_source_length
    known_most = described.get("model_max_length")
    described["model_max_length"] = min(known_most, most) if isinstance(known_most, int | float) else most
    described = tokens | {name: value for name, value in described.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_lowercase(model_type: str, *sides: Vocabulary) -> None:
    """UserError: a text in capitals would have other tokens in Transformers than here."""
    for side in sides:
        made_here = isinstance(side, Bytes | Characters) or (isinstance(side, SentencePiece) and tokenizer_json.is_ours(side))
        if made_here and model_type != "marian":
            continue  # its tokenizer.json says it
        if side.encode(CAPITALS) != side.encode(CAPITALS.lower()):
            raise UserError(
                f"config.data.lowercase is true, and the tokenizer of this {model_type} model keeps capitals, so that the "
                "export would read them as they are; to export it nevertheless, for texts in lower case alone, set "
                "--config.data.lowercase=false"
            )


def _write_code(folder: Path, source: Tokenizer | M2M100, data_info: DataInfo) -> dict[str, str]:
    """The language that sources are in, where it is another one now than the tokenizer's files say."""
    end, before, behind = data_info.end, data_info.begin, data_info.code
    around = [*([] if before is None else [before]), end, *([] if behind is None else [behind])]
    if source.around == around:
        return {}
    if isinstance(source, M2M100) or tokenizer_classes.class_name(source.settings) in piece_classes.LANGUAGES:
        code = before if behind is None else behind
        return {} if code is None else {"src_lang": source.pieces([code])[0].strip("_")}
    names = [source.pieces([i])[0] for i in around]
    ids, place = dict(zip(names, around, strict=True)), around.index(end)
    before_text, behind_text = (names[:place], names[place:])
    described = json.loads(source.text) | {"post_processor": tokenizer_classes.template(before_text, behind_text, [], ids)}
    (folder / FILE).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    return {}


def _around(config: Config, model_type: str, data_info: DataInfo) -> tokenizer_json.Around:
    """Special tokens before a text, behind it, and between the two of a pair, as models of ours read texts."""
    begin = [] if data_info.begin is None else [data_info.begin]
    if config.objective.kind == "classify" or config.family == "encoder_only":
        return begin or [data_info.start], [data_info.end], []
    return {
        **dict.fromkeys(CODED, (begin, [data_info.end, *([] if data_info.code is None else [data_info.code])], [])),
        "bart": (begin, [data_info.end], [data_info.end]),
        **dict.fromkeys((*T5S, "pegasus"), (begin, [data_info.end], [])),
    }.get(model_type, ([data_info.start] if config.search.start_token else [], [], []))


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
