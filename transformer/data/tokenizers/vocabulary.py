"""Vocabularies: sentencepiece (BPE, unigram), bytes and characters. They are trained once and kept in the workdir.

In every vocabulary that is trained here (training.py), ids 0 to 3 are the special ids of `DataInfo` (padding, start, end,
unknown). Vocabularies of published models are in imported.py and have their own special ids.
"""

import abc
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.tokenizers.segmentation import RandomSegmentation
from transformer.errors import UserError

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
UNKNOWN = 3
LINE_ENDS = ("\r\n", "\n")  # separate entries, if the training text contains them

Span = tuple[int, int]  # characters of a text, from (included) to (excluded)


class Vocabulary(abc.ABC):
    """Entries with ids 0 .. size - 1. A model may have more ids (a mask, sentinels), which do not represent text.

    `special`: ids of entries that do not represent text either; `unknown`: the id for text without an entry, or None if all
    text has entries.
    """

    size: int
    special: frozenset[int] = frozenset(range(len(SPECIAL)))
    unknown: int | None = UNKNOWN
    between: tuple[int, ...] = ()  # special ids before the second text of a pair, in addition to the end of the first

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids, without start and end."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        return [self.encode(text) for text in texts]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens of each word of a text, with those of the blank before it if blanks are parts of words."""
        return self.encode_batch(words)

    def sampled(self, rate: float, seed: int) -> RandomSegmentation:
        """An encoder that draws segmentations at random. UserError: this vocabulary has only one segmentation."""
        raise UserError("config.data.segmentations: the vocabulary has only one segmentation of a text; set it to 1")

    def find(self, entry: str) -> int | None:
        """The token of an entry, such as a language code, or None if there is no such entry."""
        return next((n for n, piece in enumerate(self.pieces(range(self.size))) if piece == entry), None)

    def encode_with(self, text: str, names: Mapping[str, int]) -> list[int]:
        """`encode`, where each of the `names` in the text is encoded as its id."""
        parts = re.split(f"({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})", text) if names else [text]
        encoded = self.encode_batch(parts[::2])
        return [*encoded[0], *(i for name, ids in zip(parts[1::2], encoded[1:], strict=True) for i in (names[name], *ids))]

    @abc.abstractmethod
    def spans(self, text: str) -> list[Span]:
        """The span in the text of each token of `encode(text)`, without leading blanks; empty for a part of a character."""

    @abc.abstractmethod
    def starts_word(self) -> np.ndarray:
        """Bool by id: whether the entry begins a word. Blanks, which precede words, and special entries also count as such."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special ids and ids past the end are ignored."""
        return self._text([int(i) for i in ids if i < self.size and i not in self.special])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """A printable form of each id."""
        return [self._piece(int(i)) if i < self.size else f"<{i}>" for i in ids]

    @abc.abstractmethod
    def save(self, folder: Path, name: str) -> None:
        """Writes one file, `folder/name.*`."""

    @abc.abstractmethod
    def _text(self, ids: list[int]) -> str: ...

    @abc.abstractmethod
    def _piece(self, token: int) -> str: ...

    def _where(self, begins: Callable[[int], bool]) -> np.ndarray:
        return np.array([i in self.special or begins(i) for i in range(self.size)], bool)


class Bytes(Vocabulary):
    """UTF-8 bytes, with ids after the special ids (ByT5; Xue et al. 2022). Decoding restores any text exactly."""

    size = len(SPECIAL) + 256
    unknown = None

    def encode(self, text: str) -> list[int]:
        return [byte + len(SPECIAL) for byte in text.encode("utf-8", "surrogateescape")]

    def spans(self, text: str) -> list[Span]:
        lengths = [len(character.encode("utf-8", "surrogateescape")) for character in text]
        return [(n, n + 1) for n, length in enumerate(lengths) for _ in range(length)]

    def starts_word(self) -> np.ndarray:
        return self._where(lambda i: bytes([i - len(SPECIAL)]).isspace())

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.bytes").touch()

    def _text(self, ids: list[int]) -> str:
        return bytes(i - len(SPECIAL) for i in ids).decode("utf-8", "replace")

    def _piece(self, token: int) -> str:
        return SPECIAL[token] if token < len(SPECIAL) else _visible(bytes([token - len(SPECIAL)]).decode("latin-1"))


