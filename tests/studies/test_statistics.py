"""Intervals and differences against SciPy, statsmodels, hand-worked numbers, and studies simulated with a known answer."""

import numpy as np
import pandas
import pytest
from scipy import stats
from statsmodels.formula.api import ols

from transformer.errors import UserError
from transformer.studies import statistics

STUDIES = 2000
NAN = float("nan")


def drawn(arms, seeds, seed=0, spread=1.0):
    """Scores of arms 0, 1, ... without any difference, whose seeds matter."""
    rng = np.random.default_rng(seed)
    values_AxS = 10 + rng.normal(size=(arms, seeds)) + spread * rng.normal(size=seeds)
    return {str(arm): row.tolist() for arm, row in enumerate(values_AxS)}


def with_holes(table):
    """The same with three runs that diverged, none in the comparison arm "0"."""
    table = {arm: list(values) for arm, values in table.items()}
    table["1"][0] = table["1"][2] = table["2"][1] = NAN
    return table


def test_interval_is_scipys():
    values = [3.1, 2.9, NAN, 3.4, 3.0]
    finite = [3.1, 2.9, 3.4, 3.0]
    result = statistics.interval(values, level=0.9)
    expected = stats.ttest_1samp(finite, 0.0).confidence_interval(0.9)
    assert result.value == pytest.approx(np.mean(finite))
    assert result.interval == pytest.approx((expected.low, expected.high))
    assert result.count == 4


def test_interval_of_one_run_none_and_equal_ones():
    assert statistics.interval([2.5, NAN]) == (2.5, None, 1)
    assert statistics.interval([NAN, float("inf")]) == (None, None, 0)
    low, high = statistics.interval([0.1, 0.1, 0.1]).interval
    assert low == high == pytest.approx(0.1)


@pytest.mark.parametrize("arms", [3, 5])
def test_one_way_comparison_is_scipys_dunnett(arms):
    table = drawn(arms, 6)
    table["1"] = [value + 1.5 for value in table["1"]]
    table["0"][3] = NAN  # unbalanced
    result = statistics.compare(table, "0", blocked=False)
    samples = [np.array(values)[np.isfinite(values)] for values in table.values()]
    theirs = stats.dunnett(*samples[1:], control=samples[0], rng=np.random.default_rng(0))
    interval = theirs.confidence_interval(0.95)
    for i, arm in enumerate(list(table)[1:]):
        ours = result.differences[arm, "0"]
        assert ours.value / ours.error == pytest.approx(theirs.statistic[i])
        assert ours.p == pytest.approx(theirs.pvalue[i], abs=3e-4)
        assert ours.interval == pytest.approx((interval.low[i], interval.high[i]), abs=5e-3)  # SciPy's is random


def half(difference):
    """Of the interval's width."""
    return (difference.interval.high - difference.interval.low) / 2


@pytest.mark.parametrize("blocked, test", [(True, stats.ttest_rel), (False, stats.ttest_ind)])
def test_two_arms_are_the_paired_and_the_pooled_t_test(blocked, test):
    table = drawn(2, 5, spread=3.0)
    ours = statistics.compare(table, "0", blocked=blocked).differences["1", "0"]
    theirs = test(table["1"], table["0"])
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.interval == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("change", [lambda table: table, with_holes])
def test_blocked_model_is_statsmodels(change):
    table = change(drawn(4, 5, seed=1))
    rows = [(arm, seed, value) for arm, values in table.items() for seed, value in enumerate(values) if np.isfinite(value)]
    theirs = ols("score ~ C(arm) + C(seed)", pandas.DataFrame(rows, columns=["arm", "seed", "score"])).fit()
    ours = statistics.compare(table, "0")
    assert ours.freedom == theirs.df_resid
    assert ours.residual == pytest.approx(np.sqrt(theirs.mse_resid))
    names = [f"C(arm)[T.{arm}]" for arm in "123"]
    for arm, name in zip("123", names, strict=True):
        assert ours.differences[arm, "0"].value == pytest.approx(theirs.params[name])
        assert ours.differences[arm, "0"].error == pytest.approx(theirs.bse[name])
    # adjusted p and interval: the multivariate t with statsmodels' own covariance, by simulation
    covariance = theirs.cov_params().loc[names, names].to_numpy()
    unit = np.sqrt(np.diag(covariance))
    normal = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance / np.outer(unit, unit), 400_000)
    largest = np.abs(normal).max(1) / np.sqrt(np.random.default_rng(1).chisquare(ours.freedom, 400_000) / ours.freedom)
    critical = np.quantile(largest, 0.95)
    for arm in "123":
        difference = ours.differences[arm, "0"]
        assert difference.freedom == ours.freedom
        assert difference.p == pytest.approx(np.mean(largest >= abs(difference.value / difference.error)), abs=3e-3)
        assert half(difference) == pytest.approx(critical * difference.error, rel=5e-3)
        assert np.mean(difference.interval) == pytest.approx(difference.value)


