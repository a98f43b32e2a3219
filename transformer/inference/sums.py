"""Scores that are functions of sums over sentences, so that the sentences of a test set can be resampled (Koehn 2004).

Letters: S sentences, K statistics of a sentence.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ORDER = 4  # BLEU's n-grams


@dataclass(frozen=True)
class Summed:
    """`statistics(hypothesis, reference, tokenize)`: K numbers of a sentence. `score`: the score of their sums ...xK, from 0
    to 100. `labels`: outputs are labels, whose case matters.
    """

    statistics: Callable[[str, str, str], Sequence[float]]
    score: Callable[[np.ndarray], np.ndarray]
    labels: bool = False


def of_sentences(name: str, hypotheses: Sequence[str], references: Sequence[str], tokenize: str) -> np.ndarray:
    """The statistics SxK of sentences for a score in `SUMS`."""
    rows = [SUMS[name].statistics(h, r, tokenize) for h, r in zip(hypotheses, references, strict=True)]
    return np.asarray(rows, np.float64)


def _percent(sums: np.ndarray) -> np.ndarray:
    """The percentage of correct items; 100 if there are none."""
    return np.where(sums[..., 1] > 0, 100.0 * sums[..., 0] / np.maximum(sums[..., 1], 1e-9), 100.0)


@functools.cache
def _sentence_bleu(tokenize: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # `effective_order` only silences a warning about scores of single sentences, which are not used.
    return BLEU(tokenize=tokenize, effective_order=True)


def _bleu_statistics(hypothesis: str, reference: str, tokenize: str) -> Sequence[float]:
    found = _sentence_bleu(tokenize).sentence_score(hypothesis, [reference])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def _bleu(sums: np.ndarray) -> np.ndarray:
    from sacrebleu.metrics.bleu import BLEU

    flat = np.rint(sums.reshape(-1, sums.shape[-1])).astype(int).tolist()
    scores = [
        BLEU.compute_bleu(row[2 : 2 + ORDER], row[2 + ORDER :], sys_len=row[0], ref_len=row[1], smooth_method="exp").score
        for row in flat
    ]
    return np.reshape(scores, sums.shape[:-1])


def _words(hypothesis: str, reference: str, tokenize: str) -> Sequence[float]:
    predicted, true = hypothesis.split(), reference.split()
    return [sum(a == b for a, b in zip(predicted, true, strict=False)), max(len(predicted), len(true))]


def _equal(hypothesis: str, reference: str, tokenize: str) -> Sequence[float]:
    return [hypothesis == reference, 1]


SUMS: Mapping[str, Summed] = {
    "bleu": Summed(_bleu_statistics, _bleu),
    "exact_match": Summed(_equal, _percent),
    "accuracy": Summed(_equal, _percent, labels=True),
    "word_accuracy": Summed(_words, _percent),
}
