"""A split as token ids: ragged arrays, how text becomes them, and their cache on disk.

What an example means to a model is `objectives/`; which examples share a batch is `pipeline.py`.
"""

import array
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from transformer.errors import UserError
from transformer.files import new_folder

CHUNK = 8192  # examples tokenised at once: enough to amortise the call, little memory


class Encoder(Protocol):
    """Text to token ids, without start and end: what `tokenize` needs of a vocabulary."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices start, start + 1, ..., start + length - 1 of every (start, length), one after another; int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length: row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` is int64 of one entry more than rows.

    Rows opened from files know them, so that a worker process is sent two names and not the tokens.
    """

    values: np.ndarray
    offsets: np.ndarray
    files: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int64, one a row."""
        return np.diff(self.offsets)

    def split_at(self, first_N: np.ndarray) -> tuple["Ragged", "Ragged"]:
        """Each row's first `first_N` values, and the rest of it; copies."""

        def taken(starts_N: np.ndarray, lengths_N: np.ndarray) -> Ragged:
            return Ragged.of_lengths(self.values[spread(starts_N, lengths_N)], lengths_N)

        starts_N = self.offsets[:-1]
        return taken(starts_N, first_N), taken(starts_N + first_N, self.lengths - first_N)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of the first, then those of the second, and so on; of one alone, itself."""
        if len(parts) == 1:
            return parts[0]
        return cls.of_lengths(np.concatenate([p.values for p in parts]), np.concatenate([p.lengths for p in parts]))

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths_N: np.ndarray | Sequence[int]) -> "Ragged":
        """From the rows one after another, and their lengths."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths_N, dtype=np.int64)]))

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any = np.int32) -> "Ragged":
        """From a list of sequences."""
        values = np.concatenate([np.asarray(row, dtype) for row in rows] or [np.zeros(0, dtype)])
        return cls.of_lengths(values, [len(row) for row in rows])

    @classmethod
    def open(cls, values: str, offsets: str) -> "Ragged":
        """From two .npy files, memory-mapped: pages are read as they are used, and shared by processes."""
        return cls(
            *(np.asarray(np.load(f, mmap_mode="r", allow_pickle=False)) for f in (values, offsets)), files=(values, offsets)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (Ragged.open, self.files) if self.files else (Ragged, (self.values, self.offsets))


def tokenize(examples: Sequence[Mapping[str, str]], vocabularies: Mapping[str, Encoder]) -> dict[str, Ragged]:
    """The token ids (int32) of every field named in `vocabularies`, in the order of the examples.

    Memory: 4 bytes a token and 8 an example and field, plus one chunk of text.
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
    """What `build()` gives, from the folder `path` if it exists, else built and written there; memory-mapped either way.

    The folder appears at once and whole, so a stopped run leaves no half of it and two runs may race. Its name must
    say everything that the result depends on. UserError if it cannot be written or read.
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
        names = sorted({file.name.partition(".")[0] for file in path.glob("*.npy")})  # of either file: the other may be lost
        return {n: Ragged.open(str(path / f"{n}.values.npy"), str(path / f"{n}.offsets.npy")) for n in names}
    except (OSError, ValueError, EOFError) as error:  # the last: a file without a byte
        raise UserError(f"{path}: cannot read the cached tokens ({error}); delete the folder, it is made again") from error