def test_contrasts_of_neighbours():
    table, pairs = drawn(4, 5), [("0", "1"), ("1", "2"), ("2", "3")]
    ours = statistics.contrasts(table, pairs)
    for one, two in pairs:
        assert ours.differences[one, two].value == pytest.approx(np.mean(table[one]) - np.mean(table[two]))
        assert ours.differences[one, two].error == pytest.approx(ours.residual * np.sqrt(2 / 5))
    correlation = np.eye(3) - np.eye(3, k=1) / 2 - np.eye(3, k=-1) / 2  # neighbours share an arm, with opposite signs
    [critical] = {round(half(difference) / difference.error, 9) for difference in ours.differences.values()}
    bound = np.full(3, critical)
    inside = stats.multivariate_t(np.zeros(3), correlation, df=12, seed=0).cdf(bound, lower_limit=-bound)
    assert inside == pytest.approx(0.95, abs=1e-3)


def test_what_all_seeds_share_is_added():
    """Of two arms, the t interval of the sum of both variances with Satterthwaite's degrees of freedom; named either way."""
    table = drawn(2, 5)
    alone = statistics.compare(table, "0").differences["1", "0"]
    for pair in (("1", "0"), ("0", "1")):
        both = statistics.compare(table, "0", shared={pair: 2 * alone.error}).differences["1", "0"]
        assert both.value == alone.value and both.error == pytest.approx(alone.error * np.sqrt(5))
        assert both.freedom == pytest.approx(4 * 5**2)
        assert half(both) == pytest.approx(stats.t.isf(0.025, 100) * both.error)
        assert both.p == pytest.approx(2 * stats.t.sf(abs(both.value) / both.error, 100))
    still = statistics.compare({"0": [1.0, 1.0], "1": [1.5, 1.5]}, "0", shared={("1", "0"): 0.1}).differences["1", "0"]
    assert half(still) == pytest.approx(1.96 * 0.1, rel=1e-3)  # seeds that do not vary have no part in it
    others = statistics.compare(drawn(3, 5), "0", shared={("1", "0"): 1.0}).differences
    assert others["2", "0"] == statistics.compare(drawn(3, 5), "0").differences["2", "0"]


def test_one_seed_gives_differences_and_no_intervals():
    result = statistics.compare({"a": [1.0], "b": [3.0], "c": [NAN]}, "a")
    assert result.differences["b", "a"] == statistics.Difference("b", "a", pytest.approx(2.0))
    assert result.differences["c", "a"] == statistics.Difference("c", "a", None)
    assert result.residual is None


def test_what_the_runs_do_not_determine_is_absent():
    """b has no run, d shares no seed with the others; a against c is as if they were alone."""
    table = {"a": [1.0, 2.0, 4.0, NAN], "b": [NAN] * 4, "c": [2.0, 2.5, 3.0, NAN], "d": [NAN, NAN, NAN, 9.0]}
    result = statistics.compare(table, "a")
    assert result.differences["b", "a"].value is result.differences["d", "a"].value is None
    alone = statistics.compare({arm: table[arm][:3] for arm in "ac"}, "a")
    assert result.differences["c", "a"].interval == pytest.approx(alone.differences["c", "a"].interval)
    assert statistics.compare(table, "b").differences["a", "b"].value is None
    assert statistics.compare({"a": [NAN, NAN], "b": [NAN, NAN]}, "a").differences["b", "a"].interval is None
    assert statistics.compare({"a": [1.0, 2.0]}, "a").differences == {}


@pytest.mark.filterwarnings("error")
def test_zero_variance():
    """Scores that depend on the arm, or the arm and the seed, without noise: intervals of no width around the truth."""
    seeds = np.array([0.1, 0.7, 0.3])
    table = {"a": seeds + 0.2, "same": seeds + 0.2, "more": seeds + 0.2 + 0.4}
    result = statistics.compare(table, "a")
    assert result.residual == 0
    assert result.differences["same", "a"].interval == (0.0, 0.0)
    assert result.differences["same", "a"].p == 1
    assert result.differences["more", "a"].interval == pytest.approx((0.4, 0.4))
    assert result.differences["more", "a"].p == 0
    flat = {"a": [0.1] * 3, "same": [0.1] * 3, "more": [0.3] * 3, "noisy": [0.1, 0.2, 0.3]}
    welch = statistics.welch(flat, "a")
    assert welch["same"].interval == (0.0, 0.0)
    assert (welch["same"].p, welch["more"].p) == (1, 0)
    assert welch["noisy"].interval.low < 0.1 < welch["noisy"].interval.high
    assert statistics.variances_differ({arm: flat[arm] for arm in ("a", "same", "more")}) is False


