"""A split as token ids: ragged arrays, tokenization of text, and the cache of tokens on disk.

`objectives/` makes model inputs from examples; `pipeline.py` forms batches.
"""

import array
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from transformer.data.sources.base import CHUNK
from transformer.errors import UserError
from transformer.files import new_folder


class Encoder(Protocol):
    """Encodes text as token ids, without start and end: the part of a vocabulary that `tokenize` needs."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


def concatenated_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The ranges start, start + 1, ..., start + length - 1 of all pairs (start, length), concatenated; int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length: row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` is int64 and has one more entry than
    there are rows.

    Rows that were opened from files keep the file names, so that a worker process receives two names instead of the tokens.
    `base`: rows with the same values that were opened from files, and are sent in place of the values.
    """

    values: np.ndarray
    offsets: np.ndarray
    files: tuple[str, str] | None = None
    base: "Ragged | None" = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def regrouped(self, offsets: np.ndarray) -> "Ragged":
        """The same values in other rows, without a copy."""
        return Ragged(self.values, offsets, base=self if self.files else None)

    @property
    def lengths(self) -> np.ndarray:
        """The length of each row; int64."""
        return np.diff(self.offsets)

    def split_at(self, first_N: np.ndarray) -> tuple["Ragged", "Ragged"]:
        """Each row's first `first_N` values, and the rest of each row; both are copies."""

        def taken(starts_N: np.ndarray, lengths_N: np.ndarray) -> Ragged:
            return Ragged.of_lengths(self.values[concatenated_ranges(starts_N, lengths_N)], lengths_N)

        starts_N = self.offsets[:-1]
        return taken(starts_N, first_N), taken(starts_N + first_N, self.lengths - first_N)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of all parts, concatenated. A single part is returned unchanged."""
        if len(parts) == 1:
            return parts[0]
        return cls.of_lengths(np.concatenate([p.values for p in parts]), np.concatenate([p.lengths for p in parts]))

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths_N: np.ndarray | Sequence[int]) -> "Ragged":
        """From the concatenated rows and their lengths."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths_N, dtype=np.int64)]))

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any = np.int32) -> "Ragged":
        """From a list of sequences."""
        values = np.concatenate([np.asarray(row, dtype) for row in rows] or [np.zeros(0, dtype)])
        return cls.of_lengths(values, [len(row) for row in rows])

    @classmethod
    def open(cls, values: str, offsets: str) -> "Ragged":
        """From two memory-mapped .npy files: pages are read when they are used, and are shared by processes."""
        return cls(
            *(np.asarray(np.load(f, mmap_mode="r", allow_pickle=False)) for f in (values, offsets)), files=(values, offsets)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if self.files:
            return Ragged.open, self.files
        if self.base is not None:
            return Ragged.regrouped, (self.base, self.offsets)
        return Ragged, (self.values, self.offsets)


def tokenize(examples: Sequence[Mapping[str, str]], vocabularies: Mapping[str, Encoder]) -> dict[str, Ragged]:
    """The token ids (int32) of every field named in `vocabularies`, in the order of the examples.

    Memory: 4 bytes per token and 8 per example and field, plus one chunk of text.
    """
    values = {field: array.array("i") for field in vocabularies}  # grows in place: no second copy at the end
    lengths = {field: array.array("q", [0]) for field in vocabularies}
    for first in range(0, len(examples), CHUNK):
        chunk = examples[first : first + CHUNK]
        for field, vocabulary in vocabularies.items():
            for ids in vocabulary.encode_batch([example[field] for example in chunk]):
                values[field].extend(ids)
                lengths[field].append(len(ids))
    return {
        field: Ragged(np.frombuffer(values[field], np.int32), np.cumsum(np.frombuffer(lengths[field], np.int64)))
        for field in vocabularies
    }


def cached(path: Path, build: Callable[[], Mapping[str, Ragged]]) -> dict[str, Ragged]:
    """The result of `build()`, read from the folder `path` if it exists, else built and written there; memory-mapped.

    The folder is created atomically, so an interrupted run leaves no partial folder, and two runs may create it at the same
    time. Its name must contain everything on which the result depends. UserError if it cannot be written or read.
    """
    if not path.is_dir():
        built = build()
        try:
            with new_folder(path) as folder:
                for field, rows in built.items():
                    np.save(folder / f"{field}.values.npy", rows.values, allow_pickle=False)
                    np.save(folder / f"{field}.offsets.npy", rows.offsets, allow_pickle=False)
        except OSError as error:
            raise UserError(
                f"{path}: cannot write the tokens: {error.strerror}; free space or choose another workdir"
            ) from error
    try:
        names = sorted(
            {file.name.partition(".")[0] for file in path.glob("*.npy")}
        )  # from either file, because the other may be missing
        return {n: Ragged.open(str(path / f"{n}.values.npy"), str(path / f"{n}.offsets.npy")) for n in names}
    except (OSError, ValueError, EOFError) as error:  # EOFError: the file is empty
        raise UserError(
            f"{path}: cannot read the cached tokens ({error}); delete the folder, and it is created again"
        ) from error
