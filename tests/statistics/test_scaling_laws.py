"""Scaling laws on synthetic losses with known exponents; the F test against simulated misfits."""

import numpy as np
import pytest
from exact_laws import ALPHA, BEST, BETA, BUDGETS, FLOOR, SIZE_SCALE, SIZES, TOKEN_SCALE, TOKENS, losses
from scipy import stats

from transformer.errors import UserError
from transformer.statistics import scaling_laws


def test_exact_losses_give_the_law_back():
    law = scaling_laws.fit(SIZES, TOKENS, losses())
    assert (law.size_exponent, law.token_exponent) == pytest.approx((ALPHA, BETA), rel=0.01)
    assert (law.floor, law.size_scale, law.token_scale) == pytest.approx((FLOOR, SIZE_SCALE, TOKEN_SCALE), rel=0.05)
    assert law.optimal_exponent == pytest.approx(BETA / (ALPHA + BETA), rel=0.005)


def test_parabola_and_law_find_the_exponent_of_the_optimal_size():
    """0.4375: both within 0.03, with noise of half a percent; the interval holds it, and excludes Kaplan's 0.73."""
    truth = BETA / (ALPHA + BETA)
    found = scaling_laws.optimal(SIZES, TOKENS, BUDGETS, losses(0.005), samples=400, law_samples=10)
    assert found.value == pytest.approx(truth, abs=0.03) and found.law.optimal_exponent == pytest.approx(truth, abs=0.1)
    low, high = found.interval()
    assert low < truth < high < 0.6 and found.law_interval.low < found.law.optimal_exponent < found.law_interval.high
    assert found.p_below(0.73) == pytest.approx(1 / 401) and found.p_above(0.73) == 1.0 and found.p_above(truth) > 0.02
    assert found.misfit is not None and found.misfit > 0.01 and not found.beyond
    below = scaling_laws.profiles(SIZES, BUDGETS, np.exp((np.log(SIZES / BEST) + 3) ** 2))  # e^-3 of it, and 1/4 was tried
    assert below.beyond_BxK.all() and below.log_best_BxK[0] == pytest.approx(np.log(BEST[::14]) - 3)


def test_intervals_through_three_sizes_hold_the_exponent():
    """Parabolas that go through the means of three sizes: 8 simulated studies of three seeds, with noise of 1 %. With one seed
    nothing is known about the noise."""
    sizes, tokens, budgets = (each.reshape(4, 7, 2)[:3, ::3, [0, 0, 1]].ravel() for each in (SIZES, TOKENS, BUDGETS))
    exact = FLOOR + SIZE_SCALE / sizes**ALPHA + TOKEN_SCALE / tokens**BETA
    rng, truth, widths = np.random.default_rng(0), BETA / (ALPHA + BETA), []
    for _ in range(8):
        noisy = exact * np.exp(0.01 * rng.normal(size=len(exact)))
        low, high = scaling_laws.optimal(sizes, tokens, budgets, noisy, samples=200, law_samples=1).interval()
        widths += [high - low] if low < truth < high else []
    assert len(widths) >= 6 and 0.1 < np.median(widths) < 0.25
    for few in (scaling_laws.optimal, lambda n, d, c, loss: scaling_laws.law_exponent(n[::2], d[::2], loss[::2], True)):
        with pytest.raises(UserError, match="more finished runs than the [95] parameters of its curves"):
            few(*(each[::3] for each in (sizes, tokens, budgets, exact)))


def test_other_conventions_of_size_and_budget_move_the_exponent_as_they_must():
    """Budgets that also count a last layer, so that they differ within a parabola: N^2 for N doubles the exponent, C^2 for C
    halves it."""
    loss, budgets = losses(0.002), BUDGETS * (1 + SIZES**-0.2)
    found = [
        scaling_laws.profiles(sizes, counted, loss, BUDGETS).exponent_B[0]
        for sizes, counted in ((SIZES, budgets), (SIZES**2, budgets), (SIZES, budgets**2))
    ]
    assert found[1:] == pytest.approx([2 * found[0], found[0] / 2], rel=1e-6)
    best_K = np.exp(scaling_laws.profiles(SIZES, budgets, loss, BUDGETS).log_best_BxK[0])
    by_hand = np.polyfit(np.log(BUDGETS[::14] * (1 + best_K**-0.2)), np.log(best_K), 1)[0]
    assert found[0] == pytest.approx(by_hand, rel=0.01)


def test_exponents_of_the_law_have_intervals_that_hold_them():
    for of_size, truth in ((True, ALPHA), (False, BETA)):
        found = scaling_laws.law_exponent(SIZES, TOKENS, losses(0.003), of_size, samples=40)
        low, high = found.interval()
        assert low < truth < high and found.misfit is not None and found.misfit > 0.01
    bent = losses(0.001) * np.exp(0.02 * np.sin(3 * np.log(SIZES)))
    assert scaling_laws.law_exponent(SIZES, TOKENS, bent, True, samples=2).misfit < 0.01


def test_a_minimum_is_numpys_parabola():
    loss, first = losses(0.01), BUDGETS[0] == BUDGETS
    _, slope, curve = np.polyfit(np.log(SIZES[first]), np.log(loss[first]), 2)[::-1]
    found = scaling_laws.profiles(SIZES, BUDGETS, loss)
    assert found.log_best_BxK[0, 0] == pytest.approx(-slope / (2 * curve))
    assert found.parabola_BxKx3[0, 0] == pytest.approx(np.polyfit(np.log(SIZES[first]), np.log(loss[first]), 2)[::-1])


def test_lack_of_fit_has_its_level_and_finds_a_bend():
    """A line through 6 cells of 3 runs, 1,000 times: 5 % without a bend, nearly all with one; the p of one-way ANOVA for a
    curve that is one number."""
    rng, x, cells = np.random.default_rng(0), np.repeat(np.arange(6.0), 3), np.repeat(np.arange(6), 3)

    def rejected(bend: float) -> float:
        values = rng.normal(size=(1000, 18)) + bend * (x - 2.5) ** 2
        fitted = [np.polyval(np.polyfit(x, each, 1), x) for each in values]
        ps = [scaling_laws.lack_of_fit(each, curve, cells, 2) for each, curve in zip(values, fitted, strict=True)]
        return float(np.mean(np.array(ps) < 0.05))

    assert 0.03 < rejected(0.0) < 0.07 and rejected(0.5) > 0.9
    values = rng.normal(size=18)
    anova = stats.f_oneway(*values.reshape(6, 3)).pvalue
    assert scaling_laws.lack_of_fit(values, np.full(18, values.mean()), cells, 1) == pytest.approx(anova)
    assert scaling_laws.lack_of_fit(np.ones(18), np.ones(18), cells, 1) is None


def test_too_few_runs_are_named():
    with pytest.raises(UserError, match="two budgets"):
        scaling_laws.optimal(SIZES[:14], TOKENS[:14], BUDGETS[:14], losses()[:14])
    with pytest.raises(UserError, match="three sizes"):
        scaling_laws.fit([1.0, 2.0], [1.0, 2.0], [3.0, 2.0])
