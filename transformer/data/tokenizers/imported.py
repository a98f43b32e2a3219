"""Vocabularies that come with a published model, read from its files: `tokenizer.json`, or Marian's sentencepiece pairs.

A plain sentencepiece file (T5's) is vocabulary.py's own kind. How a folder's files are found is interop/vocabularies.py.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.tokenizers import tokenizer_classes
from transformer.data.tokenizers.vocabulary import Span, Vocabulary, trimmed

BLANK = "\u2581"  # sentencepiece's character for the space before a word


class Tokenizer(Vocabulary):
    """A `tokenizer.json`, with the settings of a `tokenizer_config.json`, computed by the tokenizers library.

    As in every vocabulary, text is never encoded as a special id, except for the names passed to `encode_with`. ValueError if
    the files are damaged or contradict each other.
    """

    def __init__(self, text: str, settings: Mapping[str, Any] | None = None):
        self.text, self.settings = text, dict(settings or {})
        described = tokenizer_classes.resolved(json.loads(text), self.settings)
        self._resolved, self._naming = described, dict[frozenset[int], Any]()
        self.tokenizer = _computed(described)
        ids = self.tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(ids.values(), default=-1) + 1
        self.tokens = {number: token for token, number in ids.items()}
        self._begins = _word_starts(described)
        model = described["model"]
        named = model.get("unk_token")
        self.unknown = model.get("unk_id") if named is None else self.tokenizer.token_to_id(named)
        special = {entry["id"] for entry in described.get("added_tokens") or () if entry["special"]}
        self.special = frozenset(special if self.unknown is None else special | {self.unknown})
        pair = self.tokenizer.encode("", "", add_special_tokens=True).ids
        self.between = tuple(pair[len(self.around) : -1])  # behind the pair stands its end

    def encode(self, text: str) -> list[int]:
        return self._plain(self.tokenizer.encode(_valid(text), add_special_tokens=False).ids)

    def find(self, entry: str) -> int | None:
        return self.tokenizer.token_to_id(entry)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        found = self.tokenizer.encode_batch([_valid(text) for text in texts], add_special_tokens=False)
        return [self._plain(each.ids) for each in found]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """In a byte-level vocabulary without `add_prefix_space`, each word, the first too, as if it had a blank before it."""
        before = self._resolved.get("pre_tokenizer") or {}
        parts = before.get("pretokenizers", [before])
        glued = any(part.get("type") == "ByteLevel" and not part.get("add_prefix_space", True) for part in parts)
        return self.encode_batch([f" {word}" for word in words] if glued else words)

    def encode_with(self, text: str, names: Mapping[str, int]) -> list[int]:
        if any(number >= self.size for number in names.values()):  # the file does not have them
            return super().encode_with(text, names)
        for name, number in names.items():
            text = text.replace(name, self.tokens[number])
        numbers = frozenset(names.values())
        if numbers not in self._naming:
            self._naming[numbers] = _computed(tokenizer_classes.matching(self._resolved, {n: self.tokens[n] for n in numbers}))
        return self._plain(self._naming[numbers].encode(_valid(text), add_special_tokens=False).ids, numbers)

    def _plain(self, ids: list[int], named: frozenset[int] = frozenset()) -> list[int]:
        """Replaces the names of special tokens, which a unigram model finds in text like other pieces, by the unknown token."""
        special = self.special - named
        if self.unknown is None or special.isdisjoint(ids):
            return ids
        return [self.unknown if i in special else i for i in ids]

    def spans(self, text: str) -> list[Span]:
        return [trimmed(text, *span) for span in self.tokenizer.encode(_valid(text), add_special_tokens=False).offsets]

    def starts_word(self) -> np.ndarray:
        return self._where(lambda i: self._begins(self.tokens.get(i, "")))

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.tokenizer.json").write_text(self.text, encoding="utf-8")
        if self.settings:
            described = json.dumps(self.settings, ensure_ascii=False)
            (folder / f"{name}.tokenizer_config.json").write_text(described, encoding="utf-8")

    @property
    def around(self) -> list[int]:
        """The special tokens before and after a text."""
        return self.tokenizer.encode("", add_special_tokens=True).ids

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def _piece(self, token: int) -> str:
        return self.tokens.get(token, f"<{token}>")


class Marian(Vocabulary):
    """One side of a Marian model: a sentencepiece model splits the text, and both sides share one table of ids.

    A language code such as >>fr<< before a text is one token.
    """

    kind = "marian"

    def __init__(self, model: bytes, ids: Mapping[str, int]):
        import sentencepiece

        self.model, self.ids = model, dict(ids)
        numbers = list(self.ids.values())
        if not all(type(n) is int and n >= 0 for n in numbers) or len(set(numbers)) < len(numbers) or "<unk>" not in self.ids:
            raise ValueError("its ids are not distinct whole numbers with one for <unk>")
        self.processor = sentencepiece.SentencePieceProcessor()
        self.processor.LoadFromSerializedProto(model)
        self.tokens = {number: piece for piece, number in self.ids.items()}
        self.size = max(self.tokens) + 1
        self.unknown = self.ids["<unk>"]
        self.special = frozenset(self.ids[piece] for piece in ("</s>", "<unk>", "<pad>") if piece in self.ids)

    def encode(self, text: str) -> list[int]:
        code, rest = _language_code(text)
        unknown = self.ids["<unk>"]
        return [self.ids.get(piece, unknown) for piece in [*code, *self.processor.Encode(rest, out_type=str)]]

    def spans(self, text: str) -> list[Span]:
        code, rest = _language_code(text)
        before = len(text) - len(rest)
        offsets = self.processor.EncodeAsOffsetMapping(rest)["offsets"]
        return [(0, before)] * len(code) + [trimmed(text, before + first, before + last) for first, last in offsets]

    def starts_word(self) -> np.ndarray:
        return self._where(lambda i: self.tokens.get(i, "").startswith((BLANK, ">>")))

    def save(self, folder: Path, name: str) -> None:
        value = {"model": base64.b64encode(self.model).decode(), "ids": self.ids, **self._saved}
        (folder / f"{name}.{self.kind}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

    @property
    def _saved(self) -> dict[str, Any]:
        """Further settings that are saved."""
        return {}

    def _text(self, ids: list[int]) -> str:
        joined = self.processor.DecodePieces([self._piece(i) for i in ids])
        return joined.replace(BLANK, " ").strip()

    def _piece(self, token: int) -> str:
        return self.tokens.get(token, f"<{token}>")


class M2M100(Marian):
    """The vocabulary of M2M-100: like Marian's, but with one table, whose entries are followed by language codes such as __fr__
    in a fixed order. `settings`: `tokenizer_config.json`."""

    kind = "m2m_100"

    def __init__(self, model: bytes, ids: Mapping[str, int], settings: Mapping[str, Any]):
        self.settings, self.own_ids = dict(settings), dict(ids)
        named = self.settings.get("language_codes", "m2m100")
        if named not in M2M100_CODES:
            raise ValueError(f"language_codes is {named!r}: only {', '.join(M2M100_CODES)} are known")
        codes = {f"__{code}__": len(ids) + number for number, code in enumerate(M2M100_CODES[named])}
        super().__init__(model, {**ids, **codes})
        known = (*(piece for piece in ("<s>", "<pad>", "</s>", "<unk>") if piece in ids), *codes)
        self.special = frozenset(self.ids[piece] for piece in known)

    def encode(self, text: str) -> list[int]:
        return [self.own_ids.get(piece, self.ids["<unk>"]) for piece in self.processor.Encode(text, out_type=str)]

    def find(self, entry: str) -> int | None:
        return self.ids.get(entry, self.ids.get(f"__{entry}__"))

    def spans(self, text: str) -> list[Span]:
        return [trimmed(text, *each) for each in self.processor.EncodeAsOffsetMapping(text)["offsets"]]

    @property
    def around(self) -> list[int]:
        """The code of the source's language, and the end."""
        language = self.settings.get("src_lang") or "en"
        if (code := self.find(language)) is None:
            raise ValueError(f"src_lang is {language!r}, which is not one of its languages")
        return [code, self.ids["</s>"]]

    @property
    def _saved(self) -> dict[str, Any]:
        return {"ids": self.own_ids, "settings": self.settings}


