"""What every objective is, the sides of models, and the helpers that several objectives share.

An objective is a pure function of (its settings, the example, the epoch); it declares its lengths before anything is
corrupted or drawn, because rows are planned once a run. Where examples land in a batch is `pipeline.py`.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.cuts import Cut
from transformer.data.corpus import Ragged, spread
from transformer.errors import UserError

Corpus = Mapping[str, Ragged]

SHIFT, SPLIT, MASK, SPANS, NOISE = range(4, 9)  # streams of randomness beside the pipeline's


@dataclasses.dataclass(frozen=True)
class Side:
    """One sequence of a model: the features an example has along it, and the names of its position and segment arrays."""

    name: str
    features: Mapping[str, Any]  # name -> dtype; 0 stands in padding
    positions: str
    segments: str


_SAID = {"inputs": np.int32, "targets": np.int32, "weights": np.float32}
_READ = {"source": np.int32, "token_types": np.int32}

ENCODER = Side("source", {"source": np.int32}, "source_positions", "source_segments")
DECODER = Side("target", _SAID, "positions", "segments")
PREFIXED = Side("target", {**_SAID, "prefix": np.int32}, "positions", "segments")  # a decoder alone, part of it seen by all
READER = Side("source", _READ, "source_positions", "source_segments")  # an encoder alone: what is said of it is another side
TAGGER = Side(  # an encoder alone that says something of each token
    "source", {**_READ, "targets": np.int32, "weights": np.float32}, "source_positions", "source_segments"
)


class Objective(abc.ABC):
    """What the pipeline needs to know. The last side is the one that `batch_tokens` counts."""

    sides: tuple[Side, ...]

    def arrange(self, corpus: Corpus) -> Corpus:
        """The corpus that the other methods are given, made once from the tokens of a split: documents cut to windows."""
        return corpus

    def cuts(self, corpus: Corpus) -> list[Cut]:
        """What `arrange` takes apart or leaves out of a corpus as it was before, and `features` cuts whatever the limits; with
        those of which there is none."""
        return []

    @property
    @abc.abstractmethod
    def limits(self) -> tuple[int, ...]:
        """Longest length allowed, by side. `features` cuts to it."""

    @abc.abstractmethod
    def lengths(self, corpus: Corpus) -> np.ndarray:
        """int64 NxSides: what each example takes on each side at most, before any cut."""

    @abc.abstractmethod
    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        """The features of every side, each of rank 1; those of one side have one length."""

    def features_batch(self, corpus: Corpus, index_N: np.ndarray, epoch_N: np.ndarray) -> dict[str, Ragged]:
        """`features` of many examples. Override it where a loop is too slow."""
        each = [self.features(corpus, int(i), int(e)) for i, e in zip(index_N, epoch_N, strict=True)]
        names = [(name, dtype) for side in self.sides for name, dtype in side.features.items()]
        return {name: Ragged.of([features[name] for features in each], dtype) for name, dtype in names}


def draw(seed: int, stream: int, epoch: int, *index: int) -> np.random.Generator:
    """The randomness of an example in an epoch; without `index`, of the epoch."""
    return np.random.default_rng((seed, stream, epoch, *index))


def check_limit(setting: str, limit: int, least: int) -> None:
    """UserError if a limit leaves no room for text beside the special tokens."""
    if limit < least:
        raise UserError(
            f"config.data.{setting} is {limit}: this objective needs {least} at least, special tokens and some text"
        )


def row_lengths(tokens: Ragged, index_N: np.ndarray) -> np.ndarray:
    """Lengths of some rows; int64."""
    return tokens.offsets[index_N + 1] - tokens.offsets[index_N]


def with_end(documents: Ragged, end: int) -> Ragged:
    """Every document with `end` behind it."""
    values = documents.values[documents.offsets[0] : documents.offsets[-1]]
    offsets = documents.offsets - documents.offsets[0]
    return Ragged(np.insert(values, offsets[1:], end), offsets + np.arange(len(offsets)))


def cut(documents: Ragged, window: int, even: bool = False) -> dict[str, Ragged]:
    """Documents in chunks of at most `window` tokens, which are not copied: fields `text` and `document`, a chunk a row.

    `document` is one number a chunk: of its document. Chunks are full but a document's last; `even`: as equal as can be.
    A document without tokens has no chunk.
    """
    count_D = -(-documents.lengths // window)
    document_N = np.repeat(np.arange(len(documents)), count_D)
    number_N = spread(np.zeros_like(count_D), count_D)
    inside_N = number_N * window
    if even:
        inside_N = number_N * documents.lengths[document_N] // count_D[document_N]
    starts_N = documents.offsets[document_N] + inside_N
    return {
        "text": Ragged(documents.values, np.append(starts_N, documents.offsets[-1])),
        "document": Ragged(document_N.astype(np.int32), np.arange(len(document_N) + 1)),
    }


def chunked(length_N: np.ndarray, window: int, *settings: str) -> list[Cut]:
    """What `cut` does to documents of these lengths; the settings that decide the window are of `config.data`."""
    where = f"config.data.{', .'.join(settings)}"
    return [
        Cut(
            int((length_N > window).sum()),
            len(length_N),
            f"documents are longer than {window:,} tokens and were split into chunks that do not see one another ({where})",
        ),
        Cut(int((length_N == 0).sum()), len(length_N), "documents have no tokens and were left out"),
    ]


def share(first: int, second: int, room: int) -> tuple[int, int]:
    """What two lengths keep if they must fit `room` together: the longer one gives way, until both have half."""
    kept = min(second, max(room - first, room // 2))
    return min(first, room - kept), kept


def said(targets: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """A decoder's features: it reads `start` and all but the last of what it says."""
    return {
        "inputs": np.concatenate([[start], targets[:-1]]).astype(np.int32),
        "targets": targets.astype(np.int32),
        "weights": np.ones(len(targets), np.float32),
    }


def enclosed(begin: int, end: int, *parts: np.ndarray, between: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """begin part end [between part end]: `source`, and `token_types`, the number of a part with what stands around it."""
    ended = [np.append(part, end) for part in parts]
    pieces = [np.append(begin, ended[0]), *(np.append(np.array(between, np.int64), part) for part in ended[1:])]
    sizes = [*map(len, pieces)]
    return {
        "source": np.concatenate(pieces).astype(np.int32),
        "token_types": np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
    }
