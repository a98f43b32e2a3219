"""Means and contrasts of a table of runs, for arms whose variances differ: intervals, Holm's families, Games and Howell.

A table maps each arm to one score per seed, the same seeds in all arms. nan is a run that diverged: it has no score to
average, but it is an outcome, and `outcomes` counts it. None is a missing outcome: a run that failed or does not exist.

A mean is taken on the scale of its metric (log for positive numbers, logit for percentages) and transformed back, and so are
the limits of its interval. The means of a contrast, a weighted sum of means in the metric's own units, are all taken on that
scale, or all untransformed. The limits of a contrast are recovered from those of the means (MOVER: Zou & Donner 2008; Zou,
Huang & Zhang 2009). On a linear scale that is Welch's t test, and the paired t test if seeds are blocks.

Letters: R runs of an arm. Leading axes are allowed everywhere, so that many simulated studies can be computed at once.
These are pure functions. Verdicts on claims are in `verdicts.py`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, special, stats

from transformer.errors import UserError, nearest

Scores = Sequence[float | None]
Table = Mapping[str, Scores]
Pair = tuple[str, str]  # an arm, and the arm that it is compared with
Scale = Literal["linear", "log", "logit"]

RANGES: Mapping[Scale, tuple[float, float]] = {"linear": (-math.inf, math.inf), "log": (0.0, math.inf), "logit": (0.0, 100.0)}
MANY = 1e6  # degrees of freedom, practically infinite
ROUNDING = 1e-12  # relative to the largest score: a spread or a difference below it counts as 0


class Interval(NamedTuple):
    low: float
    high: float


class Estimate(NamedTuple):
    """A mean over `count` runs. `value` is None without a run, `interval` None with fewer than two."""

    value: float | None
    interval: Interval | None
    count: int


# --- scales ------------------------------------------------------------------------------------------------------------


def forward(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Transforms scores to a scale. The logit is that of a percentage."""
    if scale == "log":
        return np.log(values)
    return special.logit(values / 100) if scale == "logit" else values


def inverse(values: np.ndarray, scale: Scale) -> np.ndarray:
    with np.errstate(over="ignore"):
        if scale == "log":
            return np.exp(values)
        return 100 * special.expit(values) if scale == "logit" else values


def possible(values: Sequence[np.ndarray], scale: Scale) -> Scale:
    """`scale`, or "linear" if a score is at an end of the scale or outside, where the transform is undefined."""
    inside = all(np.all(each > 0) and (scale != "logit" or np.all(each < 100)) for each in values)
    return scale if inside else "linear"


@dataclass(frozen=True)
class Mean:
    """A mean on its scale: `center` is the mean transformed back, `error` its standard error on the scale, `unit` the change of
    `center` with the mean. The arrays have the leading axes of the scores."""

    mean: np.ndarray
    center: np.ndarray
    error: np.ndarray
    unit: np.ndarray
    scale: Scale
    count: int
    range: tuple[float, float]

    @classmethod
    def of(cls, values_R: np.ndarray, scale: Scale = "linear", rounding: float = 0.0) -> "Mean":
        """The mean of finite scores (..., R), at least two. `rounding`: scores are multiples of this, so that each has a
        further variance of rounding² / 12, even if they do not vary."""
        limits = RANGES[scale]
        scale, count = possible([values_R], scale), values_R.shape[-1]
        scaled_R = forward(values_R, scale)
        mean, error = scaled_R.mean(-1), scaled_R.std(-1, ddof=1) / math.sqrt(count)
        center = inverse(mean, scale)
        varies = np.ptp(values_R, axis=-1) > ROUNDING * np.abs(values_R).max(-1)
        center, error = np.where(varies, center, values_R[..., 0]), np.where(varies, error, 0.0)
        unit = center if scale == "log" else center * (1 - center / 100) if scale == "logit" else np.ones_like(center)
        if rounding:
            error = np.hypot(error, rounding / math.sqrt(12 * count) / unit)
        return cls(mean, center, error, unit, scale, count, limits)

    def limit(self, quantile: np.ndarray | float) -> np.ndarray:
        """The mean plus this many standard errors, transformed back, within the range of the metric."""
        limit = np.clip(inverse(self.mean + quantile * self.error, self.scale), *self.range)
        return np.where(self.error > 0, limit, self.center)


