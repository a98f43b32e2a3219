"""The fit against SciPy's general least squares, exact data and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from transformer.errors import UserError
from transformer.statistics import power_law

SIZES = np.repeat(np.geomspace(2e4, 2e6, 6), 3)


def losses(noise, seed=0, floor=1.5, scale=30.0, exponent=0.3):
    """With noise in proportion."""
    return (floor + scale * SIZES**-exponent) * np.exp(noise * np.random.default_rng(seed).normal(size=len(SIZES)))


def test_fit_and_interval_are_those_of_general_least_squares():
    loss = losses(0.01)
    law = power_law.fit(SIZES, loss)

    def curve(size, floor, log_scale, exponent):
        return np.log(floor + np.exp(log_scale) * size**-exponent)

    (floor, log_scale, exponent), _ = optimize.curve_fit(curve, SIZES, np.log(loss), p0=(1.0, 3.0, 0.2))
    assert (law.floor, law.scale, law.exponent) == pytest.approx((floor, math.exp(log_scale), exponent), rel=1e-4)
    # at the ends of the interval the best of the other two parameters is just F-significantly worse
    least, freedom = ((np.log(loss) - curve(SIZES, floor, log_scale, exponent)) ** 2).sum(), len(SIZES) - 3
    for end in law.interval():
        best = optimize.least_squares(lambda rest, end=end: np.log(loss) - curve(SIZES, *rest, end), (1.0, 3.0), xtol=1e-12)
        assert (2 * best.cost - least) / (least / freedom) == pytest.approx(stats.f.isf(0.05, 1, freedom), rel=1e-4)
    assert law.interval().low < law.exponent < law.interval().high
    assert law.p_above(law.low(0.01)) == pytest.approx(0.01) and law.p_below(law.high(0.2)) == pytest.approx(0.2)
    assert law.p_above(law.high(0.2)) == pytest.approx(0.8)


def test_exact_losses_and_missing_runs():
    loss = losses(0.0)
    loss[[0, 7]] = np.nan
    law = power_law.fit(SIZES, loss)
    assert (law.floor, law.scale, law.exponent) == pytest.approx((1.5, 30.0, 0.3), rel=1e-5)
    assert law.interval() == pytest.approx((0.3, 0.3), rel=1e-5)
    assert law.freedom == len(SIZES) - 5


def test_no_floor_is_below_zero():
    """Losses whose best floor is negative: it is 0, and the curve is a line of log-loss in log-size to the last digit."""
    law = power_law.fit(SIZES, losses(0.0, floor=0.0, exponent=0.1))
    assert (law.floor, law.exponent) == (pytest.approx(0.0, abs=1e-3), pytest.approx(0.1, rel=1e-3))
    assert power_law.fit(SIZES, 5 - 0.2 * np.log(SIZES) ** 1.2).floor == 0.0


def test_losses_that_do_not_fall_bound_nothing():
    assert power_law.fit(SIZES, np.full(len(SIZES), 2.0)).interval() == (0.0, math.inf)
    low, high = power_law.fit(SIZES, 2.0 + 0.1 * np.random.default_rng(0).normal(size=len(SIZES))).interval()
    assert low < 0.3 and high > 1


def test_too_few_runs():
    assert power_law.fit(SIZES[::6], losses(0.0)[::6]).interval() is None  # three runs, three parameters
    with pytest.raises(UserError, match="three sizes"):
        power_law.fit(SIZES[:6], losses(0.0)[:6])
    with pytest.raises(UserError, match="above 0"):
        power_law.fit(SIZES - SIZES[0], losses(0.0))
    with pytest.raises(UserError, match="three sizes"):
        power_law.fit(SIZES, np.full(len(SIZES), np.nan))


def test_intervals_cover():
    """By p at the truth, which is faster than its inverse."""
    laws = [power_law.fit(SIZES, losses(0.02, seed)) for seed in range(30)]
    outside = np.mean([min(law.p_above(0.3), law.p_below(0.3)) < 0.1 for law in laws])
    assert 0.03 < outside < 0.42
