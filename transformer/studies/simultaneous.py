"""The largest of several correlated t statistics: critical values, p values, and what a study can detect.

Dunnett (1955) for any design: the arms share a comparison arm, so their t statistics are correlated; the correlation comes
from the design (1/2 if it is balanced). Pure functions; the differences themselves are in `statistics.py`.
"""

import functools
import math

import numpy as np
from scipy import optimize, special, stats
from scipy.stats import qmc

Correlation = tuple[tuple[float, ...], ...]


def as_key(correlation_PxP: np.ndarray) -> Correlation:
    """A matrix of correlations as the hashable argument of the functions below, without its rounding noise."""
    return tuple(tuple(row) for row in np.round(correlation_PxP, 10).tolist())


def dunnett(arms: int) -> Correlation:
    """The correlations of `arms` - 1 differences from one comparison arm in a balanced design."""
    return as_key(np.full((arms - 1, arms - 1), 0.5) + 0.5 * np.eye(arms - 1))


def tail(bound: float, correlation: Correlation, freedom: float) -> float:
    """P(max |t| >= bound) of a multivariate t with `freedom` degrees of freedom (two-sided, adjusted p value of `bound`).

    t is a radius times a point of the ellipsoid (Genz & Bretz 2009, 4.2): the radius squared over the dimension has an F
    distribution, known in closed form down to the smallest p; the points are evenly spread and always the same.
    """
    rank, reach = _directions(correlation)
    return float(special.fdtrc(rank, freedom, (bound / reach) ** 2 / rank).mean())


@functools.cache
def critical(correlation: Correlation, freedom: float, level: float = 0.95) -> float:
    """The bound that max |t| stays under with probability `level`: the half-width, in standard errors, of all intervals."""
    highest = 1.01 * float(stats.t.isf((1 - level) / (2 * len(correlation)), freedom))  # Bonferroni
    return float(optimize.brentq(lambda bound: tail(bound, correlation, freedom) - (1 - level), 0.0, highest))  # pyright: ignore[reportArgumentType]


@functools.cache
def _directions(correlation: Correlation) -> tuple[int, np.ndarray]:
    """The rank, and for evenly spread directions the largest |t| at radius 1 (2**15 of them, sorted, as means of 256 bins)."""
    root_PxR = _root(np.array(correlation))
    rank = root_PxR.shape[1]
    points_NxR = qmc.MultivariateNormalQMC(np.zeros(rank), rng=0).random(2**15)
    points_NxR /= np.linalg.norm(points_NxR, axis=1, keepdims=True)
    reach_N = np.abs(points_NxR @ root_PxR.T).max(axis=1)
    return rank, np.sort(reach_N).reshape(256, -1).mean(axis=1)


def _root(matrix_PxP: np.ndarray) -> np.ndarray:
    """A root PxR of a matrix of rank R: Cholesky's, the largest variance that is left first.

    By hand, so that it is the same everywhere. Eigenvectors would not do: where variances are equal, as in a balanced design,
    which axes are found differs by processor, and with them the third digit of p.
    """
    left_PxP, columns = matrix_PxP.astype(float), []
    while left_PxP[pivot := left_PxP.diagonal().argmax(), pivot] > 1e-9:
        columns.append(left_PxP[pivot] / np.sqrt(left_PxP[pivot, pivot]))
        left_PxP = left_PxP - np.multiply.outer(columns[-1], columns[-1])
    return np.stack(columns, axis=1)


def detectable(residual: float, seeds: int, arms: int, power: float = 0.8, level: float = 0.95) -> float | None:
    """The smallest true difference from the comparison arm that is found with probability `power`.

    `residual` is the standard deviation within an arm once the seed's share is taken out, `arms` counts the comparison arm.
    Found means: the simultaneous interval of arm and seed's two-way model leaves out 0. None if one seed or one arm.
    """
    return _solve(lambda size, noise, bound: special.ndtr(size - bound * noise), residual, seeds, arms, power, level)


def provable_margin(residual: float, seeds: int, arms: int, power: float = 0.8, level: float = 0.95) -> float | None:
    """The smallest margin within which two arms that are equal are found equal with probability `power`. As `detectable`."""

    def inside(margin: float, noise: np.ndarray, bound: float) -> np.ndarray:
        return np.maximum(2 * special.ndtr(margin - bound * noise) - 1, 0.0)

    return _solve(inside, residual, seeds, arms, power, level)


def exploratory(claimed: float, least: float | None) -> bool:
    """Is a claimed effect (or margin of equality) below the least that the study can show, so that it cannot settle it?"""
    return least is None or claimed < least


def _solve(found, residual: float, seeds: int, arms: int, power: float, level: float) -> float | None:
    """The size at which `found`, averaged over what the study will estimate as its noise, reaches `power`."""
    freedom = (arms - 1) * (seeds - 1)
    if freedom < 1:
        return None
    bound = critical(dunnett(arms), freedom, level)
    noise = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)  # estimated over true
    highest = 10 + 5 * bound  # in standard errors
    size = optimize.brentq(lambda size: found(size, noise, bound).mean() - power, 0.0, highest)
    return float(size) * residual * math.sqrt(2 / seeds)  # pyright: ignore[reportArgumentType]