def interval(values: Scores | np.ndarray, scale: Scale = "linear", level: float = 0.95, rounding: float = 0.0) -> Estimate:
    """Mean over seeds and its t interval on the scale, for the runs that did not diverge."""
    runs = finite(values)
    if len(runs) < 2:
        return Estimate(float(runs[0]) if len(runs) else None, None, len(runs))
    mean, quantile = Mean.of(runs, scale, rounding), float(stats.t.isf((1 - level) / 2, len(runs) - 1))
    return Estimate(float(mean.center), Interval(float(mean.limit(-quantile)), float(mean.limit(quantile))), len(runs))


# --- contrasts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of means, in the metric's units. `error`: its standard error, to first order; `freedom`: degrees of
    freedom of that. `correlation`: that of the means on their scales, from shared seeds; None: independent. `shared`: a
    standard error that all seeds have in common (`bootstrap.shared_error`). `least`: the smallest one-sided p that the scores
    can give, whatever their variance; a limit at a lower level is infinite."""

    means: Sequence[Mean]
    weights: Sequence[float]
    value: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    correlation: np.ndarray | None = None
    shared: float = 0.0
    least: float = 0.0

    @classmethod
    def of(
        cls,
        values_R: Sequence[np.ndarray],
        weights: Sequence[float],
        scale: Scale = "linear",
        blocked: bool = False,
        shared: float = 0.0,
        rounding: float = 0.0,
    ) -> "Contrast":
        """The contrast of the finite scores of each mean, at least two. `blocked`: run r of all arms has the same seed.
        `rounding`: as in `Mean.of`.

        Degrees of freedom are Welch's (1947), moved by a fraction of 2/R towards the smallest number that any variances give.
        Corrections for many comparisons use the far tails, where Welch's own degrees of freedom are too many for a few runs:
        with 11 comparisons, 3 seeds and an arm that varies a fifth as much as the others, the error rate would be 10 %; with
        this correction it is 6 %.
        """
        limits, scale = RANGES[scale], possible(values_R, scale)
        means = [dataclasses.replace(Mean.of(values, scale, rounding), range=limits) for values in values_R]
        parts = [weight * mean.unit * mean.error for weight, mean in zip(weights, means, strict=True)]
        value = sum(weight * mean.center for weight, mean in zip(weights, means, strict=True))
        variance = sum(part**2 for part in parts)
        correlation = None
        if blocked:
            scaled_MxR = np.stack([forward(values, scale) for values in values_R], axis=-2)
            apart_MxR = scaled_MxR - scaled_MxR.mean(-1, keepdims=True)
            rounding_M = np.stack(
                [rounding / math.sqrt(12) / mean.unit if rounding else 0 * mean.unit for mean in means], axis=-1
            )
            length_M = np.sqrt((apart_MxR**2).sum(-1) + (means[0].count - 1) * rounding_M**2)
            length_M = np.where(length_M > 0, length_M, 1.0)
            apart_MxR = apart_MxR / length_M[..., None]
            correlation = apart_MxR @ apart_MxR.swapaxes(-1, -2)
            if rounding:  # which is independent
                each = np.arange(len(means))
                correlation[..., each, each] = 1.0
            part_M = np.stack(parts, axis=-1)
            variance = np.maximum(np.einsum("...i,...ij,...j->...", part_M, correlation, part_M), 0.0)
            largest = np.max([np.abs(part) for part in parts], axis=0)
            variance = np.where(variance > (1e-7 * largest) ** 2, variance, 0.0)
        error = np.sqrt(variance + shared**2)
        least = min(mean.count for mean in means) - 1
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if blocked:
                freedom = least * (error**2 / variance) ** 2
            else:
                welch = error**4 / sum(part**4 / (mean.count - 1) for part, mean in zip(parts, means, strict=True))
                freedom = least + (1 - 2 / (least + 1)) * (welch - least)
        freedom = np.where(variance > 0, np.clip(freedom, least, MANY), MANY)
        return cls(means, weights, np.asarray(value), error, freedom, correlation, shared)

    def _distance(self, quantile: np.ndarray | float, side: int) -> np.ndarray:
        """The distance of the limit from the value, `quantile` standard errors above (side 1) or below it (-1)."""
        signs = np.sign(self.weights)
        apart = [
            np.abs(weight) * np.abs(mean.limit(side * sign * quantile) - mean.center)
            for mean, weight, sign in zip(self.means, self.weights, signs, strict=True)
        ]
        with np.errstate(invalid="ignore", over="ignore"):
            if self.correlation is None:
                square = sum(part**2 for part in apart)
            else:
                signed_M = np.stack(apart, axis=-1) * signs
                square = np.maximum(np.einsum("...i,...ij,...j->...", signed_M, self.correlation, signed_M), 0.0)
        return np.where(self.error > 0, np.sqrt(square + (quantile * self.shared) ** 2), 0.0)

    def low(self, alpha: float) -> np.ndarray:
        """The lower limit that is above the truth with probability `alpha`."""
        limit = self.value - self._distance(stats.t.isf(alpha, self.freedom), -1)
        return limit if alpha >= self.least else np.full_like(limit, -math.inf)

    def high(self, alpha: float) -> np.ndarray:
        limit = self.value + self._distance(stats.t.isf(alpha, self.freedom), 1)
        return limit if alpha >= self.least else np.full_like(limit, math.inf)

    def interval(self, level: float = 0.95) -> Interval:
        """Both limits of this contrast by itself."""
        return Interval(float(self.low((1 - level) / 2)), float(self.high((1 - level) / 2)))

    def p_above(self, bound: float) -> np.ndarray:
        """One-sided p of the hypothesis that it is not above `bound`."""
        return self._p(self.value - bound, -1)

    def p_below(self, bound: float) -> np.ndarray:
        """One-sided p of the hypothesis that it is not below `bound`."""
        return self._p(bound - self.value, 1)

    def _p(self, distance: np.ndarray, side: int) -> np.ndarray:
        """p of a limit at `distance` from the value on that side; above 1/2 if the distance is negative."""
        quantile = self.quantile(np.abs(distance), np.where(distance >= 0, side, -side))
        p = stats.t.sf(quantile, self.freedom)
        certain = np.where(distance > self._rounding, 0.0, 1.0)
        return np.maximum(np.where(self.error > 0, np.where(distance >= 0, p, 1 - p), certain), self.least)

    @property
    def _rounding(self) -> np.ndarray:
        """Smaller differences count as 0."""
        return ROUNDING * np.max([np.abs(mean.center) for mean in self.means], axis=0)

    def quantile(self, distance: np.ndarray, side: np.ndarray | int) -> np.ndarray:
        """The number of standard errors of a limit at this distance from the value: the inverse of `_distance`. The smallest
        number if the limit is at the end of the metric's range."""
        safe = np.where(self.error > 0, self.error, 1.0)
        if all(mean.range == RANGES["linear"] for mean in self.means):
            return distance / safe

        def of(quantile: np.ndarray) -> np.ndarray:
            return np.where(np.asarray(side) > 0, self._distance(quantile, 1), self._distance(quantile, -1))

        distance = distance - self._rounding
        low, high = np.zeros(np.shape(distance)), np.ones(np.shape(distance))
        for _ in range(60):
            short = of(high) < distance
            if not short.any():
                break
            low, high = np.where(short, high, low), np.where(short, 2 * high, high)
        for _ in range(60):
            middle = (low + high) / 2
            short = of(middle) < distance
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return (low + high) / 2


