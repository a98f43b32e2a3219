"""Intervals and contrasts against SciPy, statsmodels and hand-worked numbers; error rates of simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from transformer.errors import UserError
from transformer.statistics import contrasts
from transformer.statistics.contrasts import Contrast

NAN = float("nan")


def drawn(arms, seeds, seed=0, spread=1.0):
    """Scores of arms 0, 1, ... without any difference, whose seeds matter."""
    rng = np.random.default_rng(seed)
    values_AxS = 10 + rng.normal(size=(arms, seeds)) + spread * rng.normal(size=seeds)
    return {str(arm): row.tolist() for arm, row in enumerate(values_AxS)}


# --- means -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["linear", "log", "logit"])
def test_interval_is_scipys(scale):
    forward, back = {
        "linear": (np.array, float),
        "log": (np.log, math.exp),
        "logit": (lambda x: np.log(x / (100 - np.array(x))), lambda y: 100 / (1 + math.exp(-y))),
    }[scale]
    finite = [3.1, 2.9, 3.4, 3.0]
    result = contrasts.interval([3.1, 2.9, NAN, 3.4, None, 3.0], scale, level=0.9)
    expected = stats.ttest_1samp(forward(finite), 0.0).confidence_interval(0.9)
    assert result.value == pytest.approx(back(np.mean(forward(finite))))
    assert result.interval == pytest.approx((back(expected.low), back(expected.high)))
    assert result.count == 4


def test_interval_of_one_run_none_and_equal_ones():
    assert contrasts.interval([2.5, NAN]) == (2.5, None, 1)
    assert contrasts.interval([NAN, float("inf")], "log") == (None, None, 0)
    assert contrasts.interval([0.1, 0.1, 0.1], "log")[:2] == (0.1, (0.1, 0.1))


def test_an_interval_stays_on_its_scale():
    low, high = contrasts.interval([99.0, 99.9], "logit").interval
    assert 0 < low < 99 < 99.9 < high < 100
    assert contrasts.interval([0.1, 0.3], "log").interval.low > 0
    end = contrasts.interval([99.0, 100.0], "logit")  # no logit: as it is, up to 100
    assert end.value == 99.5 and end.interval == pytest.approx((99.5 - 0.5 * stats.t.isf(0.025, 1), 100.0))


# --- contrasts ---------------------------------------------------------------------------------------------------------


def test_on_a_linear_scale_it_is_welchs_test():
    """The same error; degrees of freedom moved from Welch's towards 4, the smaller sample's, by 2 in 5."""
    rng = np.random.default_rng(2)
    ours, theirs = rng.normal(size=5), 1 + 5 * rng.normal(size=7)
    result, test = Contrast.of([ours, theirs], [1, -1]), stats.ttest_ind(ours, theirs, equal_var=False)
    assert result.value / result.error == pytest.approx(test.statistic)
    assert result.freedom == pytest.approx(4 + 0.6 * (test.df - 4))
    own = stats.t(result.freedom)
    assert result.interval(0.9) == pytest.approx(tuple(result.value + result.error * own.ppf([0.05, 0.95])))
    assert result.p_below(0.3) == pytest.approx(own.sf((0.3 - result.value) / result.error))
    assert result.p_above(0.3) == pytest.approx(1 - result.p_below(0.3))


def test_within_seeds_it_is_the_paired_test():
    table = drawn(2, 5, spread=3.0)
    test = stats.ttest_rel(table["1"], table["0"])
    for holes in (0, 2):
        table = {"1": [*table["1"], *[9.0] * holes], "0": [*table["0"], *[NAN, None][:holes]]}  # seeds that only one has
        ours = contrasts.contrast(table, {"1": 1, "0": -1}, blocked=True)
        assert ours.interval() == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert 2 * min(ours.p_above(0), ours.p_below(0)) == pytest.approx(test.pvalue)


@pytest.mark.parametrize("scale", ["log", "logit"])
@pytest.mark.parametrize("blocked", [False, True])
def test_limits_are_recovered_from_those_of_the_means(scale, blocked):
    """By hand, Zou & Donner 2008, equations for a difference; p is the level whose limit is the bound."""
    rng = np.random.default_rng(3)
    ours, theirs = 5 + rng.random(4), 3 + rng.random(4)
    result = Contrast.of([ours, theirs], [1, -1], scale, blocked)
    level = 1 - 2 * float(stats.t.sf(3.0, float(result.freedom)))
    limits = []
    for values in (ours, theirs):
        own = float(stats.t.sf(3.0, 3))  # as many standard errors away
        limits.append(contrasts.interval(values, scale, level=1 - 2 * own))
    (a, (a_low, a_high), _), (b, (b_low, b_high), _) = limits
    scaled = [contrasts.forward(values, scale) for values in (ours, theirs)]
    r = np.corrcoef(scaled)[0, 1] if blocked else 0.0
    low = a - b - math.sqrt((a - a_low) ** 2 + (b_high - b) ** 2 - 2 * r * (a - a_low) * (b_high - b))
    high = a - b + math.sqrt((a_high - a) ** 2 + (b - b_low) ** 2 - 2 * r * (a_high - a) * (b - b_low))
    assert result.interval(level) == pytest.approx((low, high))
    assert [float(p) for p in (result.p_above(low), result.p_below(high))] == pytest.approx([(1 - level) / 2] * 2)
    assert result.p_above(high) == pytest.approx((1 + level) / 2)


def test_arms_are_compared_on_one_scale():
    """A score of 100 has no logit, one of 0 no logarithm: then the difference is that of arithmetic means, of all arms."""
    for scale, theirs in (("logit", [60.0, 100.0, 95.0]), ("log", [0.0, 9.0, 1.0])):
        table = {"a": [50.0, 99.0, 90.0], "b": theirs}
        for blocked in (False, True):
            found = contrasts.contrast(table, {"a": 1, "b": -1}, scale, blocked)
            assert found.value == pytest.approx(np.mean(table["a"]) - np.mean(theirs))
            assert found.error == pytest.approx(contrasts.contrast(table, {"a": 1, "b": -1}, "linear", blocked).error)
            assert {mean.range for mean in found.means} == {contrasts.RANGES[scale]}
        assert contrasts.difference(table, {"a": 1, "b": -1}, scale) == pytest.approx(found.value)


@pytest.mark.parametrize("seed", range(5))
def test_a_limit_at_the_end_of_the_range_is_not_passed(seed):
    """Means of 100 are possible, so a difference of 0 from an arm that always has 100 is excluded only as Welch's test does."""
    ours = 100 - 20 * np.random.default_rng(seed).random(3)
    found = contrasts.contrast({"a": [100.0] * 3, "b": ours.tolist()}, {"b": 1, "a": -1}, "logit")
    assert found.p_below(0) == pytest.approx(stats.ttest_1samp(ours, 100.0, alternative="less").pvalue, rel=1e-6)


