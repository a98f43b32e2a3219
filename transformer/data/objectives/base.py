"""The interface of objectives, the sequences of a row, and helpers that several objectives use.

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
class SequenceSpec:
    """One sequence of a row: its features, all of one length, and the names of its position and segment arrays."""

    name: str
    features: Mapping[str, Any]  # name -> dtype; padding is 0
    positions: str
    segments: str


_TARGET = {"inputs": np.int32, "targets": np.int32, "weights": np.float32}
_SOURCE = {"source": np.int32, "token_types": np.int32}

ENCODER = SequenceSpec("source", {"source": np.int32}, "source_positions", "source_segments")
DECODER = SequenceSpec("target", _TARGET, "positions", "segments")
# A decoder without an encoder; `prefix` marks the tokens that every token sees.
PREFIXED = SequenceSpec("target", {**_TARGET, "prefix": np.int32}, "positions", "segments")
# An encoder without a decoder; its labels are a sequence of their own.
READER = SequenceSpec("source", _SOURCE, "source_positions", "source_segments")
# An encoder without a decoder that predicts something for each token.
TAGGER = SequenceSpec("source", {**_SOURCE, "targets": np.int32, "weights": np.float32}, "source_positions", "source_segments")


class Objective(abc.ABC):
    """How examples become features. `batch_tokens` counts the tokens of the last of `sequences`."""

    sequences: tuple[SequenceSpec, ...]

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        """Called once with the tokens of a split; the other methods get the result: documents cut into windows."""
        return corpus

    def cuts(self, corpus: Corpus) -> list[Cut]:
        """What `chunk_documents` splits or leaves out of the original corpus, and what `features` cuts at any limit; counts may
        be 0."""
        return []

    @property
    @abc.abstractmethod
    def limits(self) -> tuple[int, ...]:
        """The longest length of each sequence. `features` cuts to it."""

    @abc.abstractmethod
    def lengths(self, corpus: Corpus) -> np.ndarray:
        """int64 NxA for A sequences: an upper bound of the length of each example before any cut."""

    @abc.abstractmethod
    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        """The features of every sequence, each of rank 1; features of one sequence have the same length."""

    def features_batch(self, corpus: Corpus, index_N: np.ndarray, epoch_N: np.ndarray) -> dict[str, Ragged]:
        """`features` of many examples. Subclasses override it where a loop is too slow."""
        each = [self.features(corpus, int(i), int(e)) for i, e in zip(index_N, epoch_N, strict=True)]
        names = [(name, dtype) for sequence in self.sequences for name, dtype in sequence.features.items()]
        return {name: Ragged.of([features[name] for features in each], dtype) for name, dtype in names}


def draw(seed: int, stream: int, epoch: int, *index: int) -> np.random.Generator:
    """The randomness of an example in an epoch; without `index`, of the epoch."""
    return np.random.default_rng((seed, stream, epoch, *index))


def check_limit(setting: str, limit: int, least: int) -> None:
    """UserError if a limit leaves no room for text beside the special tokens."""
    if limit < least:
        raise UserError(
            f"config.data.{setting} is {limit}: this objective needs at least {least}, for special tokens and some text"
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
            f"documents are longer than {window:,} tokens and were split into chunks that do not attend to each "
            f"other ({where})",
        ),
        Cut(int((length_N == 0).sum()), len(length_N), "documents have no tokens and were left out"),
    ]


def share(first: int, second: int, room: int) -> tuple[int, int]:
    """Two lengths, cut so that their sum is at most `room`: the longer one is cut first, down to half of it."""
    kept = min(second, max(room - first, room // 2))
    return min(first, room - kept), kept


def shifted(targets: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Features of a decoder: its inputs are `start` and all targets but the last."""
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
