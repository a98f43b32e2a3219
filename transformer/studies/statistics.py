"""Means, differences and counts of a table of runs: intervals over seeds, arms against a comparison arm, divergence.

A table maps each arm to one score per seed, the same seeds in all arms. nan is a run that diverged: it has no score to
average, but it is an outcome, and `diverged` counts it. None is no outcome: a run that failed, or is not there.
Pure functions, nothing is read or printed.
Not here: what they say to a claim (`verdicts.py`), sentences of a test set (`bootstrap.py`), power (`simultaneous.py`).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from transformer.errors import UserError, nearest
from transformer.studies import simultaneous

Scores = Sequence[float | None]
Table = Mapping[str, Scores]
Pair = tuple[str, str]  # an arm, and the one that it is compared with
MANY = 1e6  # degrees of freedom, as good as any number
ROUNDING = 1e-12  # of the largest score: a spread or a difference below it is 0


class Interval(NamedTuple):
    low: float
    high: float


class Estimate(NamedTuple):
    """A mean over `count` runs. `value` is None without a run, `interval` None with fewer than two."""

    value: float | None
    interval: Interval | None
    count: int


@dataclass(frozen=True)
class Difference:
    """`arm` minus `against`. What the runs do not allow to be said is None: without an interval, one seed is all there is.
    `freedom`: degrees of freedom of the standard error `error`."""

    arm: str
    against: str
    value: float | None
    error: float | None = None
    freedom: float | None = None
    interval: Interval | None = None
    p: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Differences that hold together: all intervals cover at once with probability `level`, the p values are adjusted.

    `residual` is the pooled standard deviation (0: the runs do not vary, the intervals have no width), `freedom` its degrees
    of freedom.
    """

    differences: Mapping[Pair, Difference]
    freedom: int
    residual: float | None


class Divergence(NamedTuple):
    """Runs of an arm that diverged, and Fisher's exact p (two-sided) against the comparison arm; None of that arm itself."""

    count: int
    runs: int
    p: float | None


def interval(values: Scores | np.ndarray, level: float = 0.95) -> Estimate:
    """Mean over seeds and its t interval, of the runs that did not diverge."""
    finite = _finite(values)
    if len(finite) == 0:
        return Estimate(None, None, 0)
    mean = float(finite.mean())
    if len(finite) == 1:
        return Estimate(mean, None, 1)
    error = _spread(finite) / math.sqrt(len(finite))
    return Estimate(mean, around(mean, float(stats.t.isf((1 - level) / 2, len(finite) - 1)) * error), len(finite))


def compare(
    table: Table, against: str, level: float = 0.95, blocked: bool = True, shared: Mapping[Pair, float] | None = None
) -> Comparison:
    """Every arm against the arm `against`, with Dunnett's correction; see `contrasts`."""
    known(table, against)
    return contrasts(table, with_each(table, against), level, blocked, shared)


def with_each(arms: Iterable[str], against: str) -> list[Pair]:
    """The pairs of Dunnett's comparisons."""
    return [(arm, against) for arm in arms if arm != against]


def neighbours(arms: Sequence[str]) -> list[Pair]:
    """The pairs of a claimed order, each arm with the next."""
    return list(itertools.pairwise(arms))


def contrasts(
    table: Table,
    pairs: Sequence[Pair],
    level: float = 0.95,
    blocked: bool = True,
    shared: Mapping[Pair, float] | None = None,
) -> Comparison:
    """Differences of pairs of arms in the model score = arm + seed + noise, by least squares, the noise pooled over arms.

    Runs may be missing. `blocked=False` leaves the seed out of the model (for arms whose seeds have nothing in common it
    makes no difference to what is true, and gives more degrees of freedom). A difference that the runs do not determine (an
    arm without a run; arms that share no seed, if blocked) has no value.

    `shared`: by pair, either way round, a standard error that all of its seeds have in common, for the test's sentences being
    these (`bootstrap.shared_error`). It is added to that of the seeds, of which alone the degrees of freedom are few: those of
    both are Satterthwaite's (1946). The correlations of differences are taken to be those of the seeds.
    """
    for arm in (arm for pair in pairs for arm in pair):
        known(table, arm)
    values_AxS = _rectangle(table)
    arm_N, seed_N = np.nonzero(np.isfinite(values_AxS))
    score_N = values_AxS[arm_N, seed_N]
    scale = np.abs(score_N).max(initial=0.0)
    center = score_N.mean() if len(score_N) else 0.0

    arms, seeds = values_AxS.shape
    design_NxC = np.eye(arms)[arm_N]
    if blocked:
        design_NxC = np.concatenate([design_NxC, np.eye(seeds)[seed_N]], axis=1)
    inverse_CxN = np.linalg.pinv(design_NxC, rtol=1e-10)
    effect_C = inverse_CxN @ (score_N - center)
    residual_N = score_N - center - design_NxC @ effect_C
    freedom = len(score_N) - round(np.trace(design_NxC @ inverse_CxN))

    names = list(table)
    weight_PxC = np.zeros((len(pairs), design_NxC.shape[1]))
    for row, (arm, other) in zip(weight_PxC, pairs, strict=True):
        row[names.index(arm)] += 1
        row[names.index(other)] -= 1
    unknown_PxC = weight_PxC @ inverse_CxN @ design_NxC - weight_PxC
    difference_P = weight_PxC @ effect_C
    difference_P[np.abs(difference_P) <= ROUNDING * scale] = 0.0
    determined = np.flatnonzero(np.abs(unknown_PxC).max(axis=1, initial=0.0) < 1e-8).tolist()
    result = {pair: Difference(*pair, None) for pair in pairs}
    result |= {pairs[i]: Difference(*pairs[i], float(difference_P[i])) for i in determined}
    if freedom < 1 or not determined:
        return Comparison(result, freedom, None)

    residual = math.sqrt(float(residual_N @ residual_N) / freedom)
    residual = residual if residual > ROUNDING * scale else 0.0
    half_PxN = (weight_PxC @ inverse_CxN)[determined]
    covariance_PxP = half_PxN @ half_PxN.T
    unit_P = np.sqrt(np.diag(covariance_PxP))
    correlation = simultaneous.as_key(covariance_PxP / np.outer(unit_P, unit_P))
    both_ways = {pair: error for (ours, theirs), error in (shared or {}).items() for pair in ((ours, theirs), (theirs, ours))}
    for i, unit in zip(determined, unit_P.tolist(), strict=True):
        pair, value = pairs[i], float(difference_P[i])
        error = math.hypot(residual * unit, both_ways.get(pair, 0.0))
        own = _satterthwaite(freedom, residual * unit, error)
        p = simultaneous.tail(abs(value) / error, correlation, own) if error else float(value == 0)
        reach = simultaneous.critical(correlation, own, level) * error
        result[pair] = Difference(*pair, value, error, own, around(value, reach), p)
    return Comparison(result, freedom, residual)