def contrast(
    table: Table,
    weights: Mapping[str, float],
    scale: Scale = "linear",
    blocked: bool = False,
    shared: float = 0.0,
    rounding: float = 0.0,
) -> Contrast | None:
    """The contrast of a table's arms, or None if one of them has too few runs. `blocked`: only seeds that all arms have are
    used. `shared`, `rounding`: as in `Contrast`."""
    for arm in weights:
        check_arm(table, arm)
    _rectangle(table)
    values = [np.array(table[arm], dtype=np.float64) for arm in weights]
    if blocked:
        both = np.all([np.isfinite(each) for each in values], axis=0)
        values = [each[both] for each in values]
    values = [each[np.isfinite(each)] for each in values]
    if min(map(len, values)) < 2:
        return None
    return Contrast.of(values, list(weights.values()), scale, blocked, shared, rounding)


def difference(table: Table, weights: Mapping[str, float], scale: Scale = "linear") -> float | None:
    """Only the value of the contrast, for which one run of each arm is enough."""
    scale = possible([finite(table[arm]) for arm in weights], scale)
    means = [interval(table[arm], scale).value for arm in weights]
    if any(mean is None for mean in means):
        return None
    return sum(weight * mean for weight, mean in zip(weights.values(), means, strict=True) if mean is not None)


def slope(sizes: Sequence[float]) -> list[float]:
    """The weights with which the sum of means is the least-squares slope for each doubling of the size."""
    log_M = np.log2(np.asarray(sizes, dtype=np.float64))
    apart_M = log_M - log_M.mean()
    return (apart_M / (apart_M**2).sum()).tolist()


