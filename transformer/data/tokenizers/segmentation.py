"""Random segmentations of text with a sentencepiece model: BPE-dropout, and samples of a unigram model.

sentencepiece can draw these itself, but in 0.2.3 its draws differ between processes for the same seed. Here they depend only on
the seed, so that a run can be reproduced on another machine.
"""

import functools
import heapq
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

SPACE = "\u2581"  # sentencepiece's mark of a space; pieces begin with it or do not contain it
MOST_WORDS = 1 << 18  # distinct words whose usual segmentation is cached
DRAWS = 1 << 14  # random numbers that are drawn at once


class RandomSegmentation:
    """An `Encoder` (corpus.py). The same calls in the same order give the same ids, in every process.

    BPE (BPE-dropout; Provilkov et al. 2020): each possible merge is skipped with probability `rate` and, as in sentencepiece,
    not considered again. In the paper's Algorithm 1 it is drawn again at each step, so that the same rate has a weaker effect.
    Unigram (Kudo 2018): a segmentation x is drawn with a probability proportional to P(x)**rate.
    """

    def __init__(self, processor: Any, rate: float, seed: int, line_ends: Sequence[str]):
        self.processor, self.rate, self.seed, self.calls = processor, rate, seed, 0
        ids = range(processor.GetPieceSize())
        known = [i for i in ids if not (processor.IsControl(i) or processor.IsUnknown(i) or processor.IsUnused(i))]
        self.ids: dict[str, int] = {processor.IdToPiece(i): i for i in known}
        self.line_ends = frozenset(line_ends) & self.ids.keys()
        self.scores = {piece: processor.GetScore(i) for piece, i in self.ids.items() if piece not in self.line_ends}
        self.longest = max(map(len, self.scores), default=1)
        ends = "|".join(map(re.escape, sorted(self.line_ends, key=len, reverse=True)))
        inside = f"(?:(?!{ends})[^{SPACE}])+" if ends else f"[^{SPACE}]+"
        self.words = re.compile("|".join(filter(None, [ends, f"{SPACE}?{inside}", SPACE])))
        # BPE scores are ranks (0, -1, -2, ...), those of a unigram model log probabilities.
        self.is_bpe = all(score == round(score) for score in self.scores.values())
        self.usual = functools.lru_cache(MOST_WORDS)(lambda word: merge(word, self.scores, lambda: False))
        self.lattice = functools.lru_cache(MOST_WORDS)(self._lattice)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        generator = np.random.default_rng([self.seed, self.calls])
        self.calls += 1
        draw = self._bpe(generator) if self.is_bpe else self._unigram(generator)
        return [self._ids(map(draw, self.words.findall(self.processor.Normalize(text)))) for text in texts]

    def _ids(self, words: Iterable[Sequence[str]]) -> list[int]:
        """The ids of pieces. As in sentencepiece, several unknown pieces in a row are one token."""
        unknown: int = self.processor.unk_id()
        found: list[int] = []
        for piece in itertools.chain.from_iterable(words):
            token = self.ids.get(piece, unknown)
            if token != unknown or not found or found[-1] != unknown:
                found.append(token)
        return found

    def _bpe(self, generator: np.random.Generator) -> Any:
        # The number of merges until one is skipped is geometric. Most words are complete before that, with their usual pieces.
        gaps = _drawn(lambda: generator.geometric(self.rate, DRAWS) - 1)
        kept = next(gaps)

        def left_out() -> bool:
            nonlocal kept
            if kept:
                kept -= 1
                return False
            kept = next(gaps)
            return True

        def draw(word: str) -> Sequence[str]:
            nonlocal kept
            if word in self.line_ends:
                return (word,)
            pieces = self.usual(word)
            if (merges := len(word) - len(pieces)) <= kept:
                kept -= merges
                return pieces
            return merge(word, self.scores, left_out)

        return draw

    def _unigram(self, generator: np.random.Generator) -> Any:
        uniform = _drawn(lambda: generator.random(DRAWS))

        def draw(word: str) -> Sequence[str]:
            if word in self.line_ends:
                return (word,)
            starts = self.lattice(word)
            pieces, last = [], len(word)
            while last > 0:
                first = starts[last][0][np.searchsorted(starts[last][1], next(uniform), side="right")]
                pieces.append(word[first:last])
                last = first
            return pieces[::-1]

        return draw

    def _lattice(self, word: str) -> list[tuple[list[int], np.ndarray]]:
        """For each end of a piece in the word, the possible starts of the piece and their cumulative probabilities."""
        unknown = min(self.scores.values()) - 10  # sentencepiece's penalty of an unknown character
        logs, starts = [0.0], [([0], np.ones(1))]
        for last in range(1, len(word) + 1):
            firsts, weights = [], []
            for first in range(max(0, last - self.longest), last):
                score = self.scores.get(word[first:last], unknown if last - first == 1 else None)
                if score is not None:
                    firsts.append(first)
                    weights.append(logs[first] + self.rate * score)
            top = max(weights)
            shares = np.cumsum(np.exp(np.array(weights) - top))
            logs.append(top + math.log(shares[-1]))
            starts.append((firsts, shares / shares[-1]))
        return starts


def merge(word: str, scores: dict[str, float], left_out: Any) -> tuple[str, ...]:
    """Byte-pair encoding (Sennrich et al. 2016): the best pair is merged first, the leftmost among equals.

    `left_out()` is called once for each possible merge; a skipped merge is not considered again.
    """
    pieces: list[str] = list(word)
    after, before = list(range(1, len(word) + 1)), list(range(-1, len(word) - 1))
    heap: list[tuple[float, int, str]] = []

    def consider(left: int) -> None:
        if left >= 0 and after[left] < len(word):
            merged = pieces[left] + pieces[after[left]]
            if (score := scores.get(merged)) is not None:
                heapq.heappush(heap, (-score, left, merged))

    for left in range(len(word) - 1):
        consider(left)
    while heap:
        _, left, merged = heapq.heappop(heap)
        right = after[left]
        if not pieces[left] or right >= len(word) or pieces[left] + pieces[right] != merged or left_out():
            continue
        pieces[left], pieces[right] = merged, ""
        after[left] = after[right]
        if after[right] < len(word):
            before[after[right]] = left
        consider(before[left])
        consider(left)
    return tuple(piece for piece in pieces if piece)


def _drawn(some: Any) -> Iterator[Any]:
    while True:
        yield from some().tolist()
