"""Text alone: causal and prefix language models."""

import dataclasses

import numpy as np

from transformer.cuts import Cut
from transformer.data.corpus import Ragged, spread
from transformer.data.objectives.base import (
    DECODER,
    SHIFT,
    SPLIT,
    Corpus,
    Objective,
    check_limit,
    chunked,
    cut,
    draw,
    row_lengths,
    with_end,
)
from transformer.data.objectives.translate import DecoderOnlyTranslate, Translate


@dataclasses.dataclass(frozen=True)
class CausalLM(Objective):
    """Field `text`, a document a row: each token from those before it; `start` stands before a document, `end` behind it.

    Documents are cut to chunks of `block` tokens; the first token of a chunk is predicted from the one before it.
    `cross_documents`: all documents are one, with `end` between them. `shift` (training): chunks but a document's first and
    last start earlier by a number in [0, block) drawn from (seed, epoch), so that windows differ by epoch at no cost in
    length: as many tokens are predicted twice, behind the first chunk's start, as are left out, before the last chunk. Without
    `shift`
    (evaluation) each token is predicted once.
    """

    block: int
    start: int = 1
    end: int = 2
    seed: int = 0
    cross_documents: bool = False
    shift: bool = True
    sequences = (DECODER,)

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        documents = with_end(corpus["text"], self.end)
        if self.cross_documents:
            documents = Ragged(documents.values, documents.offsets[[0, -1]])
        return cut(documents, self.block)

    def cuts(self, corpus: Corpus) -> list[Cut]:
        length_N = corpus["text"].lengths + 1
        return chunked(length_N.sum(keepdims=True) if self.cross_documents else length_N, self.block, "max_target_length")

    @property
    def limits(self) -> tuple[int, ...]:
        return (self.block,)

    def lengths(self, corpus: Corpus) -> np.ndarray:
        return corpus["text"].lengths[:, None]

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        return {name: rows[0] for name, rows in self.features_batch(corpus, np.array([index]), np.array([epoch])).items()}

    def features_batch(self, corpus: Corpus, index_N: np.ndarray, epoch_N: np.ndarray) -> dict[str, Ragged]:
        text, document = corpus["text"], corpus["document"].values
        length_N = np.minimum(row_lengths(text, index_N), self.block)
        first_N = (index_N == 0) | (document[index_N - 1] != document[index_N])
        start_N = text.offsets[index_N]
        if self.shift:
            last_N = (index_N == len(text) - 1) | (document[np.minimum(index_N + 1, len(text) - 1)] != document[index_N])
            epochs, which_N = np.unique(epoch_N, return_inverse=True)
            shift = np.array([draw(self.seed, SHIFT, int(epoch)).integers(self.block) for epoch in epochs], np.int64)
            start_N = start_N - np.where(first_N | last_N, 0, shift[which_N])
        offsets = np.concatenate([[0], np.cumsum(length_N)])
        place = spread(start_N, length_N)
        inputs = text.values[place - 1]  # of the corpus' very first token its last, which `start` replaces
        inputs[offsets[:-1][first_N]] = self.start
        arrays = inputs, text.values[place], np.ones(len(place), np.float32)
        return {name: Ragged(values, offsets) for name, values in zip(DECODER.features, arrays, strict=True)}


@dataclasses.dataclass(frozen=True)
class PrefixLM(DecoderOnlyTranslate):
    """The prefix LM of Raffel et al. 2020, 3.2.1, by a decoder alone. Field `text`, a document a row.

    Documents with `end` are cut to chunks of `block` tokens, each split at a place that depends on (seed, epoch, example), both
    parts having a token if the chunk has two; the first part is the source, the second the target.
    """

    seed: int = 0

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        return cut(with_end(corpus["text"], self.end), self.block)

    def cuts(self, corpus: Corpus) -> list[Cut]:
        return chunked(corpus["text"].lengths + 1, self.block, "max_target_length")

    def lengths(self, corpus: Corpus) -> np.ndarray:
        return corpus["text"].lengths[:, None]

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        tokens = corpus["text"][index][: self.block]
        split = int(draw(self.seed, SPLIT, epoch, index).integers(1, len(tokens))) if len(tokens) > 1 else 0
        return self.prefixed(tokens[:split], tokens[split:])


@dataclasses.dataclass(frozen=True)
class EncodedPrefixLM(Translate):
    """The same with an encoder, which reads the first part of a chunk, and a decoder, which predicts the rest. Field `text`.

    As in T5 every part has its end. Rows are planned once, by their lengths, so (seed, example) says where a chunk is
    split, for all epochs; with a split drawn in each epoch, half of all slots would be padding.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_limit("max_source_length", self.max_source_length, 2 + self._before)
        check_limit("max_target_length", self.max_target_length, 2)

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        chunks = cut(corpus["text"], self._window)["text"]
        share_N = draw(self.seed, SPLIT, 0).random(len(chunks))
        first_N = np.where(chunks.lengths > 1, 1 + (share_N * (chunks.lengths - 1)).astype(np.int64), 0)
        source, target = chunks.split_at(first_N)
        return {"source": source, "target": target}

    def cuts(self, corpus: Corpus) -> list[Cut]:
        return chunked(corpus["text"].lengths, self._window, "max_source_length", "max_target_length")

    @property
    def _window(self) -> int:
        return min(self.max_source_length - self._before, self.max_target_length)