def reciprocal_ranks(
    table: Table, groups: Sequence[Mapping[str, str]], higher_is_better: bool
) -> dict[str, list[float | None]]:
    """By name and seed, the mean over groups (tasks) of 1 / rank among the group's arms, where the best has rank 1.

    `groups`: for each group, the arm of each name. Equal scores share the mean of their ranks; a run that diverged is last.
    None if a run of the seed is missing.
    """
    sign = -1 if higher_is_better else 1
    scores = [[table[group[name]] for name in groups[0]] for group in groups]
    absent_R = np.array([[[v is None for v in each] for each in group] for group in scores]).any((0, 1))
    score_GxAxR = np.array(scores, dtype=np.float64)
    mean_AxR = (1 / stats.rankdata(np.where(np.isfinite(score_GxAxR), sign * score_GxAxR, np.inf), axis=1)).mean(0)
    known_AxR = np.where(absent_R, None, mean_AxR)
    return {name: list(known_R) for name, known_R in zip(groups[0], known_AxR, strict=True)}


def neighbours(arms: Sequence[str]) -> list[Pair]:
    """The pairs of a claimed order, each arm with the next."""
    return list(itertools.pairwise(arms))


# --- multiple testing --------------------------------------------------------------------------------------------------


def holm(chains: Sequence[Sequence[float]]) -> list[list[float]]:
    """Holm's (1979) adjusted p values for chains of hypotheses: the p values of each contrast's thresholds, nearest first.

    The next threshold of a chain is tested once the previous one is passed, and a contrast leaves the family once it has passed
    its last threshold. At each step the family's level is divided by the number of remaining contrasts. Because the thresholds
    of one contrast are nested, this is a closed test whose intersections are Bonferroni's.
    """
    result: list[list[float]] = [[1.0] * len(chain) for chain in chains]
    states, running = [0] * len(chains), 0.0
    while active := [i for i, chain in enumerate(chains) if states[i] < len(chain)]:
        i = min(active, key=lambda i: chains[i][states[i]])
        running = max(running, min(1.0, len(active) * chains[i][states[i]]))
        result[i][states[i]] = running
        states[i] += 1
    return result


def holm_levels(adjusted: Sequence[Sequence[float]], alpha: float) -> list[float | None]:
    """The level of each contrast's simultaneous limit that agrees with Holm's decisions (Strassburger & Bretz 2008, Guilbaud
    2008): alpha divided by the number of remaining contrasts. None for a contrast that has left the family, whose limit is its
    last threshold, unless all have left.
    """
    left = [any(p > alpha for p in chain) for chain in adjusted]
    if not any(left):
        return [alpha / max(len(adjusted), 1)] * len(adjusted)
    return [alpha / sum(left) if stays else None for stays in left]


def games_howell(contrast: Contrast, arms: int, level: float = 0.95) -> tuple[Interval, float]:
    """Interval and p of one pair among all pairs of `arms` arms (Games & Howell 1976), by the studentized range."""
    freedom, root = float(contrast.freedom), math.sqrt(2)
    bound = studentized_range_bound(1 - level, arms, freedom) / root
    low, high = (float(contrast.value + side * contrast._distance(bound, side)) for side in (-1, 1))
    if 1 - level < (least := 2 * contrast.least):
        low, high = -math.inf, math.inf
    value = float(contrast.value)
    if not contrast.error > 0:
        return Interval(low, high), max(float(abs(value) <= contrast._rounding), least)
    quantile = float(contrast.quantile(np.abs(contrast.value), -1 if value > 0 else 1))
    return Interval(low, high), max(studentized_range_tail(root * quantile, arms, freedom), least)


