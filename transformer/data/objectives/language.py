"""Objectives of language models: causal and prefix LM."""

import dataclasses

import numpy as np

from transformer.cuts import Cut
from transformer.data.corpus import Ragged, concatenated_ranges
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
    """Field `text`, one document per row: predicts each token from the previous ones; each document has a `start` and an `end`.

    Documents are split into chunks of `block` tokens; the first token of a chunk is predicted from the token before it.
    `cross_documents`: all documents are joined to one, with `end` between them. `shift` (training): all chunks of a document
    but the first and the last start earlier by a number in [0, block) drawn from (seed, epoch), so that windows differ between
    epochs. The number of predicted tokens does not change: some tokens of the first chunk are predicted twice, and the same
    number before the last chunk is skipped. Without `shift` (evaluation) each token is predicted once.
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
        place = concatenated_ranges(start_N, length_N)
        inputs = text.values[place - 1]  # for the first token of the corpus this is the last one, which `start` replaces
        inputs[offsets[:-1][first_N]] = self.start
        arrays = inputs, text.values[place], np.ones(len(place), np.float32)
        return {name: Ragged(values, offsets) for name, values in zip(DECODER.features, arrays, strict=True)}


@dataclasses.dataclass(frozen=True)
class PrefixLM(DecoderOnlyTranslate):
    """The prefix LM of Raffel et al. 2020, 3.2.1, with a decoder-only model. Field `text`, one document per row.

    Documents with `end` are split into chunks of `block` tokens. Each chunk is divided into a source and a target at a random
    index that depends on (seed, epoch, example). Both parts have at least one token if the chunk has two.
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
    """A prefix LM with an encoder, which reads the first part of a chunk, and a decoder, which predicts the rest. Field `text`.

    As in T5, every part has an end. Rows are planned once from their lengths, so the index at which a chunk is divided depends
    only on (seed, example) and not on the epoch; otherwise half of all slots would be padding.
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