class Characters(Vocabulary):
    """Unicode characters of the training text, the most frequent first. Decoding restores known characters exactly."""

    def __init__(self, characters: Sequence[str]):
        self.characters = list(characters)
        self.size = len(SPECIAL) + len(self.characters)
        self.ids = {character: number for number, character in enumerate(self.characters, len(SPECIAL))}

    def encode(self, text: str) -> list[int]:
        return [self.ids.get(character, UNKNOWN) for character in text]

    def spans(self, text: str) -> list[Span]:
        return [(n, n + 1) for n in range(len(text))]

    def starts_word(self) -> np.ndarray:
        return self._where(lambda i: self.characters[i - len(SPECIAL)].isspace())

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.characters.json").write_text(json.dumps(self.characters), encoding="utf-8")

    def _text(self, ids: list[int]) -> str:
        return "".join(self.characters[i - len(SPECIAL)] for i in ids)

    def _piece(self, token: int) -> str:
        return SPECIAL[token] if token < len(SPECIAL) else _visible(self.characters[token - len(SPECIAL)])


class SentencePiece(Vocabulary):
    """Kudo and Richardson 2018. Decoding restores a text, except for unknown characters and for normalization, which also
    removes leading, trailing and repeated spaces; the normalization `identity` of a vocabulary trained here keeps them.
    """

    def __init__(self, model: bytes):
        import sentencepiece

        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor()
        self.processor.LoadFromSerializedProto(model)
        self.size = self.processor.GetPieceSize()
        # A published model has other special ids.
        self.special = frozenset(i for i in range(self.size) if self.processor.IsControl(i) or self.processor.IsUnknown(i))
        self.unknown = self.processor.unk_id()

    def encode(self, text: str) -> list[int]:
        return self.processor.EncodeAsIds(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.processor.Encode(list(texts), out_type=int) if texts else []

    def encode_with(self, text: str, names: Mapping[str, int]) -> list[int]:
        """As in training, a name replaces the space before it, and the word after it begins with one of its own."""
        return super().encode_with(re.sub(f" ?({'|'.join(map(re.escape, names))}) ?", r"\1", text) if names else text, names)

    def sampled(self, rate: float, seed: int) -> RandomSegmentation:
        """BPE-dropout (Provilkov et al. 2020) or, for a unigram model, samples (Kudo 2018)."""
        return RandomSegmentation(self.processor, rate, seed, LINE_ENDS)

    def spans(self, text: str) -> list[Span]:
        return [trimmed(text, *span) for span in self.processor.EncodeAsOffsetMapping(text)["offsets"]]

    def starts_word(self) -> np.ndarray:
        return self._where(lambda i: self.processor.IdToPiece(i).startswith(("\u2581", *LINE_ENDS)))

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.model").write_bytes(self.model)

    def _text(self, ids: list[int]) -> str:
        return self.processor.DecodeIds(ids)

    def _piece(self, token: int) -> str:
        piece = self.processor.IdToPiece(token)
        return "".join(map(_visible, piece)) if piece in LINE_ENDS else piece


def trimmed(text: str, first: int, last: int) -> Span:
    """A span without leading blanks; a span of only blanks keeps the last one."""
    while first < last - 1 and text[first].isspace():
        first += 1
    return first, last


def read_characters(found: Any) -> list[str]:
    """The characters in a file's JSON. ValueError if it is not a list of distinct characters."""
    if not isinstance(found, list) or not all(isinstance(each, str) and len(each) == 1 for each in found):
        raise ValueError("it is not a list of characters")
    if len(set(found)) < len(found):
        raise ValueError("a character occurs twice")
    "".join(found).encode()  # halves of UTF-16 surrogate pairs are not characters
    return found


def _visible(character: str) -> str:
    return {" ": "\u2423", "\n": "\\n", "\t": "\\t"}.get(
        character, character if character.isprintable() else repr(character)[1:-1]
    )