def _satterthwaite(freedom: int, part: float, error: float) -> float:
    """Degrees of freedom of a standard error of which a part has `freedom` of them, the rest (nearly) any number."""
    return min(freedom * (error / part) ** 4, MANY) if part else MANY if error else float(freedom)


def welch(table: Table, against: str, level: float = 0.95) -> dict[str, Difference]:
    """Every arm against `against` by Welch's t test: unpaired, each arm its own variance, no correction for many arms."""
    known(table, against)
    _rectangle(table)
    return {arm: _welch(arm, against, _finite(table[arm]), _finite(table[against]), level) for arm in table if arm != against}


def _welch(arm: str, against: str, ours: np.ndarray, theirs: np.ndarray, level: float) -> Difference:
    if not len(ours) or not len(theirs):
        return Difference(arm, against, None)
    value = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Difference(arm, against, value)
    parts = [_spread(values) ** 2 / len(values) for values in (ours, theirs)]
    error = math.sqrt(sum(parts))
    if error == 0:
        value = value if abs(value) > ROUNDING * float(np.abs(theirs).max()) else 0.0
        return Difference(arm, against, value, 0.0, None, around(value, 0.0), float(value == 0))
    freedom = error**4 / (parts[0] ** 2 / (len(ours) - 1) + parts[1] ** 2 / (len(theirs) - 1))
    half = float(stats.t.isf((1 - level) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, freedom))
    return Difference(arm, against, value, error, freedom, around(value, half), p)


def variances_differ(table: Table, level: float = 0.05) -> bool | None:
    """Do the arms' variances differ clearly (Brown & Forsythe 1974)? Then Welch's test is the one to read.

    None if fewer than two arms have three runs: two are always equally far from their middle. Runs that do not vary at all
    do not differ.
    """
    groups = [scores for scores in map(_finite, table.values()) if len(scores) > 2]
    if len(groups) < 2:
        return None
    if not any(_spread(scores) for scores in groups):
        return False
    with np.errstate(divide="ignore", invalid="ignore"):  # deviations that are all equal within each arm
        test = stats.levene(*groups, center="median")
    return _p(test) < float(level)


def diverged(table: Table, against: str) -> dict[str, Divergence]:
    """For each arm the runs that diverged (nan, inf), with Fisher's exact test against the comparison arm."""
    known(table, against)
    _rectangle(table)
    runs = {arm: [math.isfinite(score) for score in scores if score is not None] for arm, scores in table.items()}
    lost = {arm: finite.count(False) for arm, finite in runs.items()}

    def exact(arm: str) -> float:
        return _p(stats.fisher_exact([[lost[name], len(runs[name]) - lost[name]] for name in (arm, against)]))

    return {arm: Divergence(lost[arm], len(runs[arm]), None if arm == against else exact(arm)) for arm in table}


def _p(test: Any) -> float:
    """The p value of one of SciPy's tests, whose result types are not declared."""
    return float(test.pvalue)


def _finite(values: Scores | np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


def _spread(values: np.ndarray) -> float:
    """Standard deviation; of equal values 0, not the rounding of their mean."""
    return float(values.std(ddof=1)) if np.ptp(values) > ROUNDING * np.abs(values).max() else 0.0


def around(value: float, half: float) -> Interval:
    """`value`, `half` to either side."""
    return Interval(value - half, value + half)


def _rectangle(table: Table) -> np.ndarray:
    """The scores, arms x seeds."""
    if len({len(values) for values in table.values()}) != 1:
        counts = ", ".join(f"{arm}: {len(values)}" for arm, values in table.items())
        raise UserError(f"arms have different numbers of seeds ({counts}); give None for a run that is not there")
    return np.array([list(values) for values in table.values()], dtype=np.float64)


def known(table: Table, arm: str) -> None:
    if arm not in table:
        raise UserError(f"no arm {arm!r} in the table of runs, which has {', '.join(table)}{nearest(arm, table)}")
