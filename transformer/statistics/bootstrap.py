"""Scores of a test set on resamples of its sentences, and the bootstrap of differences between two checkpoints or two arms.

A score of a whole test set, such as BLEU, is a function of sums over sentences: `score` maps sums (..., K) to scores (...), for
BLEU the K statistics are counts of n-grams and lengths. Letters: R seeds, S sentences, K statistics of a sentence, B resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from transformer.errors import UserError
from transformer.statistics.contrasts import Interval

Score = Callable[[np.ndarray], np.ndarray]

SAMPLES = 1000


@dataclass(frozen=True)
class Resampled:
    """The score of a checkpoint on the test `sentences`, and on resamples of them."""

    value: float
    values_B: np.ndarray
    sentences: int


@dataclass(frozen=True)
class Difference:
    """The difference of our checkpoint and theirs, for sentences of this kind."""

    value: float
    interval: Interval
    p: float


def resample(score: Score, statistics_SxK: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> Resampled:
    """The resamples depend only on `seed` and the number of sentences, so that runs can be compared pairwise."""
    rng, statistics_SxK = np.random.default_rng(seed), np.asarray(statistics_SxK, dtype=np.float64)
    count = len(statistics_SxK)
    sums_BxK = np.empty((samples, statistics_SxK.shape[1]))
    for row_K in sums_BxK:
        row_K[:] = np.bincount(rng.integers(count, size=count), minlength=count) @ statistics_SxK
    return Resampled(float(score(statistics_SxK.sum(axis=0))), score(sums_BxK), count)


def checkpoints(ours: Resampled, theirs: Resampled, level: float = 0.95) -> Difference:
    """Paired bootstrap over the sentences of two checkpoints (Koehn 2004): nothing about other seeds of the same arms.

    The interval is a percentile interval. p is the fraction of resamples that are at least as far from their mean, in either
    direction, as the difference is from 0 (Riezler & Maxwell 2005); SacreBLEU's paired bootstrap counts one direction and
    gives about half. UserError if the two were not scored on the same sentences.
    """
    _check_alike(ours, theirs)
    value, difference_B = ours.value - theirs.value, ours.values_B - theirs.values_B
    low, high = np.quantile(difference_B, [(1 - level) / 2, (1 + level) / 2])
    stray = np.abs(difference_B - difference_B.mean()) >= abs(value)
    return Difference(value, Interval(float(low), float(high)), (int(stray.sum()) + 1) / (len(difference_B) + 1))


def shared_error(ours: Sequence[Resampled], theirs: Sequence[Resampled]) -> float | None:
    """Standard error, from the choice of test sentences, of the difference of two arms: our mean over seeds minus theirs.

    Number r of both is seed r. The effect of a resample that all seeds share is the covariance of their differences. The effect
    on each single seed is already part of the variance between seeds, and is not counted again. None with fewer than two seeds.
    UserError if the two were not scored on the same sentences.
    """
    _check_alike(*ours, *theirs)
    if len(ours) < 2:
        return None
    difference_RxB = np.stack([our.values_B - their.values_B for our, their in zip(ours, theirs, strict=True)])
    covariance_RxR, runs = np.cov(difference_RxB), len(ours)
    shared = (covariance_RxR.sum() - covariance_RxR.trace()) / (runs * (runs - 1))
    return float(max(shared, 0.0)) ** 0.5


def _check_alike(*runs: Resampled) -> None:
    if len({(run.sentences, len(run.values_B)) for run in runs}) > 1:
        counts = " and ".join(str(count) for count in sorted({run.sentences for run in runs}))
        raise UserError(f"scores of {counts} sentences are compared: score all runs on the same sentences")
