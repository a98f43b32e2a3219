"""Token ids of one example -> what a model reads and what it must say.

An objective is a pure function of (its settings, the example, the epoch); it declares its lengths before anything is
corrupted or drawn, because rows are planned once a run. Where examples land in a batch is `pipeline.py`.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.data.corpus import Ragged, spread

Corpus = Mapping[str, Ragged]


@dataclasses.dataclass(frozen=True)
class Side:
    """One sequence of a model: the features an example has along it, and the names of its position and segment arrays."""

    name: str
    features: Mapping[str, Any]  # name -> dtype; 0 stands in padding
    positions: str
    segments: str


ENCODER = Side("source", {"source": np.int32}, "source_positions", "source_segments")
DECODER = Side("target", {"inputs": np.int32, "targets": np.int32, "weights": np.float32}, "positions", "segments")


class Objective(abc.ABC):
    """What the pipeline needs to know. The last side is the one that `batch_tokens` counts."""

    sides: tuple[Side, ...]

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


@dataclasses.dataclass(frozen=True)
class Translate(Objective):
    """Fields `source` and `target`: the encoder reads source + end; the decoder reads start + target and says target + end.

    Too long: a source keeps its first tokens and the end; a target is its first tokens, and does not claim to end there.
    """

    max_source_length: int
    max_target_length: int
    start: int = 1
    end: int = 2
    sides = (ENCODER, DECODER)

    @property
    def limits(self) -> tuple[int, ...]:
        return self.max_source_length, self.max_target_length

    def lengths(self, corpus: Corpus) -> np.ndarray:
        return np.stack([corpus["source"].lengths, corpus["target"].lengths], axis=1) + 1

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        source, target = corpus["source"][index], corpus["target"][index]
        targets = np.append(target, self.end)[: self.max_target_length].astype(np.int32)
        return {
            "source": np.append(source[: self.max_source_length - 1], self.end).astype(np.int32),
            "inputs": np.append(self.start, target)[: self.max_target_length].astype(np.int32),
            "targets": targets,
            "weights": np.ones(len(targets), np.float32),
        }

    def features_batch(self, corpus: Corpus, index_N: np.ndarray, epoch_N: np.ndarray) -> dict[str, Ragged]:
        source, target = corpus["source"], corpus["target"]
        source_N = np.minimum(_lengths(source, index_N) + 1, self.max_source_length)
        target_N = np.minimum(_lengths(target, index_N) + 1, self.max_target_length)
        said_N = np.minimum(_lengths(target, index_N), target_N)
        targets = _place(target, index_N, target_N, 0, said_N, self.end)
        return {
            "source": _place(source, index_N, source_N, 0, source_N - 1, self.end),
            "inputs": _place(target, index_N, target_N, 1, target_N - 1, self.start),
            "targets": targets,
            "weights": Ragged(np.ones(len(targets.values), np.float32), targets.offsets),
        }


def _lengths(tokens: Ragged, index_N: np.ndarray) -> np.ndarray:
    return tokens.offsets[index_N + 1] - tokens.offsets[index_N]


def _place(tokens: Ragged, index_N: np.ndarray, length_N: np.ndarray, shift: int, kept_N: np.ndarray, fill: int) -> Ragged:
    """Rows of `length_N` filled with `fill`, the first `kept_N` tokens of each example laid over them from `shift` on."""
    offsets = np.concatenate([[0], np.cumsum(length_N)])
    values = np.full(offsets[-1], fill, np.int32)
    values[spread(offsets[:-1] + shift, kept_N)] = tokens.values[spread(tokens.offsets[index_N], kept_N)]
    return Ragged(values, offsets)
