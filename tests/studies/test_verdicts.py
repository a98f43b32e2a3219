"""Verdicts on hand-made tables whose answer is known, and how often they err on simulated ones."""

import numpy as np
import pytest
from scipy import stats

from transformer.errors import UserError
from transformer.studies import statistics, verdicts
from transformer.studies.statistics import Interval

NAN = float("nan")


def losses(**means):
    """Five seeds an arm around the given loss, with noise of 0.01 that differs by arm and an effect of the seed of 0.5."""
    rng = np.random.default_rng(0)
    seed = 0.5 * rng.normal(size=5)
    return {arm: (mean + seed + 0.01 * rng.normal(size=5)).tolist() for arm, mean in means.items()}


def test_rules_for_intervals():
    assert verdicts.beyond(Interval(0.3, 0.5), 0.2) == "agrees"
    assert verdicts.beyond(Interval(0.1, 0.5), 0.2) == "cannot tell"
    assert verdicts.beyond(Interval(-0.1, 0.1), 0.2) == "disagrees"
    assert verdicts.beyond(Interval(0.0, 0.0), 0.0) == "cannot tell"  # equal, without noise: not better, not worse
    assert verdicts.within(Interval(-0.1, 0.15), -0.2, 0.2) == "agrees"
    assert verdicts.within(Interval(-0.1, 0.25), -0.2, 0.2) == "cannot tell"
    assert verdicts.within(Interval(-0.9, 0.9), -0.2, 0.2) == "cannot tell"  # not significant is not equal
    assert verdicts.within(Interval(0.1, 0.15), -0.2, 0.2) == "agrees"  # significant may be equal
    assert verdicts.within(Interval(0.25, 0.3), -0.2, 0.2) == "disagrees"
    assert verdicts.within(Interval(-0.3, -0.25), -0.2, 0.2) == "disagrees"
    assert verdicts.beyond(None, 0.2) == verdicts.within(None, -0.2, 0.2) == "cannot tell"


def test_better_and_worse_follow_the_direction_of_the_metric():
    table = losses(base=2.0, low=1.0, high=3.0)
    for ask, arm, higher_is_better, word in (
        (verdicts.better, "low", False, "agrees"),
        (verdicts.better, "low", True, "disagrees"),
        (verdicts.worse, "low", False, "disagrees"),
        (verdicts.worse, "low", True, "agrees"),
        (verdicts.worse, "high", False, "agrees"),
        (verdicts.better, "high", True, "agrees"),
    ):
        assert ask(table, [arm], "base", 0.5, higher_is_better).word == word
        assert ask(table, [arm], "base", 1.5, higher_is_better).word == "disagrees"
    assert verdicts.better(table, ["low"], "base", 1.0, False).word == "cannot tell"
    assert verdicts.better(table, ["low", "high"], "base", 0.5, False).word == "disagrees"
    assert verdicts.better(losses(base=2.0, low=1.0, lower=0.5), ["low", "lower"], "base", 0.5, False).word == "agrees"


def test_numbers_are_of_the_whole_family():
    """A claim about one arm of four has Dunnett's interval for all of them, from the side that the claim takes."""
    table = losses(base=2.0, a=2.1, b=2.2, c=1.9)
    verdict = verdicts.worse(table, ["a"], "base", 0.05, higher_is_better=False)
    difference = statistics.compare(table, "base").differences["a", "base"]
    numbers = verdict.numbers["base against a"]
    assert (numbers["low"], numbers["high"]) == pytest.approx(difference.interval)
    assert numbers["value"] == pytest.approx(difference.value)
    assert numbers["p"] == pytest.approx(difference.p)
    assert numbers["margin"] == 0.05
    assert (numbers["diverged"], numbers["diverged_against"]) == (0, 0)
    assert "0.05" in verdict.rule
    other_side = verdicts.better(table, ["a"], "base", 0.05, higher_is_better=True).numbers["a against base"]
    assert (other_side["low"], other_side["high"]) == pytest.approx(difference.interval)


def test_equal():
    table = losses(base=2.0, near=2.05, far=3.0)
    assert verdicts.equal(table, ["near"], "base", 0.2).word == "agrees"
    assert verdicts.equal(table, ["near"], "base", 0.051).word == "cannot tell"
    assert verdicts.equal(table, ["near"], "base", 0.005).word == "disagrees"
    assert verdicts.equal(table, ["near", "far"], "base", 0.2).word == "disagrees"
    comparison = statistics.compare(table, "base")
    near = comparison.differences["near", "base"]
    p = max(
        stats.t.sf((near.value + 0.06) / near.error, comparison.freedom),
        stats.t.cdf((near.value - 0.06) / near.error, comparison.freedom),
    )
    assert verdicts.equal(table, ["near"], "base", 0.06).numbers["near against base"]["p_tost"] == pytest.approx(p)
    reverse = verdicts.equal({"base": table["near"], "near": table["base"], "far": table["far"]}, ["near"], "base", 0.06)
    assert reverse.numbers["near against base"]["p_tost"] == pytest.approx(p)