def test_contrasts_of_more_than_two():
    """A difference of differences on a linear scale: the t test of that sum, each arm with its own variance."""
    table = drawn(4, 6)
    result = contrasts.contrast(table, {"0": 1, "1": -1, "2": -1, "3": 1})
    parts = [np.var(values, ddof=1) / 6 for values in table.values()]
    assert result.value == pytest.approx(np.dot([1, -1, -1, 1], [np.mean(values) for values in table.values()]))
    assert result.error == pytest.approx(math.sqrt(sum(parts)))
    assert result.freedom == pytest.approx(5 + (1 - 2 / 6) * (sum(parts) ** 2 / sum(part**2 / 5 for part in parts) - 5))
    paired = contrasts.contrast(table, {"0": 1, "1": -1, "2": -1, "3": 1}, blocked=True)
    test = stats.ttest_1samp(np.dot([1, -1, -1, 1], list(table.values())), 0.0)
    assert paired.interval() == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_what_all_seeds_share_is_added():
    """Satterthwaite's degrees of freedom of a sum, of which one part has (nearly) any number."""
    table, weights = drawn(2, 5), {"1": 1, "0": -1}
    alone = contrasts.contrast(table, weights, blocked=True)
    both = contrasts.contrast(table, weights, blocked=True, shared=2 * float(alone.error))
    assert both.value == alone.value and both.error == pytest.approx(alone.error * math.sqrt(5))
    assert both.freedom == pytest.approx(4 * 5**2)
    low, high = both.interval()
    assert (high - low) / 2 == pytest.approx(stats.t.isf(0.025, 100) * both.error)
    still = contrasts.contrast({"0": [1.0, 1.0], "1": [1.5, 1.5]}, weights, shared=0.1)
    assert still.interval() == pytest.approx((0.5 - 0.196, 0.5 + 0.196), abs=1e-3)  # seeds that do not vary have no part in it