@functools.cache
def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature between -1 and 1."""
    return special.roots_legendre(count)


@functools.cache
def _range_distribution(arms: int) -> tuple[np.ndarray, np.ndarray]:
    """P(range of `arms` standard normal numbers <= w), on a grid of w."""
    w_G = np.concatenate([np.linspace(0, 16, 1601), [1e9]])
    z_Z, weight_Z = _nodes(200)
    z_Z = 10 * z_Z
    density_Z = 10 * weight_Z * stats.norm.pdf(z_Z)
    inside_GxZ = special.ndtr(z_Z) - special.ndtr(z_Z - w_G[:, None])
    return w_G, np.minimum(arms * inside_GxZ ** (arms - 1) @ density_Z, 1.0)


def studentized_range_tail(bound: float, arms: int, freedom: float) -> float:
    """P(studentized range of `arms` means >= bound), much faster than SciPy's."""
    w_G, inside_G = _range_distribution(arms)
    share_S, weight_S = _nodes(400)  # integrates over ln(estimated / true standard deviation)
    spread = min(12 / math.sqrt(2 * freedom), 30.0)
    log_S = np.clip(spread * share_S, -700, 5)
    density_S = 2 * stats.chi2.pdf(freedom * np.exp(2 * log_S), freedom) * freedom * np.exp(2 * log_S)
    outside_S = 1 - np.interp(bound * np.exp(log_S), w_G, inside_G)
    return float(np.clip(spread * weight_S @ (density_S * outside_S), 0.0, 1.0))


@functools.lru_cache(10_000)
def studentized_range_bound(alpha: float, arms: int, freedom: float) -> float:
    """The bound at which `studentized_range_tail` is `alpha`."""
    high = 8.0
    while studentized_range_tail(high, arms, freedom) > alpha:
        high *= 2
    return float(optimize.brentq(lambda q: studentized_range_tail(q, arms, freedom) - alpha, 0.0, high, xtol=1e-6))  # pyright: ignore[reportArgumentType]


# --- what a study can show ---------------------------------------------------------------------------------------------


def expected(weights: Sequence[float], runs: int, blocked: bool = False) -> tuple[float, float]:
    """Standard error and degrees of freedom of a contrast of arms with equal variances, in standard deviations of runs."""
    square, least = sum(weight**2 for weight in weights), runs - 1
    welch = least * square**2 / sum(weight**4 for weight in weights)
    return math.sqrt(square / runs), least if blocked else least + (1 - 2 / runs) * (welch - least)


def detectable(error: float, freedom: float, tests: int, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true contrast that is found with probability `power` as the first of `tests` tests with Holm's correction.

    `error` and `freedom` are those of the contrast. Found means shown to differ from 0, in the right direction.
    """
    return _solve(lambda size, noise, bound: special.ndtr(size - bound * noise), error, freedom, tests, power, level)


def provable_margin(error: float, freedom: float, tests: int, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest margin within which two equal arms are found equal with probability `power`. Arguments as in
    `detectable`."""

    def inside(margin: float, noise: np.ndarray, bound: float) -> np.ndarray:
        return np.maximum(2 * special.ndtr(margin - bound * noise) - 1, 0.0)

    return _solve(inside, error, freedom, tests, power, level)


def _solve(found, error: float, freedom: float, tests: int, power: float, level: float) -> float:
    """The size at which `found`, averaged over the possible estimates of the noise, reaches `power`."""
    bound = float(stats.t.isf((1 - level) / (2 * tests), freedom))
    noise = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)  # estimated / true standard error
    size = optimize.brentq(lambda size: found(size, noise, bound).mean() - power, 0.0, 10 + 5 * bound)
    return float(size) * error  # pyright: ignore[reportArgumentType]


# --- runs that diverged ------------------------------------------------------------------------------------------------


def outcomes(table: Table, arms: Sequence[str]) -> tuple[int, int]:
    """How many runs of the arms diverged, and how many there are."""
    finite = [math.isfinite(score) for arm in arms for score in table[arm] if score is not None]
    return finite.count(False), len(finite)


def diverges_more(ours: tuple[int, int], theirs: tuple[int, int]) -> float:
    """Fisher's exact one-sided p of the hypothesis that ours do not diverge more often than theirs, from `outcomes`."""
    counts = [[count, runs - count] for count, runs in (ours, theirs)]
    return _p(stats.fisher_exact(counts, alternative="greater"))


def _p(test: Any) -> float:
    """The p value of one of SciPy's tests, whose result types are not declared."""
    return float(test.pvalue)


def finite(values: Scores | np.ndarray) -> np.ndarray:
    """The scores of runs that did not diverge."""
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


def _rectangle(table: Table) -> None:
    if len({len(values) for values in table.values()}) != 1:
        counts = ", ".join(f"{arm}: {len(values)}" for arm, values in table.items())
        raise UserError(f"arms have different numbers of seeds ({counts}); give None for a run that does not exist")


def check_arm(table: Table, arm: str) -> None:
    if arm not in table:
        raise UserError(f"no arm {arm!r} in the table of runs, which has {', '.join(table)}{nearest(arm, table)}")
