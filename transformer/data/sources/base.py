"""The result of every source: a split of examples and its fingerprint. The sources are in the other files of this folder."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

from transformer.cuts import Cut

SplitName = Literal["train", "validation", "test"]
Example = Mapping[str, str]  # name of a field -> text
CHUNK = 8192  # examples that are read, or given to a tokenizer, at a time
VERBATIM = {"label", "tags", "start"}  # fields that are not lowercased


class Examples(Sequence[Example]):
    """Examples that are fetched on access, by index or, several times as fast with TFDS, by slice or iteration."""

    def __init__(self, length: int, fetch: Callable[[Sequence[int]], list[dict[str, str]]]):
        self._length = length
        self._fetch = fetch

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Any:
        where = range(self._length)[index]
        return self._fetch(where) if isinstance(where, range) else self._fetch([where])[0]

    def __iter__(self) -> Iterator[Example]:
        for first in range(0, self._length, CHUNK):
            yield from self[first : first + CHUNK]

    def map(self, change: Callable[[dict[str, str]], dict[str, str]]) -> "Examples":
        """The examples, to which `change` is applied when they are fetched."""
        return Examples(self._length, lambda indices: [change(example) for example in self._fetch(indices)])


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples to train on or to score.

    `examples` are mappings of fields ("source" and "target", "text" and "label", ...) to text. `notices` for the user are
    lines of text, and counts of what was dropped or changed. `fingerprint` is a hexadecimal hash of the content or, for a TFDS
    data set, of everything that determines it.
    """

    examples: Examples
    notices: tuple[str | Cut, ...]
    fingerprint: str


def fingerprint(parts: Iterable[str]) -> str:
    """The hash of texts that do not contain newlines."""
    result = hashlib.sha256()
    for part in parts:
        result.update(part.encode() + b"\n")  # no part contains a newline, so the joined text is unique
    return result.hexdigest()


def listed(examples: Sequence[dict[str, str]], notices: tuple[str | Cut, ...] = ()) -> Split:
    """A split of examples in memory."""
    lines = (json.dumps(example) for example in examples)
    return Split(Examples(len(examples), lambda indices: [examples[i] for i in indices]), notices, fingerprint(lines))


def lowered(example: dict[str, str]) -> dict[str, str]:
    """The example in lower case, except for labels. "start" is adjusted so that it remains the start of the answer.

    "answers", which is JSON, can be lowercased as text, because the letters of its escapes are already in lower case.
    """
    result = {field: value if field in VERBATIM else value.lower() for field, value in example.items()}
    if "start" in example and (start := int(example["start"])) >= 0:
        text, end = example["text"], start + len(example["answer"])
        first, last = (len(text[:place].lower()) for place in (start, end))  # the lower case of some letters is longer
        result |= {"start": str(first), "answer": result["text"][first:last]}
    return result
