"""The fit against SciPy's general least squares, exact data and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from transformer.errors import UserError
from transformer.studies import power_law

SIZES = np.repeat(np.geomspace(2e4, 2e6, 6), 3)


def losses(noise, seed=0, floor=1.5, scale=30.0, exponent=0.3):
    return floor + scale * SIZES**-exponent + noise * np.random.default_rng(seed).normal(size=len(SIZES))


def test_fit_and_interval_are_those_of_general_least_squares():
    loss = losses(0.01)
    law = power_law.fit(SIZES, loss)

    def curve(size, floor, log_scale, exponent):
        return floor + np.exp(log_scale) * size**-exponent

    (floor, log_scale, exponent), _ = optimize.curve_fit(curve, SIZES, loss, p0=(1.0, 3.0, 0.2))
    assert (law.floor, law.scale, law.exponent) == pytest.approx((floor, math.exp(log_scale), exponent), rel=1e-4)
    # at the ends of the interval the best of the other two parameters is just F-significantly worse
    least, freedom = ((loss - curve(SIZES, floor, log_scale, exponent)) ** 2).sum(), len(SIZES) - 3
    for end in law.interval:
        design = np.stack([np.ones(len(SIZES)), SIZES**-end], axis=1)
        _, (squares,), *_ = np.linalg.lstsq(design, loss, rcond=None)
        assert (squares - least) / (least / freedom) == pytest.approx(stats.f.isf(0.05, 1, freedom), rel=1e-4)
    assert law.interval.low < law.exponent < law.interval.high


def test_exact_losses_and_missing_runs():
    loss = losses(0.0)
    loss[[0, 7]] = np.nan
    law = power_law.fit(SIZES, loss)
    assert (law.floor, law.scale, law.exponent) == pytest.approx((1.5, 30.0, 0.3), rel=1e-5)
    assert law.interval == pytest.approx((0.3, 0.3), rel=1e-5)
    assert law.freedom == len(SIZES) - 5


def test_no_floor_is_below_zero():
    """Losses whose best floor is negative: it is 0, and the curve is a line of log-loss in log-size to the last digit."""
    law = power_law.fit(SIZES, losses(0.0, floor=0.0, exponent=0.1))
    assert (law.floor, law.exponent) == (pytest.approx(0.0, abs=1e-3), pytest.approx(0.1, rel=1e-3))
    assert power_law.fit(SIZES, 5 - 0.2 * np.log(SIZES) ** 1.2).floor == 0.0


def test_losses_that_do_not_fall_bound_nothing():
    assert power_law.fit(SIZES, np.full(len(SIZES), 2.0)).interval == (0.0, math.inf)
    low, high = power_law.fit(SIZES, 2.0 + 0.1 * np.random.default_rng(0).normal(size=len(SIZES))).interval
    assert low < 0.3 and high == math.inf


def test_too_few_runs():
    assert power_law.fit(SIZES[::6], losses(0.0)[::6]).interval is None  # three runs, three parameters
    with pytest.raises(UserError, match="three sizes"):
        power_law.fit(SIZES[:6], losses(0.0)[:6])
    with pytest.raises(UserError, match="above 0"):
        power_law.fit(SIZES - SIZES[0], losses(0.0))
    with pytest.raises(UserError, match="three sizes"):
        power_law.fit(SIZES, np.full(len(SIZES), np.nan))


def test_intervals_cover():
    intervals = [power_law.fit(SIZES, losses(0.02, seed)).interval for seed in range(500)]
    assert 0.925 < np.mean([low <= 0.3 <= high for low, high in intervals]) < 0.975
