"""Differences of scores of a whole test set, such as BLEU, by resampling its sentences (and seeds).

A score is a function of sums over sentences: `score` maps sums (..., K) to scores (...), for BLEU K counts of n-grams and
lengths. Letters: R seeds, S sentences, K statistics of a sentence, B resamples. The draws depend on `seed` alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from transformer.errors import UserError
from transformer.studies.statistics import Interval, around

TWO = "these two checkpoints"
Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Resampled:
    """Ours minus theirs, and whom it is about: two checkpoints, or two arms. `interval` and `p` are None with one seed."""

    value: float
    interval: Interval | None
    p: float | None
    about: str


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
    return Resampled(value, Interval(float(low), float(high)), p, TWO)


def arms(score: Score, ours_RxSxK, theirs_RxSxK, level: float = 0.95, samples: int = 1000, seed: int = 0) -> Resampled:
    """Seeds and sentences resampled together: the difference of two arms, on sentences of this kind.

    Row r of both is seed r; a seed is left out if either run has no statistics (nan). R - 1 of R seeds are drawn, which
    makes the variance over seeds unbiased (Rao & Wu 1988); a t interval then pays for there being few of them, with degrees of
    freedom as Satterthwaite (1946): R - 1 if the seeds make all the difference, many if the sentences do.
    UserError if the two were not scored on the same sentences, or no seed is left. For several arms, raise `level`.
    """
    ours_RxSxK, theirs_RxSxK = np.asarray(ours_RxSxK, dtype=np.float64), np.asarray(theirs_RxSxK, dtype=np.float64)
    _alike(ours_RxSxK, theirs_RxSxK)
    kept = np.isfinite(ours_RxSxK).all(axis=(1, 2)) & np.isfinite(theirs_RxSxK).all(axis=(1, 2))
    if not kept.any():
        raise UserError("no seed finished in both arms, so there is nothing to compare; train more seeds")
    rng = np.random.default_rng(seed)
    difference_R, resampled_BxR = _differences(score, ours_RxSxK[kept], theirs_RxSxK[kept], samples, rng)
    value, runs = float(difference_R.mean()), len(difference_R)
    if runs == 1:
        return Resampled(value, None, None, "these two arms, one seed")
    drawn_BxR = rng.integers(runs, size=(samples, runs - 1))
    variance = float(np.take_along_axis(resampled_BxR, drawn_BxR, axis=1).mean(axis=1).var(ddof=1))
    if variance == 0:
        return Resampled(value, around(value, 0.0), float(value == 0), "these two arms")
    by_seed = float(difference_R.var(ddof=1)) / runs
    freedom = (runs - 1) * max(variance / by_seed, 1.0) ** 2 if by_seed else np.inf
    half = float(stats.t.isf((1 - level) / 2, freedom)) * variance**0.5
    p = 2 * float(stats.t.sf(abs(value) / variance**0.5, freedom))
    return Resampled(value, around(value, half), p, "these two arms")


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