def test_reciprocal_ranks_by_hand():
    table = {"x, 1": [9.0, 1.0, 1.0], "y, 1": [8.0, 2.0, 2.0], "x, 2": [1.0, 5.0, None], "y, 2": [NAN, 5.0, 3.0]}
    groups = [{"x": "x, 1", "y": "y, 1"}, {"x": "x, 2", "y": "y, 2"}]
    ranks = contrasts.reciprocal_ranks(table, groups, higher_is_better=True)
    assert ranks == {"x": [1.0, (1 / 2 + 2 / 3) / 2, None], "y": [1 / 2, (1 + 2 / 3) / 2, None]}
    turned = [groups[0], {"y": "y, 2", "x": "x, 2"}]
    assert contrasts.reciprocal_ranks(table, turned, higher_is_better=True) == ranks
    assert contrasts.reciprocal_ranks(table, groups[:1], higher_is_better=False)["x"] == [1 / 2, 1, 1]


def test_too_few_runs_are_no_contrast():
    table = {"a": [1.0, 2.0, None], "b": [NAN, 3.0, 4.0], "c": [1.0, None, None]}
    assert contrasts.contrast(table, {"a": 1, "c": -1}) is None
    assert contrasts.difference(table, {"a": 1, "c": -1}) == 0.5
    assert contrasts.contrast(table, {"a": 1, "b": -1}, blocked=True) is None
    assert contrasts.contrast(table, {"a": 1, "b": -1}).value == -2
    assert contrasts.difference({"a": [1.0], "b": [None]}, {"a": 1, "b": -1}) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("blocked", [False, True])
def test_zero_variance(scale, blocked):
    """Intervals of no width around the truth; equal is neither above nor below."""
    table = {"a": [0.1] * 3, "same": [0.1] * 3, "more": [0.5] * 3, "noisy": [0.1, 0.2, 0.3]}
    same, more, noisy = (contrasts.contrast(table, {arm: 1, "a": -1}, scale, blocked) for arm in ("same", "more", "noisy"))
    assert same.interval() == (0.0, 0.0) and (same.p_above(0), same.p_below(0)) == (1, 1)
    assert more.interval() == pytest.approx((0.4, 0.4)) and (more.p_above(0), more.p_below(0)) == (0, 1)
    low, high = noisy.interval()
    assert low < 0.1 < high


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("blocked", [False, True])
def test_rounded_scores_are_never_certain(scale, blocked):
    """By hand: a variance of 100² / 12 for each run beside the variance over runs, and none of it is shared."""
    table = {"a": [300.0] * 4, "b": [500.0] * 4, "c": [300.0, 400.0, 400.0, 500.0]}
    same, noisy = (contrasts.contrast(table, {arm: 1, "a": -1}, scale, blocked, rounding=100) for arm in "bc")
    assert same.error == pytest.approx(math.sqrt(2 * 100**2 / 12 / 4)) and 1e-4 < same.p_above(0) < 0.025
    low, high = same.interval()
    assert low < 200 < high and same.freedom < 10
    if scale == "linear":
        assert noisy.error == pytest.approx(math.sqrt((np.var(table["c"], ddof=1) + 2 * 100**2 / 12) / 4))
        estimate = contrasts.interval(table["a"], rounding=100)
        assert estimate.interval.high - 300 == pytest.approx(stats.t.isf(0.025, 3) * 100 / math.sqrt(12 * 4))
    both = {"a": [300.0, 400.0, 400.0, 500.0], "b": [500.0, 600.0, 600.0, 700.0]}
    if scale == "linear" and blocked:  # the seeds' effect is shared, so that only the rounding remains
        paired = contrasts.contrast(both, {"b": 1, "a": -1}, scale, blocked, rounding=100)
        assert paired.error == pytest.approx(math.sqrt(2 * 100**2 / 12 / 4))


def test_divergence_is_fishers_exact_test():
    """5 of 5 against 0 of 5: 2 of the 252 ways to choose 5 of 10 are as extreme, one in this direction."""
    table = {"a": [1.0] * 5, "b": [NAN] * 5, "c": [1.0, NAN, float("inf"), 2.0, None]}
    assert [contrasts.outcomes(table, [arm]) for arm in "abc"] == [(0, 5), (5, 5), (2, 4)]
    assert contrasts.outcomes(table, ["b", "c"]) == (7, 9)
    assert contrasts.diverges_more((5, 5), (0, 5)) == pytest.approx(1 / 252)
    assert contrasts.diverges_more((0, 5), (5, 5)) == 1