_LANGUAGES = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig "
    "ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so "
    "sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"
)
M2M100_CODES = {"m2m100": _LANGUAGES.split(), "wmt21": ["en", "ha", "is", "ja", "cs", "ru", "zh", "de"]}


def load(folder: Path, name: str) -> Vocabulary:
    """The vocabulary that `save(folder, name)` wrote. ValueError, KeyError or RuntimeError if it is damaged."""
    if (path := folder / f"{name}.tokenizer.json").exists():
        own = folder / f"{name}.tokenizer_config.json"
        settings = json.loads(own.read_text(encoding="utf-8")) if own.exists() else {}
        return Tokenizer(path.read_text(encoding="utf-8"), settings)
    path = next(path for kind in (Marian, M2M100) if (path := folder / f"{name}.{kind.kind}.json").exists())
    value = json.loads(path.read_text(encoding="utf-8"))
    model = base64.b64decode(value["model"])
    return M2M100(model, value["ids"], value["settings"]) if "settings" in value else Marian(model, value["ids"])


def _computed(described: Mapping[str, Any]) -> Any:
    """The tokenizer object of the library. ValueError if it cannot be created."""
    import tokenizers

    try:
        made = tokenizers.Tokenizer.from_str(json.dumps(described))
    except Exception as error:  # the library raises no narrower exception
        raise ValueError(str(error)) from error
    made.no_padding()
    made.no_truncation()
    made.encode_special_tokens = True
    return made


def _language_code(text: str) -> tuple[list[str], str]:
    """>>xx<< at the start of a text, if there is one, and the rest."""
    end = text.find("<<") + 2
    return ([text[:end]], text[end:]) if text.startswith(">>") and end > 1 else ([], text)


def _valid(text: str) -> str:
    """The text with halves of UTF-16 surrogate pairs replaced, which the library rejects; the length does not change."""
    return text.encode("utf-8", "replace").decode()


def _word_starts(described: Mapping[str, Any]) -> Callable[[str], bool]:
    """A function that says whether a token of a `tokenizer.json` begins a word."""
    model = described["model"]
    if model["type"] == "WordPiece":
        return lambda token: not token.startswith(model["continuing_subword_prefix"])
    kinds = _kinds(described.get("pre_tokenizer"))
    if "ByteLevel" in kinds:  # the alphabet of Radford et al. 2019: a space is written as a letter beyond Latin-1
        return lambda token: token[:1] in ("\u0120", "\u010a", "\u0109", "\u010d")
    if "Metaspace" in kinds or model["type"] == "Unigram":
        return lambda token: token.startswith(BLANK)
    return lambda token: True


def _kinds(described: Any) -> set[str]:
    """The types of a pre-tokenizer and of its components."""
    if not described:
        return set()
    return {described["type"]}.union(*(_kinds(each) for each in described.get("pretokenizers", ())))
