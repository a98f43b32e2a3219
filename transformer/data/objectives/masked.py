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
    enclosed,
)
from transformer.errors import UserError

RELATED = SequenceSpec("related", {"related": np.int32, "related_weights": np.float32}, "related_positions", "related_segments")


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedLM(Objective):
    """Field `text`, a document a row. The encoder reads begin chunk end, a share `rate` of the chunk's tokens corrupted.

    `targets` are the tokens as they were; `weights` is 1 at those chosen. `low` to `high`, excluded: ids that may stand for
    a token. `starts_word`, bool by token id: words are chosen, not tokens. `next_sentence`: begin a end b end, a and b
    being the halves of a chunk, or, half of the time, b being from another document, cut to the half that it replaces;
    `related` is then 0, else 1. All is drawn again in each epoch.
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
        """UserError: `next_sentence`, and there is one document only."""
        chunks = cut(corpus["text"], self.limit - self._special, even=self.next_sentence)
        if self.next_sentence and len(np.unique(chunks["document"].values)) < 2:
            raise UserError(
                "config.objective.next_sentence: all text is one document, so that no segment is unrelated; "
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
            related = generator.random() < 0.5
            if not related:
                other = _of_another_document(corpus["document"].values, index, generator)
                second = _halves(corpus["text"][other])[1][: len(second)]
            result = {"related": np.array([related], np.int32), "related_weights": np.ones(1, np.float32)}
            parts = [first, second]
        tokens = np.concatenate(parts)
        starts_N = np.concatenate([self._starts(part) for part in parts])
        chosen_N = corruption.choose_words(starts_N, corruption.share_of(len(tokens), self.rate), generator)
        masked_N = corruption.mask_tokens(tokens, chosen_N, self.mask, (self.low, self.high), generator)
        ends = np.cumsum([len(part) for part in parts]).tolist()
        pieces = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        result |= enclosed(self.begin, self.end, *(masked_N[piece] for piece in pieces))
        result["targets"] = enclosed(self.begin, self.end, *parts)["source"]
        result["weights"] = enclosed(0, 0, *(chosen_N[piece] for piece in pieces))["source"].astype(np.float32)
        return result

    def _starts(self, part: np.ndarray) -> np.ndarray:
        """Which tokens begin a word; what a cut left of a word is one."""
        if self.starts_word is None:
            return np.ones(len(part), bool)
        starts_N = self.starts_word[part]
        starts_N[:1] = True
        return starts_N


def _halves(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]


def _of_another_document(document: np.ndarray, index: int, generator: np.random.Generator) -> int:
    """A chunk of any other document than chunk `index` is of; a document's chunks stand together."""
    first, after = np.searchsorted(document, document[index]), np.searchsorted(document, document[index], "right")
    other = int(generator.integers(len(document) - (after - first)))
    return other if other < first else other + int(after - first)
