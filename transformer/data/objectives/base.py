"""The interface of objectives, the sequences of a row, and helpers that several objectives use.

An objective is a pure function of (its settings, the example, the epoch). It declares the lengths of examples before they are
corrupted or sampled, because rows are planned once per run. `pipeline.py` places examples in batches.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.cuts import Cut
from transformer.data.corpus import Ragged, concatenated_ranges
from transformer.errors import UserError

Corpus = Mapping[str, Ragged]

SHIFT, SPLIT, MASK, SPANS, NOISE = range(4, 9)  # random streams, in addition to those of the pipeline


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
# An encoder without a decoder; its labels are a separate sequence.
READER = SequenceSpec("source", _SOURCE, "source_positions", "source_segments")
# An encoder without a decoder that predicts something for each token.
TAGGER = SequenceSpec("source", {**_SOURCE, "targets": np.int32, "weights": np.float32}, "source_positions", "source_segments")


class Objective(abc.ABC):
    """Makes features from examples. `batch_tokens` counts the tokens of the last of `sequences`."""

    sequences: tuple[SequenceSpec, ...]

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        """Called once with the tokens of a split; cuts documents into windows. The other methods receive the result."""
        return corpus

    def cuts(self, corpus: Corpus) -> list[Cut]:
        """Counts of what `chunk_documents` splits or drops in the original corpus, and of what `features` cuts; may be 0."""
        return []

    @property
    @abc.abstractmethod
    def limits(self) -> tuple[int, ...]:
        """The maximum length of each sequence, to which `features` cuts."""

    @abc.abstractmethod
    def lengths(self, corpus: Corpus) -> np.ndarray:
        """int64 NxA for A sequences: an upper bound of the length of each example before any cut."""

    @abc.abstractmethod
    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        """The features of every sequence, each of rank 1; features of one sequence have the same length."""

    def features_batch(self, corpus: Corpus, index_N: np.ndarray, epoch_N: np.ndarray) -> dict[str, Ragged]:
        """`features` of many examples. Subclasses override it if a loop is too slow."""
        each = [self.features(corpus, int(i), int(e)) for i, e in zip(index_N, epoch_N, strict=True)]
        names = [(name, dtype) for sequence in self.sequences for name, dtype in sequence.features.items()]
        return {name: Ragged.of([features[name] for features in each], dtype) for name, dtype in names}


def draw(seed: int, stream: int, epoch: int, *index: int) -> np.random.Generator:
    """The random generator of an example in an epoch or, without `index`, of the epoch."""
    return np.random.default_rng((seed, stream, epoch, *index))


def check_limit(setting: str, limit: int, least: int) -> None:
    """UserError if a limit leaves no space for text besides the special tokens."""
    if limit < least:
        raise UserError(
            f"config.data.{setting} is {limit}: this objective needs at least {least}, for special tokens and some text"
        )


def row_lengths(tokens: Ragged, index_N: np.ndarray) -> np.ndarray:
    """The lengths of the rows `index_N`; int64."""
    return tokens.offsets[index_N + 1] - tokens.offsets[index_N]


def with_end(documents: Ragged, end: int) -> Ragged:
    """All documents, each followed by `end`: a copy, which is sent as a whole to each worker process (config.data.workers)."""
    values = documents.values[documents.offsets[0] : documents.offsets[-1]]
    offsets = documents.offsets - documents.offsets[0]
    return Ragged(np.insert(values, offsets[1:], end), offsets + np.arange(len(offsets)))


def cut(documents: Ragged, window: int, even: bool = False) -> dict[str, Ragged]:
    """Splits documents into chunks of at most `window` tokens, without a copy: fields `text` and `document`, one chunk per row.

    `document` is the index of the chunk's document. All chunks of a document but the last are full or, if `even`, all have
    nearly the same length. A document without tokens has no chunk.
    """
    count_D = -(-documents.lengths // window)
    document_N = np.repeat(np.arange(len(documents)), count_D)
    number_N = concatenated_ranges(np.zeros_like(count_D), count_D)
    inside_N = number_N * window
    if even:
        inside_N = number_N * documents.lengths[document_N] // count_D[document_N]
    starts_N = documents.offsets[document_N] + inside_N
    return {
        "text": documents.regrouped(np.append(starts_N, documents.offsets[-1])),
        "document": Ragged(document_N.astype(np.int32), np.arange(len(document_N) + 1)),
    }


def chunked(length_N: np.ndarray, window: int, *settings: str) -> list[Cut]:
    """Counts of documents that `cut` splits or drops. `settings`: the settings in `config.data` that determine the window."""
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


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Two lengths, reduced so that their sum is at most `room`: the longer one is cut first, but not below half of `room`."""
    kept = min(second, max(room - first, room // 2))
    return min(first, room - kept), kept


def shifted(targets: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """The features of a decoder, whose inputs are `start` and all targets but the last."""
    return {
        "inputs": np.concatenate([[start], targets[:-1]]).astype(np.int32),
        "targets": targets.astype(np.int32),
        "weights": np.ones(len(targets), np.float32),
    }


def with_special_tokens(begin: int, end: int, *parts: np.ndarray, between: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """begin part end [between part end]: `source`, and `token_types`, the index of the part to which each token belongs."""
    ended = [np.append(part, end) for part in parts]
    pieces = [np.append(begin, ended[0]), *(np.append(np.array(between, np.int64), part) for part in ended[1:])]
    sizes = [*map(len, pieces)]
    return {
        "source": np.concatenate(pieces).astype(np.int32),
        "token_types": np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
    }