def test_welch_is_scipys():
    rng = np.random.default_rng(2)
    table = {"a": rng.normal(size=6), "b": 1 + 5 * rng.normal(size=6)}
    table["b"][4] = NAN
    ours = statistics.welch(table, "a", level=0.9)["b"]
    theirs = stats.ttest_ind(np.delete(table["b"], 4), table["a"], equal_var=False)
    interval = theirs.confidence_interval(0.9)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.interval == pytest.approx((interval.low, interval.high))
    assert statistics.welch({"a": [1.0, 2.0], "b": [NAN, 5.0]}, "a")["b"] == statistics.Difference("b", "a", 3.5)


def test_variances_that_differ():
    rng = np.random.default_rng(3)
    groups = rng.normal(size=(3, 8))
    p = stats.levene(*groups, center="median").pvalue
    assert statistics.variances_differ(dict(zip("abc", groups, strict=True)), level=p * 1.01) is True
    assert statistics.variances_differ(dict(zip("abc", groups, strict=True)), level=p * 0.99) is False
    assert statistics.variances_differ({"a": [1.0, 2.0], "b": [1.0, 900.0], "c": [1.0, 2.0, 3.0]}) is None


def test_divergence_is_fishers_exact_test():
    """5 of 5 against 0 of 5: 2 of the 252 ways to choose 5 of 10 are as extreme."""
    table = {"a": [1.0] * 5, "b": [NAN] * 5, "c": [1.0, NAN, float("inf"), 2.0, 3.0]}
    result = statistics.diverged(table, "a")
    assert result["a"] == (0, 5, None)
    assert result["b"][:2] == (5, 5)
    assert result["b"].p == pytest.approx(2 / 252)
    assert result["c"][:2] == (2, 5)
    assert result["c"].p == pytest.approx(stats.fisher_exact([[2, 3], [0, 5]]).pvalue)


def test_a_run_that_failed_is_no_outcome():
    """None says nothing of its arm: not a value, and not a run that diverged."""
    table = {"a": [1.0, 2.0, None, 3.0], "b": [None, NAN, None, None]}
    assert statistics.diverged(table, "a") == {"a": (0, 3, None), "b": (1, 1, pytest.approx(0.25))}
    assert statistics.interval(table["a"]) == statistics.interval([1.0, 2.0, 3.0])
    assert statistics.compare(table, "a").differences["b", "a"].value is None


def test_bad_tables_are_named():
    with pytest.raises(UserError, match="a: 2, b: 1"):
        statistics.compare({"a": [1.0, 2.0], "b": [1.0]}, "a")
    with pytest.raises(UserError, match="no arm 'heads1'.*did you mean 'heads'"):
        statistics.diverged({"heads": [1.0]}, "heads1")


def test_intervals_of_means_cover():
    rng = np.random.default_rng(4)
    intervals = [statistics.interval(7 + rng.normal(size=4)).interval for _ in range(STUDIES)]
    assert 0.93 < np.mean([low <= 7 <= high for low, high in intervals]) < 0.97


@pytest.mark.parametrize("change", [lambda table: table, with_holes])
def test_simultaneous_intervals_cover_together(change):
    """Four arms, true differences 0, 2, -1, seeds that matter more than the noise."""
    truth, covered = {"1": 0.0, "2": 2.0, "3": -1.0}, 0
    for study in range(STUDIES):
        table = change({arm: np.add(values, truth.get(arm, 0.0)) for arm, values in drawn(4, 5, study, spread=3.0).items()})
        found = statistics.compare(table, "0").differences
        covered += all(found[arm, "0"].interval.low <= truth[arm] <= found[arm, "0"].interval.high for arm in truth)
    assert 0.93 < covered / STUDIES < 0.97


@pytest.mark.parametrize("arms, blocked", [(2, True), (2, False), (5, True)])
def test_equal_arms_are_told_apart_as_often_as_promised(arms, blocked):
    """One setting under several names, with disjoint seeds: any of them is found different in 5 % of the studies."""
    found = 0
    for study in range(STUDIES):
        table = drawn(arms, 5, study, spread=0.0)
        comparison = statistics.compare(table, "0", blocked=blocked)
        found += any(difference.p < 0.05 for difference in comparison.differences.values())
    assert 0.03 < found / STUDIES < 0.07


def test_welch_holds_its_level_where_variances_differ():
    rng, found = np.random.default_rng(5), 0
    for _ in range(STUDIES):
        found += statistics.welch({"a": rng.normal(size=6), "b": 10 * rng.normal(size=6)}, "a")["b"].p < 0.05
    assert 0.03 < found / STUDIES < 0.07
