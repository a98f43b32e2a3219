"""Reads a plain text file as documents {"text"}, exactly as they are in the file."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from transformer.config import Data
from transformer.data.sources.base import Split, SplitName, listed
from transformer.data.sources.reading import find_one, read_lines
from transformer.data.text import lines
from transformer.errors import UserError


def _paragraphs(text: str) -> list[str]:
    groups = itertools.groupby(text.split("\n"), key=lambda line: bool(line.strip()))
    return ["\n".join(group).removesuffix("\r") for filled, group in groups if filled]


def _lines(text: str) -> list[str]:
    return [line for line in lines(text) if line.strip()]


PARTED: Mapping[str, Callable[[str], list[str]]] = {
    "file": lambda text: [text] if text.strip() else [],
    "paragraph": _paragraphs,
    "line": _lines,
}


def read_documents(data: Data, split: SplitName, cache: Path) -> Split:
    """The file, or a slice of its characters, split as `data.document` says; blank parts are dropped.

    Nothing inside a document changes, not even line ends. The newline after a paragraph or a line is not part of it.
    """
    path, cut = find_one(data, split, (".txt",))
    whole = "".join(read_lines(path))
    text = whole[cut(len(whole))]
    documents = PARTED[data.document](text.lower() if data.lowercase else text)
    if not documents:
        none = "this slice contains none of the text" if whole.strip() else "the file has no text"
        raise UserError(f"config.data.{split} {getattr(data, split)}: {none} ({path})")
    return listed([{"text": document} for document in documents])