def test_order():
    table = losses(a=1.0, b=1.5, c=2.0, d=2.001)
    assert verdicts.order(table, ["a", "b", "c"], 0.2, higher_is_better=False).word == "agrees"
    assert verdicts.order(table, ["c", "b", "a"], 0.2, higher_is_better=True).word == "agrees"
    assert verdicts.order(table, ["a", "c", "b"], 0.0, higher_is_better=False).word == "disagrees"
    assert verdicts.order(table, ["a", "b", "c", "d"], 0.0, higher_is_better=False).word == "cannot tell"
    numbers = verdicts.order(table, ["a", "b", "c"], 0.2, higher_is_better=False).numbers
    assert list(numbers) == ["a against b", "b against c"]
    assert numbers["a against b"]["value"] == pytest.approx(np.mean(table["b"]) - np.mean(table["a"]))


def test_exponent():
    sizes = {"tiny": 1e4, "small": 5e4, "medium": 2e5, "large": 1e6}
    rng = np.random.default_rng(0)
    table = {arm: (1.5 + 30 * size**-0.3 + 0.005 * rng.normal(size=5)).tolist() for arm, size in sizes.items()}
    table["tiny"][1], table["tiny"][2] = NAN, None  # one diverged, one failed
    verdict = verdicts.exponent(table, sizes, 0.3, 0.05)
    assert verdict.word == "agrees"
    assert verdict.numbers["exponent"]["value"] == pytest.approx(0.3, abs=0.02)
    assert verdict.numbers["exponent"]["diverged"] == 1
    assert verdicts.exponent(table, sizes, 0.3, 0.001).word == "cannot tell"
    assert verdicts.exponent(table, sizes, 0.1, 0.05).word == "disagrees"


def test_one_seed_cannot_tell():
    table = {"base": [2.0], "low": [1.0]}
    assert verdicts.better(table, ["low"], "base", 0.1, False).word == "cannot tell"
    assert verdicts.equal(table, ["low"], "base", 9.0).word == "cannot tell"
    assert verdicts.order(table, ["low", "base"], 0.1, False).word == "cannot tell"
    numbers = verdicts.better(table, ["low"], "base", 0.1, False).numbers["low against base"]
    assert numbers["value"] == pytest.approx(1.0)
    assert numbers["low"] is numbers["high"] is numbers["p"] is None


def test_runs_that_diverged_count():
    table = losses(base=2.0, low=1.0, same=2.0, broken=1.0)
    table["broken"] = [NAN] * 5
    assert verdicts.worse(table, ["broken"], "base", 9.0, False).word == "agrees"
    assert verdicts.better(table, ["broken"], "base", 0.0, False).word == "disagrees"
    assert verdicts.equal(table, ["broken"], "base", 9.0).word == "disagrees"
    assert verdicts.order(table, ["low", "base", "broken"], 0.0, False).word == "agrees"
    assert verdicts.order(table, ["broken", "low"], 0.0, False).word == "disagrees"
    # one run of five: not clearly more often, but the four that are left do not make the arm better
    table["low"][2] = table["same"][2] = NAN
    assert verdicts.better(table, ["low"], "base", 0.5, False).word == "cannot tell"
    assert verdicts.worse(table, ["low"], "base", 0.5, False).word == "cannot tell"
    assert verdicts.equal(table, ["same"], "base", 0.5).word == "cannot tell"
    assert verdicts.better(table, ["same"], "base", 0.5, False).word == "disagrees"
    assert verdicts.better(table, ["base"], "low", 0.5, False).word == "cannot tell"
    table = losses(base=2.0, high=3.0)
    table["high"][0] = NAN
    assert verdicts.worse(table, ["high"], "base", 0.5, False).word == "agrees"


def test_bad_claims_are_named():
    table = losses(base=2.0, low=1.0)
    with pytest.raises(UserError, match="itself"):
        verdicts.better(table, ["base"], "base", 0.1, False)
    with pytest.raises(UserError, match="none"):
        verdicts.order(table, ["low"], 0.1, False)
    with pytest.raises(UserError, match="'lwo'"):
        verdicts.equal(table, ["lwo"], "base", 0.1)
    with pytest.raises(UserError, match="'lwo'.*'low'"):
        verdicts.order(table, ["base", "lwo"], 0.1, False)
    with pytest.raises(UserError, match="'lwo'.*'low'"):
        verdicts.exponent(table, {"lwo": 1.0}, 0.1, 0.1)


def test_errors_are_as_rare_as_promised():
    """True difference 0: "better" in at most 2.5 % and "worse" in as many. At the margin: "equal" in at most 2.5 %."""
    rng, words = np.random.default_rng(0), {"better": [], "worse": [], "equal": []}
    for base, other in rng.normal(size=(1000, 2, 4)):
        table = {"base": base, "other": other}
        words["better"].append(verdicts.better(table, ["other"], "base", 0.0, True).word)
        words["worse"].append(verdicts.worse(table, ["other"], "base", 0.0, True).word)
        words["equal"].append(verdicts.equal({"base": base, "other": other + 4.0}, ["other"], "base", 4.0).word)
    for name in words:
        assert 0.01 < words[name].count("agrees") / 1000 < 0.04
        assert 0.01 < words[name].count("disagrees") / 1000 < 0.04
