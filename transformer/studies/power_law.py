"""Loss against size, L = E + A / N^a (Hestness 2017; Hoffmann 2022, eq. 2 in one variable), with an interval for a.

For a given exponent a the model is linear in E and A, so the fit is a search along a alone, and so is the interval: all a
whose sum of squares stays below an F bound (the profile likelihood; Bates & Watts 1988, 6.1). E and A are not negative.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from transformer.errors import UserError
from transformer.studies.statistics import ROUNDING, Interval

GRID = np.geomspace(1e-3, 10.0, 600)


@dataclass(frozen=True)
class PowerLaw:
    """The fitted curve. `interval` is of the exponent: 0 or inf as a bound says that the losses set none on that side; None
    if there are too few runs for an interval."""

    floor: float
    scale: float
    exponent: float
    interval: Interval | None
    freedom: int


def fit(sizes_N: np.ndarray, losses_N: np.ndarray, level: float = 0.95) -> PowerLaw:
    """Least squares over runs of three or more sizes. Runs without a loss (nan) are left out.

    UserError if fewer than three sizes are left, or one is not positive.
    """
    sizes_N, losses_N = np.asarray(sizes_N, dtype=np.float64), np.asarray(losses_N, dtype=np.float64)
    sizes_N, losses_N = sizes_N[np.isfinite(losses_N)], losses_N[np.isfinite(losses_N)]
    if len(np.unique(sizes_N)) < 3 or sizes_N.min() <= 0:
        raise UserError(
            "a power law needs finished runs of at least three sizes, all above 0; add sizes, or seeds of those that failed"
        )
    center = math.exp(np.log(sizes_N).mean())  # around 1, N^-a neither overflows nor vanishes

    def squares(exponent: float) -> float:
        return float(_linear(np.array([exponent]), sizes_N / center, losses_N)[2][0])

    squares_G = _linear(GRID, sizes_N / center, losses_N)[2]
    nearest = int(squares_G.argmin())
    around = GRID[max(nearest - 1, 0)], GRID[min(nearest + 1, len(GRID) - 1)]
    exponent = float(optimize.minimize_scalar(squares, bounds=around, method="bounded", options={"xatol": 1e-9}).x)  # pyright: ignore[reportAttributeAccessIssue]
    floor, scale, least = (float(value[0]) for value in _linear(np.array([exponent]), sizes_N / center, losses_N))
    freedom = len(losses_N) - 3
    interval = None
    if freedom > 0:
        bound = least * (1 + float(stats.f.isf(1 - level, 1, freedom)) / freedom)
        rounding = len(losses_N) * (ROUNDING * np.abs(losses_N).max()) ** 2
        interval = _crossings(squares, squares_G, exponent, max(bound, rounding))
    return PowerLaw(floor, scale * center**exponent, exponent, interval, freedom)


def _linear(exponent_G: np.ndarray, sizes_N: np.ndarray, losses_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each exponent the best E >= 0 and A >= 0, and their sum of squares; all of shape G."""
    x_GxN = sizes_N ** -exponent_G[:, None]
    mean_G = x_GxN.mean(axis=1)
    apart_GxN = x_GxN - mean_G[:, None]
    scale_G = np.maximum(apart_GxN @ losses_N / (apart_GxN**2).sum(axis=1), 0.0)
    floor_G = losses_N.mean() - scale_G * mean_G
    below = floor_G < 0
    scale_G[below] = (x_GxN @ losses_N / (x_GxN**2).sum(axis=1))[below]
    floor_G[below] = 0.0
    rest_GxN = losses_N - floor_G[:, None] - scale_G[:, None] * x_GxN
    return floor_G, scale_G, (rest_GxN**2).sum(axis=1)


def _crossings(squares, squares_G: np.ndarray, exponent: float, bound: float) -> Interval:
    """The outermost exponents at which the sum of squares crosses `bound`."""
    inside = np.append(GRID[squares_G <= bound], exponent)

    def crossing(inner: float, outer: float) -> float:
        return float(optimize.brentq(lambda a: squares(a) - bound, inner, outer))  # pyright: ignore[reportArgumentType]

    lower, higher = GRID[inside.min() > GRID], GRID[inside.max() < GRID]
    low = crossing(inside.min(), lower[-1]) if len(lower) else 0.0
    high = crossing(inside.max(), higher[0]) if len(higher) else math.inf
    return Interval(low, high)
