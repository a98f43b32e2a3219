"""Translation of a source to a target, and all other text-to-text tasks, such as summarization."""

import dataclasses

import numpy as np

from transformer.data.corpus import Ragged, concatenated_ranges
from transformer.data.objectives.base import (
    DECODER,
    ENCODER,
    PREFIXED,
    Corpus,
    Objective,
    check_limit,
    row_lengths,
    truncate_pair,
)


@dataclasses.dataclass(frozen=True)
class Translate(Objective):
    """Fields `source` and `target`: the encoder reads source + end; the decoder reads start + target and predicts target + end.

    `begin`: the first token of the source (BART); `first`: the first token of the target (NLLB); `code`: the last token of the
    source, after its end (mBART). If a source is too long, it is cut and keeps its end. If a target is too long, it is cut and
    has no end.
    """

    max_source_length: int
    max_target_length: int
    start: int = 1
    end: int = 2
    begin: int | None = None
    first: int | None = None
    code: int | None = None
    sequences = (ENCODER, DECODER)

    @property
    def _before(self) -> int:
        return self.begin is not None

    @property
    def _around(self) -> int:
        """The number of special tokens of a source."""
        return self._before + 1 + (self.code is not None)

    @property
    def _first(self) -> int:
        return self.first is not None

    @property
    def limits(self) -> tuple[int, ...]:
        return self.max_source_length, self.max_target_length

    def lengths(self, corpus: Corpus) -> np.ndarray:
        return np.stack([corpus["source"].lengths + self._around, corpus["target"].lengths + self._first + 1], axis=1)

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        source, target = corpus["source"][index], corpus["target"][index]
        before = [] if self.begin is None else [self.begin]
        target = target if self.first is None else np.append(self.first, target)
        after = [self.end] if self.code is None else [self.end, self.code]
        kept = source[: self.max_source_length - self._around]
        targets = np.append(target, self.end)[: self.max_target_length].astype(np.int32)
        return {
            "source": np.concatenate([before, kept, after]).astype(np.int32),
            "inputs": np.append(self.start, target)[: self.max_target_length].astype(np.int32),
            "targets": targets,
            "weights": np.ones(len(targets), np.float32),
        }

    def features_batch(self, corpus: Corpus, index_N: np.ndarray, epoch_N: np.ndarray) -> dict[str, Ragged]:
        source, target = corpus["source"], corpus["target"]
        source_N = np.minimum(row_lengths(source, index_N) + self._around, self.max_source_length)
        target_N = np.minimum(row_lengths(target, index_N) + 1 + self._first, self.max_target_length)
        length_N = np.minimum(row_lengths(target, index_N), target_N - self._first)
        read = _place(source, index_N, source_N, self._before, source_N - self._around, self.end)
        if self.begin is not None:
            read.values[read.offsets[:-1]] = self.begin
        if self.code is not None:
            read.values[read.offsets[1:] - 1] = self.code
        targets = _place(target, index_N, target_N, self._first, length_N, self.end)
        inputs = _place(target, index_N, target_N, 1 + self._first, target_N - 1 - self._first, self.start)
        if self.first is not None:  # a target has at least two tokens
            targets.values[targets.offsets[:-1]] = inputs.values[inputs.offsets[:-1] + 1] = self.first
        return {
            "source": read,
            "inputs": inputs,
            "targets": targets,
            "weights": Ragged(np.ones(len(targets.values), np.float32), targets.offsets),
        }


@dataclasses.dataclass(frozen=True)
class DecoderOnlyTranslate(Objective):
    """Fields `source` and `target`, for a decoder-only model: it reads source start target, where all tokens see source and
    start.

    `prefix` is 1 for source and start (the mask "prefix" in masks.py); weights are 1 where the target and `end` are predicted.
    If both together are longer than `block`, the longer one is cut.
    """

    block: int
    start: int = 1
    end: int = 2
    sequences = (PREFIXED,)

    def __post_init__(self) -> None:
        check_limit("max_target_length", self.block, 2)

    @property
    def limits(self) -> tuple[int, ...]:
        return (self.block,)

    def lengths(self, corpus: Corpus) -> np.ndarray:
        return (corpus["source"].lengths + corpus["target"].lengths + 1)[:, None]

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        source, target = corpus["source"][index], np.append(corpus["target"][index], self.end)
        kept, left = truncate_pair(len(source), len(target), self.block)
        return self.prefixed(source[:kept], target[:left])

    def prefixed(self, source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """The features of a row in which `target`, including its end, is predicted after `source`."""
        read = np.concatenate([source, [self.start], target]).astype(np.int32)
        place = np.arange(len(read) - 1)
        return {
            "inputs": read[:-1],
            "targets": read[1:],
            "weights": (place >= len(source)).astype(np.float32),
            "prefix": (place <= len(source)).astype(np.int32),
        }


def _place(tokens: Ragged, index_N: np.ndarray, length_N: np.ndarray, shift: int, kept_N: np.ndarray, fill: int) -> Ragged:
    """Rows of `length_N` entries `fill`, in which the first `kept_N` tokens of each example are written from index
    `shift` on.
    """
    offsets = np.concatenate([[0], np.cumsum(length_N)])
    values = np.full(offsets[-1], fill, np.int32)
    values[concatenated_ranges(offsets[:-1] + shift, kept_N)] = tokens.values[
        concatenated_ranges(tokens.offsets[index_N], kept_N)
    ]
    return Ragged(values, offsets)
