"""Loss against size, L = E + A / N^a (Hestness 2017; Hoffmann 2022, eq. 2 in one variable), with limits for a.

The noise of a loss is proportional to the loss, so logarithms are fitted by least squares. The interval of the exponent has
all values a whose sum of squares, with the best other two parameters for that a, is below an F bound (profile likelihood;
Bates & Watts 1988, 6.1). E and A are not negative.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from transformer.errors import UserError
from transformer.statistics.contrasts import ROUNDING, Interval

GRID = np.geomspace(1e-3, 10.0, 300)
SHARES = np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 97)])  # E in units of A times the geometric mean of N^-a


@dataclass(frozen=True)
class PowerLaw:
    """The fitted curve. `squares`: the best sum of squares for an exponent; `squares_G`: on `GRID`; `rounding`: smaller ones
    count as 0. `freedom`: residual degrees of freedom, 0 or less if there are too few runs for limits."""

    floor: float
    scale: float
    exponent: float
    freedom: int
    squares: Callable[[float], float]
    squares_G: np.ndarray
    rounding: float

    @property
    def value(self) -> float:
        return self.exponent

    def p_above(self, bound: float) -> float:
        """One-sided p of the hypothesis that the exponent is not above `bound`."""
        return self._p(bound, self.exponent > bound)

    def p_below(self, bound: float) -> float:
        return self._p(bound, self.exponent < bound)

    def _p(self, bound: float, beyond: bool) -> float:
        if self.freedom < 1:
            return 1.0
        least, there = self.squares(self.exponent), self.squares(bound) if bound > 0 else math.inf
        if there <= max(least, self.rounding):
            return 0.5
        t = math.sqrt((there - least) * self.freedom / least) if least > self.rounding else math.inf
        p = float(stats.t.sf(t, self.freedom))
        return p if beyond else 1 - p

    def low(self, alpha: float) -> float:
        """The lower limit; 0 if the losses give none."""
        return self._ends(alpha).low

    def high(self, alpha: float) -> float:
        """The upper limit; inf if the losses give none."""
        return self._ends(alpha).high

    def interval(self, level: float = 0.95) -> Interval | None:
        return self._ends((1 - level) / 2) if self.freedom > 0 else None

    def _ends(self, alpha: float) -> Interval:
        """The outermost exponents at which the sum of squares crosses the bound."""
        least = self.squares(self.exponent)
        bound = max(least * (1 + float(stats.t.isf(alpha, self.freedom)) ** 2 / self.freedom), self.rounding)
        inside = np.append(GRID[self.squares_G <= bound], self.exponent)

        def crossing(inner: float, outer: float) -> float:
            return float(optimize.brentq(lambda a: self.squares(a) - bound, inner, outer))  # pyright: ignore[reportArgumentType]

        lower, higher = GRID[inside.min() > GRID], GRID[inside.max() < GRID]
        low = crossing(inside.min(), lower[-1]) if len(lower) else 0.0
        high = crossing(inside.max(), higher[0]) if len(higher) else math.inf
        return Interval(low, high)


def fit(sizes_N: np.ndarray, losses_N: np.ndarray) -> PowerLaw:
    """Least squares of logarithms over runs of three or more sizes. Runs without a loss (nan) are left out.

    UserError if fewer than three sizes are left, or a size or a loss is not positive.
    """
    sizes_N, losses_N = np.asarray(sizes_N, dtype=np.float64), np.asarray(losses_N, dtype=np.float64)
    sizes_N, losses_N = sizes_N[np.isfinite(losses_N)], losses_N[np.isfinite(losses_N)]
    if len(np.unique(sizes_N)) < 3 or sizes_N.min() <= 0 or losses_N.min() <= 0:
        raise UserError(
            "a power law needs finished runs of at least three sizes, all above 0, and losses above 0; add sizes, or seeds of "
            "those that failed"
        )
    center = math.exp(np.log(sizes_N).mean())  # around 1, N^-a neither overflows nor vanishes
    unit_N, log_N = sizes_N / center, np.log(losses_N)

    def squares(exponent: float) -> float:
        return float(_best(np.array([exponent]), unit_N, log_N)[2][0])

    squares_G = _best(GRID, unit_N, log_N)[2]
    nearest = int(squares_G.argmin())
    around = GRID[max(nearest - 1, 0)], GRID[min(nearest + 1, len(GRID) - 1)]
    exponent = float(optimize.minimize_scalar(squares, bounds=around, method="bounded", options={"xatol": 1e-9}).x)  # pyright: ignore[reportAttributeAccessIssue]
    floor, scale, _ = (float(value[0]) for value in _best(np.array([exponent]), unit_N, log_N))
    rounding = len(log_N) * (ROUNDING * 1e3) ** 2
    return PowerLaw(floor, scale * center**exponent, exponent, len(log_N) - 3, squares, squares_G, rounding)


def _best(exponent_G: np.ndarray, unit_N: np.ndarray, log_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each exponent the best E >= 0 and A >= 0, and their sum of squares; all of shape G. The best A is known for a given
    E / A, so only that is searched: on a coarse grid, then by golden section."""
    x_GxN = unit_N ** -exponent_G[:, None]

    def rest(share_Gx: np.ndarray) -> np.ndarray:
        """The sum of squares for E / A, of shape G x any."""
        part = log_N - np.log(share_Gx[..., None] + x_GxN[:, None])
        return ((part - part.mean(-1, keepdims=True)) ** 2).sum(-1)

    nearest_G = rest(np.broadcast_to(SHARES, (len(exponent_G), len(SHARES)))).argmin(1)
    low_G, high_G = SHARES[np.maximum(nearest_G - 1, 0)], SHARES[np.minimum(nearest_G + 1, len(SHARES) - 1)]
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        inner_Gx2 = np.stack([high_G - golden * (high_G - low_G), low_G + golden * (high_G - low_G)], axis=1)
        left_G, right_G = rest(inner_Gx2).T
        low_G, high_G = np.where(left_G < right_G, low_G, inner_Gx2[:, 0]), np.where(left_G < right_G, inner_Gx2[:, 1], high_G)
    share_Gx3 = np.stack([SHARES[nearest_G], low_G, high_G], axis=1)
    squares_Gx3 = rest(share_Gx3)
    best_Gx1 = squares_Gx3.argmin(1)[:, None]
    share_G, squares_G = (np.take_along_axis(each, best_Gx1, 1)[:, 0] for each in (share_Gx3, squares_Gx3))
    scale_G = np.exp((log_N - np.log(share_G[:, None] + x_GxN)).mean(1))
    flat = ((log_N - log_N.mean()) ** 2).sum()  # only E
    level = flat <= squares_G
    floor_G = np.where(level, math.exp(log_N.mean()), share_G * scale_G)
    return floor_G, np.where(level, 0.0, scale_G), np.where(level, flat, squares_G)
