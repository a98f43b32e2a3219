"""Differences of scores of a whole test set, such as BLEU, by resampling its sentences.

A score is a function of sums over sentences: `score` maps sums (..., K) to scores (...), for BLEU K counts of n-grams and
lengths. Letters: R seeds, S sentences, K statistics of a sentence, B resamples. The draws depend on `seed` alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from transformer.errors import UserError
from transformer.studies.statistics import Interval

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Resampled:
    """Our checkpoint minus theirs, on sentences of this kind."""

    value: float
    interval: Interval
    p: float


def checkpoints(score: Score, ours_SxK, theirs_SxK, level: float = 0.95, samples: int = 1000, seed: int = 0) -> Resampled:
    """Paired bootstrap over the sentences of two checkpoints (Koehn 2004): nothing about other seeds of the same arms.

    The interval is of percentiles. p is the share of resamples that stray from their mean as far as the difference is from
    0, either way (Riezler & Maxwell 2005); SacreBLEU's paired bootstrap counts one way and gives about half.
    UserError if the two were not scored on the same sentences.
    """
    ours_1xSxK, theirs_1xSxK = np.asarray(ours_SxK)[None], np.asarray(theirs_SxK)[None]
    difference, resampled_BxR = _differences(score, ours_1xSxK, theirs_1xSxK, samples, np.random.default_rng(seed))
    value, resampled_B = float(difference[0]), resampled_BxR[:, 0]
    low, high = np.quantile(resampled_B, [(1 - level) / 2, (1 + level) / 2])
    stray = np.abs(resampled_B - resampled_B.mean()) >= abs(value)
    p = (int(stray.sum()) + 1) / (samples + 1)
    return Resampled(value, Interval(float(low), float(high)), p)


def shared_error(score: Score, ours_RxSxK, theirs_RxSxK, samples: int = 1000, seed: int = 0) -> float | None:
    """Standard error of the difference of two arms, our mean over seeds minus theirs, for its sentences being these.

    Row r of both is seed r. What a resample of sentences does to all seeds alike is the covariance of their differences; what
    it does to each seed by itself shows as a difference between seeds already, and is not counted again. None with fewer than
    two seeds. UserError if the two were not scored on the same sentences.
    """
    if len(ours_RxSxK) < 2:
        return None
    _, resampled_BxR = _differences(score, ours_RxSxK, theirs_RxSxK, samples, np.random.default_rng(seed))
    covariance_RxR = np.cov(resampled_BxR, rowvar=False)
    runs = len(covariance_RxR)
    shared = (covariance_RxR.sum() - covariance_RxR.trace()) / (runs * (runs - 1))
    return float(max(shared, 0.0)) ** 0.5


def _differences(score: Score, ours_RxSxK, theirs_RxSxK, samples: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Differences by seed on the test set (R) and on resamples of its sentences (BxR), the same sentences for all runs."""
    _alike(ours_RxSxK, theirs_RxSxK)
    both_SxM = np.moveaxis(np.stack([ours_RxSxK, theirs_RxSxK]), 2, 0).astype(np.float64)
    sentences, *shape = both_SxM.shape
    both_SxM = both_SxM.reshape(sentences, -1)
    sums_BxM = np.empty((samples, both_SxM.shape[1]))
    for row in sums_BxM:
        row[:] = np.bincount(rng.integers(sentences, size=sentences), minlength=sentences) @ both_SxM
    ours, theirs = score(both_SxM.sum(axis=0).reshape(shape))
    resampled_Bx2xR = score(sums_BxM.reshape(samples, *shape))
    return ours - theirs, resampled_Bx2xR[:, 0] - resampled_Bx2xR[:, 1]


def _alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape:
        raise UserError(
            f"statistics of shape {ours.shape} against {theirs.shape}: score both on the same sentences, with the same seeds"
        )