def test_bad_tables_are_named():
    with pytest.raises(UserError, match="a: 2, b: 1"):
        contrasts.contrast({"a": [1.0, 2.0], "b": [1.0]}, {"a": 1, "b": -1})
    with pytest.raises(UserError, match="no arm 'heads1'.*did you mean 'heads'"):
        contrasts.contrast({"heads": [1.0]}, {"heads1": 1.0})


# --- several at once ---------------------------------------------------------------------------------------------------


def test_holm_is_statsmodels():
    ps = np.random.default_rng(0).random(7) ** 3
    ours = [p for (p,) in contrasts.holm([[p] for p in ps])]
    assert ours == pytest.approx(multipletests(ps, method="holm")[1])


def test_a_chain_stays_in_the_family_until_its_last_bound():
    """By hand. 0.01 of three passes; its next is looked at among three again, and so the others' levels stay at a third."""
    stays, leaves = (contrasts.holm([[0.01, second], [0.02], [0.03]]) for second in (0.5, 0.012))
    assert sum(stays, []) == pytest.approx([0.03, 0.5, 0.06, 0.06])
    assert sum(leaves, []) == pytest.approx([0.03, 0.036, 0.04, 0.04])


def test_limits_stand_where_holms_decisions_do():
    levels = contrasts.holm_levels([[0.01], [0.2], [0.01, 0.3]], 0.05)
    assert levels == [None, 0.025, 0.025]
    assert contrasts.holm_levels([[0.01], [0.02]], 0.05) == [0.025, 0.025]


@pytest.mark.parametrize("arms, freedom", [(2, 2.0), (3, 4.3), (8, 2.7), (20, 50.0)])
def test_the_studentized_range_is_scipys(arms, freedom):
    theirs = stats.studentized_range(arms, freedom)
    for bound in (0.7, 3.0, 12.0):
        assert contrasts.studentized_range_tail(bound, arms, freedom) == pytest.approx(theirs.sf(bound), rel=2e-3, abs=1e-6)
    bound = contrasts.studentized_range_bound(0.05, arms, freedom)
    assert theirs.sf(bound) == pytest.approx(0.05, rel=1e-3)


def test_games_howell_by_hand():
    """Toothaker's formula: q times the root of half the sum of the two variances of means."""
    table = drawn(3, 6)
    contrast = contrasts.contrast(table, {"1": 1, "0": -1})
    interval, p = contrasts.games_howell(contrast, 3)
    theirs, unit = stats.studentized_range(3, float(contrast.freedom)), float(contrast.error) / math.sqrt(2)
    assert p == pytest.approx(theirs.sf(abs(contrast.value) / unit), abs=1e-4)
    assert (interval.high - interval.low) / 2 == pytest.approx(theirs.isf(0.05) * unit, rel=1e-3)


# --- simulated studies -------------------------------------------------------------------------------------------------

ARMS, STUDIES = 6, 5000
SPREADS = {  # standard deviations of the comparison arm and the others
    "equal": np.ones(ARMS),
    "others more": np.array([1.0, 20, 20, 20, 20, 20]),
    "others somewhat more": np.array([1.0, 5, 5, 5, 5, 5]),
    "a ladder": np.geomspace(1, 20, ARMS),
    "others less": np.array([20.0, 1, 1, 1, 1, 1]),
}


def simulated(spreads_A, seeds, scale="linear", blocked=False):
    """Scores of many studies in which no arm differs, AxNxR."""
    rng = np.random.default_rng(seeds)
    score_AxNxR = rng.normal(size=(ARMS, STUDIES, seeds)) * spreads_A[:, None, None]
    if blocked:
        score_AxNxR += 30 * rng.normal(size=(STUDIES, seeds))
    return {"linear": score_AxNxR, "log": np.exp(0.02 * score_AxNxR), "logit": 100 / (1 + np.exp(-1 - score_AxNxR / 30))}[scale]


