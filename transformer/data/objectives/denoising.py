"""Reconstruction of corrupted text: T5's span corruption and BART's denoising. The corruptions are in `corruption.py`."""

import dataclasses
import functools

import numpy as np

from transformer.cuts import Cut
from transformer.data.objectives import corruption
from transformer.data.objectives.base import (
    DECODER,
    ENCODER,
    NOISE,
    SPANS,
    Corpus,
    Objective,
    check_limit,
    chunked,
    cut,
    draw,
    shifted,
)
from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Objective):
    """Field `text`, one document per row. The encoder reads a chunk in which spans are replaced by sentinels, and end.

    The targets are sentinel span sentinel span .. end, as in T5's code, without a sentinel after the last span, which ends the
    text (figure 2 of Raffel et al. 2020 shows one, but their code, with which the published models were trained, has none).
    Sentinel k has the id `top` - k. Chunks are as long as `max_source_length`, `max_target_length` and the number of sentinels
    allow: 568 tokens for 512, 114 and 100. Spans are drawn again in each epoch. Because the last span ends the chunk, a chunk
    of 30 tokens or fewer, which has one span, is always corrupted in the same way (with the usual rate and length).
    """

    max_source_length: int
    max_target_length: int
    sentinels: int
    top: int
    start: int = 1
    end: int = 2
    rate: float = 0.15
    span_length: float = 3.0
    seed: int = 0
    sequences = (ENCODER, DECODER)

    def __post_init__(self) -> None:
        check_limit("max_source_length", self.max_source_length, 3)
        check_limit("max_target_length", self.max_target_length, 3)
        if self.sentinels < 1:
            raise UserError(
                "config.objective.kind span_corruption: the vocabulary has no sentinels; make it for this objective"
            )

    @functools.cached_property
    def window(self) -> int:
        """The most tokens of a chunk."""
        length = 2
        while np.all(self._lengths(np.array([length + 1])) <= self.limits) and self._spans(length + 1) <= self.sentinels:
            length += 1
        return length

    def _spans(self, length: int) -> int:
        return int(corruption.span_counts(np.asarray(length), self.rate, self.span_length)[1])

    def _lengths(self, length_N: np.ndarray) -> np.ndarray:
        hidden_N, spans_N = corruption.span_counts(length_N, self.rate, self.span_length)
        return np.stack([length_N - hidden_N + spans_N + 1, hidden_N + spans_N + 1], axis=1)

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        return cut(corpus["text"], self.window)

    def cuts(self, corpus: Corpus) -> list[Cut]:
        return chunked(corpus["text"].lengths, self.window, "max_source_length", "max_target_length")

    @property
    def limits(self) -> tuple[int, ...]:
        return self.max_source_length, self.max_target_length

    def lengths(self, corpus: Corpus) -> np.ndarray:
        return self._lengths(corpus["text"].lengths)

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        tokens = corpus["text"][index][: self.window]
        generator = draw(self.seed, SPANS, epoch, index)
        hidden_N = corruption.random_spans(len(tokens), self.rate, self.span_length, generator)
        spans = corruption.to_sentinels(tokens, ~hidden_N, self.top) if hidden_N.any() else tokens[:0]
        source = np.append(corruption.to_sentinels(tokens, hidden_N, self.top), self.end)
        return {"source": source.astype(np.int32), **shifted(np.append(spans, self.end), self.start)}


@dataclasses.dataclass(frozen=True, eq=False)
class Denoise(Objective):
    """Field `text`, one document per row. The encoder reads [begin] corrupted chunk end [code]; targets are the chunk and end.

    The corruptions, in this order: sentences are permuted if `ends_sentence` is given (bool by token id); a fraction
    `delete_rate` of the tokens is deleted; text infilling is applied to a fraction `rate` of the rest, with spans of
    Poisson(`span_length`) tokens (Lewis et al. 2020, 2.2). They are drawn again in each epoch.
    """

    max_source_length: int
    max_target_length: int
    mask: int
    start: int = 1
    end: int = 2
    begin: int | None = None
    rate: float = 0.3
    span_length: float = 3.0
    ends_sentence: np.ndarray | None = None
    delete_rate: float = 0.0
    code: int | None = None
    seed: int = 0
    sequences = (ENCODER, DECODER)

    def __post_init__(self) -> None:
        check_limit("max_source_length", self.max_source_length, 3)
        check_limit("max_target_length", self.max_target_length, 2)

    @property
    def _special(self) -> int:
        return 1 + (self.begin is not None) + (self.code is not None)

    @property
    def window(self) -> int:
        """The most tokens of a chunk."""
        return min(self.max_source_length - self._special, self.max_target_length - 1)

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        return cut(corpus["text"], self.window)

    def cuts(self, corpus: Corpus) -> list[Cut]:
        return chunked(corpus["text"].lengths, self.window, "max_source_length", "max_target_length")

    @property
    def limits(self) -> tuple[int, ...]:
        return self.max_source_length, self.max_target_length

    def lengths(self, corpus: Corpus) -> np.ndarray:
        length_N = corpus["text"].lengths
        return np.stack([length_N + self._special, length_N + 1], axis=1)

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        tokens = corpus["text"][index][: self.window]
        generator = draw(self.seed, NOISE, epoch, index)
        corrupted = tokens
        if self.ends_sentence is not None:
            corrupted = corruption.permute_sentences(corrupted, self.ends_sentence[corrupted], generator)
        corrupted = corruption.delete_tokens(corrupted, self.delete_rate, generator)
        corrupted, _ = corruption.infill(corrupted, self.rate, self.span_length, self.mask, generator)
        before = [] if self.begin is None else [self.begin]
        after = [self.end] if self.code is None else [self.end, self.code]
        source = np.concatenate([before, corrupted, after]).astype(np.int32)
        return {"source": source, **shifted(np.append(tokens, self.end), self.start)}
