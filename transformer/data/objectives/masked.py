"""BERT's pre-training: masked tokens, and whether a second segment follows the first (Devlin et al. 2019, 3.1)."""

import dataclasses

import numpy as np

from transformer.cuts import Cut
from transformer.data.objectives import corruption
from transformer.data.objectives.base import (
    MASK,
    TAGGER,
    Corpus,
    Objective,
    SequenceSpec,
    check_limit,
    chunked,
    cut,
    draw,
    with_special_tokens,
)
from transformer.errors import UserError

RELATED = SequenceSpec("related", {"related": np.int32, "related_weights": np.float32}, "related_positions", "related_segments")


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedLM(Objective):
    """Field `text`, one document per row. The encoder reads begin chunk end, with a fraction `rate` of the tokens corrupted.

    `targets` are the original tokens; `weights` is 1 for the chosen ones. `low` to `high` (excluded): the range of random ids.
    `starts_word`, bool by token id: chooses whole words. `next_sentence`: the encoder reads begin a end b end, where a and b
    are the halves of a chunk and `related` is 1; in half of all examples, b is the second half of a chunk of another document,
    and `related` is 0. In both cases b is cut to the shorter of these two halves, so that its length does not reveal `related`.
    Everything is drawn again in each epoch.
    """

    limit: int
    begin: int
    end: int
    mask: int
    low: int
    high: int
    rate: float = 0.15
    starts_word: np.ndarray | None = None
    next_sentence: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_limit("max_source_length", self.limit, 5)

    @property
    def sequences(self) -> tuple[SequenceSpec, ...]:  # type: ignore[override]
        return (RELATED, TAGGER) if self.next_sentence else (TAGGER,)

    @property
    def _special(self) -> int:
        return 3 if self.next_sentence else 2

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        """UserError if `next_sentence` is set and there is only one document."""
        chunks = cut(corpus["text"], self.limit - self._special, even=self.next_sentence)
        if self.next_sentence and len(np.unique(chunks["document"].values)) < 2:
            raise UserError(
                "config.objective.next_sentence: all text is one document, so no segment is unrelated; "
                "set config.data.document to paragraph or line, or next_sentence to false"
            )
        return chunks

    def cuts(self, corpus: Corpus) -> list[Cut]:
        return chunked(corpus["text"].lengths, self.limit - self._special, "max_source_length")

    @property
    def limits(self) -> tuple[int, ...]:
        return (1, self.limit) if self.next_sentence else (self.limit,)

    def lengths(self, corpus: Corpus) -> np.ndarray:
        length_N = corpus["text"].lengths + self._special
        return np.stack([np.ones_like(length_N), length_N], axis=1)[:, -len(self.sequences) :]

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        generator = draw(self.seed, MASK, epoch, index)
        tokens = corpus["text"][index][: self.limit - self._special]
        result, parts = {}, [tokens]
        if self.next_sentence:
            first, second = _halves(tokens)
            other = _halves(corpus["text"][_of_another_document(corpus["document"].values, index, generator)])[1]
            related = generator.random() < 0.5
            second = (second if related else other)[: min(len(second), len(other))]
            result = {"related": np.array([related], np.int32), "related_weights": np.ones(1, np.float32)}
            parts = [first, second]
        tokens = np.concatenate(parts)
        starts_N = np.concatenate([self._starts(part) for part in parts])
        chosen_N = corruption.choose_words(starts_N, corruption.share_of(len(tokens), self.rate), generator)
        masked_N = corruption.mask_tokens(tokens, chosen_N, self.mask, (self.low, self.high), generator)
        ends = np.cumsum([len(part) for part in parts]).tolist()
        pieces = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        result |= with_special_tokens(self.begin, self.end, *(masked_N[piece] for piece in pieces))
        result["targets"] = with_special_tokens(self.begin, self.end, *parts)["source"]
        result["weights"] = with_special_tokens(0, 0, *(chosen_N[piece] for piece in pieces))["source"].astype(np.float32)
        return result

    def _starts(self, part: np.ndarray) -> np.ndarray:
        """True for tokens that begin a word; the rest of a word that was cut counts as a word."""
        if self.starts_word is None:
            return np.ones(len(part), bool)
        starts_N = self.starts_word[part]
        starts_N[:1] = True
        return starts_N


def _halves(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]


def _of_another_document(document: np.ndarray, index: int, generator: np.random.Generator) -> int:
    """A chunk of another document than that of chunk `index`; the chunks of a document are adjacent."""
    first, after = np.searchsorted(document, document[index]), np.searchsorted(document, document[index], "right")
    other = int(generator.integers(len(document) - (after - first)))
    return other if other < first else other + int(after - first)