def found(spreads_A, seeds, scale="linear", blocked=False, effect=0.0):
    """In what share of studies without any difference a comparison with the first arm finds one; and in what share the last
    arm is found if it is better by `effect`."""
    score_AxNxR = simulated(spreads_A, seeds, scale, blocked)
    alpha, wrong = 0.05 / 2 / (ARMS - 1), np.zeros(STUDIES, bool)  # Holm's first step, which decides whether there is any error
    for values in score_AxNxR[1:]:
        contrast = Contrast.of([values, score_AxNxR[0]], [1, -1], scale, blocked)
        low, high = contrast.low(alpha), contrast.high(alpha)
        wrong |= (low > 0) | (high < 0)
    return wrong.mean(), (low + effect > 0).mean()


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("spreads", SPREADS)
def test_the_familywise_error_holds_with_unequal_variances(seeds, spreads, record_property):
    """At most 6 % of studies find a difference where there is none (simulated to 0.3 points). Beside it the power: how often
    an arm is found that is better by 5 standard deviations of the two arms together."""
    both = math.hypot(SPREADS[spreads][0], SPREADS[spreads][-1])
    wrong, power = found(SPREADS[spreads], seeds, effect=5 * both)
    record_property("power", float(power))
    assert wrong < 0.06
    assert power > {3: 0.25, 5: 0.9, 8: 0.99}[seeds]


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_so_it_does_on_other_scales_and_within_seeds(seeds):
    for scale in ("log", "logit"):
        assert found(SPREADS["others more"], seeds, scale)[0] < 0.06
    wrong, power = found(SPREADS["a ladder"], seeds, blocked=True, effect=200)
    assert wrong < 0.06 and power > 0.9


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("spreads", SPREADS)
def test_so_it_does_for_interactions_slopes_and_equality(seeds, spreads):
    """Of three claims at once: two interactions, which share arms, and a slope. An arm that differs by exactly the margin is
    found equal, and one that is worse by exactly that found not to be worse, in 2.5 % of studies."""
    score_AxNxR, wrong = simulated(SPREADS[spreads], seeds), np.zeros(STUDIES, bool)
    for arms, weights in (
        ([0, 1, 2, 3], [1, -1, -1, 1]),
        ([0, 2, 4, 5], [1, -1, -1, 1]),
        ([1, 3, 5], contrasts.slope([1, 2, 4])),
    ):
        contrast = Contrast.of(list(score_AxNxR[arms]), weights)
        wrong |= (contrast.low(0.025 / 3) > 0) | (contrast.high(0.025 / 3) < 0)
    assert wrong.mean() < 0.06
    at_the_margin = Contrast.of([score_AxNxR[1] + 1.0, score_AxNxR[0]], [1, -1])
    assert (at_the_margin.high(0.025) < 1.0).mean() < 0.03


# --- what a study can show ---------------------------------------------------------------------------------------------


def test_detectable_effect_is_statsmodels():
    """Of one comparison within 6 seeds, a paired t test."""
    standard = TTestPower().solve_power(nobs=6, alpha=0.05, power=0.8, alternative="two-sided")
    assert contrasts.detectable(0.3 / math.sqrt(6), 5, 1) == pytest.approx(standard * 0.3, rel=2e-3)
    one, many = (contrasts.detectable(1.0, 5, tests) for tests in (1, 10))
    assert many > one and contrasts.detectable(0.0, 5, 1) == 0.0


@pytest.mark.parametrize("weights", [(1, -1), (1, -1, -1, 1), (-0.5, 0, 0.5), (0.5, 0.5, -0.5, -0.5)])
def test_what_is_expected_is_what_equal_variances_give(weights):
    one = np.array([1.0, 2.0, 4.0, 3.0])
    found = Contrast.of([one + n for n in range(len(weights))], weights)
    error, freedom = contrasts.expected(weights, 4)
    assert error == pytest.approx(found.error / one.std(ddof=1)) and freedom == pytest.approx(found.freedom)
    assert contrasts.expected(weights, 4, blocked=True) == (error, 3)


def test_simulated_studies_find_what_they_should():
    effect, margin = (solve(1 / math.sqrt(4), 3, 2) for solve in (contrasts.detectable, contrasts.provable_margin))
    values_NxR = np.random.default_rng(0).normal(size=(4000, 4))
    alone = Contrast.of([values_NxR], [1.0])
    assert (alone.low(0.0125) + effect > 0).mean() == pytest.approx(0.8, abs=0.02)
    assert ((alone.low(0.0125) > -margin) & (alone.high(0.0125) < margin)).mean() == pytest.approx(0.8, abs=0.02)
