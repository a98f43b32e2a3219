"""Verdicts on small tables with a known answer, and quantities that must not affect them."""

import numpy as np
import pytest
from scipy import stats

from transformer.errors import UserError
from transformer.statistics import contrasts
from transformer.studies import verdicts
from transformer.studies.study import Claim
from transformer.studies.verdicts import Data

NAN = float("nan")
SPREADS = {"base": 0.01, "low": 0.02, "high": 0.01, "same": 0.015, "broken": 0.01}


def losses(seed=0, **means):
    """Five seeds an arm around the given loss."""
    rng = np.random.default_rng(seed)
    return {arm: (mean + SPREADS.get(arm, 0.01) * rng.normal(size=5)).tolist() for arm, mean in means.items()}


def claim(kind, arms, margin=0.0, **more):
    return Claim("so it is", "here", kind, tuple(arms), margin, **more)


def judge(table, *claims, higher=False, against="base", **data):
    return verdicts.judge(claims, lambda arm: against, [Data(table, higher, **data)] * len(claims))


def word(table, kind, arms, margin=0.0, higher=False):
    return judge(table, claim(kind, arms, margin), higher=higher)[0].word


def test_better_and_worse_follow_the_direction_of_the_metric():
    table = losses(base=2.0, low=1.0, high=3.0)
    for kind, arm, higher, expected in (
        ("better", "low", False, "agrees"),
        ("better", "low", True, "disagrees"),
        ("worse", "low", False, "disagrees"),
        ("worse", "low", True, "agrees"),
        ("worse", "high", False, "agrees"),
        ("better", "high", True, "agrees"),
    ):
        assert word(table, kind, [arm], 0.0, higher) == expected
        assert word(table, kind, [arm], 2.0, higher) == "disagrees"  # so much it is not
        assert word(table, kind, [arm], 1.0, higher) in ("cannot tell", "disagrees")


def test_all_parts_of_a_claim_must_hold():
    table = losses(base=2.0, low=1.0, high=3.0, same=2.0)
    assert word(table, "order", ["low", "base", "high"]) == "agrees"
    assert word(table, "order", ["low", "high", "base"]) == "disagrees"
    assert word(table, "better", ["low", "same"]) == "cannot tell"
    assert word(table, "better", ["low", "high"]) == "disagrees"


def test_not_significant_is_not_equal_and_significant_may_be():
    noisy, exact = losses(base=2.0, low=2.0), losses(base=2.0, high=2.05)
    assert word(noisy, "equal", ["low"], 0.001) == "cannot tell"
    assert word(exact, "equal", ["high"], 0.2) == "agrees" and word(exact, "worse", ["high"]) == "agrees"
    assert word(exact, "equal", ["high"], 0.01) == "disagrees"


def test_numbers_are_those_of_the_contrast():
    """One comparison: no correction. As an advantage: turned for a loss."""
    table = losses(base=2.0, low=1.0)
    contrast = contrasts.contrast(table, {"base": 1, "low": -1}, "log")
    [verdict] = judge(table, claim("better", ["low"], 0.9), scale="log")
    [found] = verdict.findings
    assert (found.value, found.error) == pytest.approx((float(contrast.value), float(contrast.error)))
    assert found.interval == pytest.approx(contrast.interval()) and found.alone == pytest.approx(contrast.interval())
    assert found.p == pytest.approx(2 * min(contrast.p_above(0.9), contrast.p_below(0.9)))
    worse = judge(table, claim("worse", ["low"], 0.9), scale="log")[0].findings[0]
    assert worse.value == -found.value and worse.alone == pytest.approx((-found.alone.high, -found.alone.low))


def test_not_worse_is_less_than_the_margin_worse():
    table = losses(base=2.0, low=1.0, same=2.0, high=2.5)
    assert [word(table, "not worse", [arm], 0.1) for arm in ("low", "same", "high")] == ["agrees", "agrees", "disagrees"]
    assert word(table, "not worse", ["high"], 0.6) == "agrees" and word(table, "not worse", ["same"], 1e-4) == "cannot tell"


CELLS = {"wide": 3.0, "wide scaled": 1.0, "narrow": 1.5, "narrow scaled": 1.2}  # losses: 2 are lost without the scale, or 0.3


def test_an_interaction_is_a_difference_of_differences():
    """Each arm with its own variance: the error is the root of the sum of four variances of means."""
    table = losses(**CELLS)
    more = claim("worse", ["wide"], 1.0, against="wide scaled", beyond=("narrow", "narrow scaled"))
    [found] = judge(table, more, against="")[0].findings
    assert judge(table, more, against="")[0].word == "agrees"
    means = {arm: np.mean(values) for arm, values in table.items()}
    lost = (means["wide"] - means["wide scaled"]) - (means["narrow"] - means["narrow scaled"])
    assert found.value == pytest.approx(lost) and lost == pytest.approx(1.7, abs=0.02)
    assert found.error == pytest.approx(np.sqrt(sum(np.var(values, ddof=1) / 5 for values in table.values())))
    turned = claim("better", ["wide"], 1.0, against="wide scaled", beyond=("narrow", "narrow scaled"))
    same = claim("equal", ["wide"], 1.5, against="wide scaled", beyond=("narrow", "narrow scaled"))
    assert [judge(table, each, against="")[0].word for each in (turned, same)] == ["disagrees", "disagrees"]
    table["narrow"][0] = NAN  # an interaction that lacks a run is not known, whichever way
    assert [judge(table, each, against="")[0].word for each in (more, turned)] == ["cannot tell"] * 2


def test_a_slope_is_that_of_least_squares():
    table, sizes = losses(**{"4": 2.0, "8": 2.5, "32": 3.5}), (4.0, 8.0, 32.0)
    rise = claim("rises", list(table), 0.4, sizes=sizes)
    [verdict] = judge(table, rise, against="")
    expected = stats.linregress(np.repeat(np.log2(sizes), 5), np.concatenate(list(table.values()))).slope
    assert verdict.word == "agrees" and verdict.findings[0].value == pytest.approx(expected)
    assert judge(table, claim("falls", list(table), sizes=sizes), against="")[0].word == "disagrees"
    steeper = {f"{arm} too": [2 * value for value in values] for arm, values in table.items()}
    more = claim("rises", list(steeper), sizes=sizes, beyond=tuple(table))
    [found] = judge(table | steeper, more, against="")[0].findings
    assert found.value == pytest.approx(expected)


def test_the_family_is_all_comparisons_of_all_claims():
    """Three, either side by Holm at half of 5 %. The same one in two claims counts once, whichever way round it is asked."""
    table = losses(base=2.0, low=1.99, high=2.02, same=2.0)
    claims = (claim("better", ["low"]), claim("worse", ["high", "same"]), claim("order", ["base", "high"]))
    found = judge(table, *claims)
    three = [contrasts.contrast(table, {arm: 1, "base": -1}) for arm in ("low", "high", "same")]
    above, below = (
        [p for (p,) in contrasts.holm([[float(p(each))] for each in three])]
        for p in (lambda each: each.p_above(0), lambda each: each.p_below(0))
    )
    expected = [min(1, 2 * min(sides)) for sides in zip(above, below, strict=True)]
    assert found[0].tests == 3
    assert [finding.p for verdict in found for finding in verdict.findings] == pytest.approx([*expected, expected[1]])


def test_a_verdict_does_not_depend_on_other_arms():
    """Neither on one that no claim names, however it varies, nor on the variance of one that another claim names."""
    table = losses(base=2.0, low=1.95, same=2.0)
    before = judge(table, claim("better", ["low"]), claim("worse", ["same"]))
    wild = judge(table | {"wild": [0.0, 9.0, 4.0, 1.0, 7.0]}, claim("better", ["low"]), claim("worse", ["same"]))
    assert before == wild and before[0].word == "agrees"
    table["same"] = [0.0, 9.0, 4.0, 1.0, 7.0]
    assert judge(table, claim("better", ["low"]), claim("worse", ["same"]))[0] == before[0]


def test_intervals_end_where_decisions_do():
    """One that agrees beside one that does not ends at its bound; the other's is at the level that is left."""
    table = losses(base=2.0, low=1.0, same=2.0)
    better, none = (verdict.findings[0] for verdict in judge(table, claim("better", ["low"], 0.5), claim("better", ["same"])))
    assert better.word == "agrees" and better.interval.low == 0.5 and better.alone.low > 0.5
    assert none.interval.low == pytest.approx(none.alone.low) and none.interval.high > none.alone.high


def test_one_seed_cannot_tell():
    [verdict] = judge({"base": [2.0], "low": [1.0]}, claim("better", ["low"]))
    [found] = verdict.findings
    assert verdict.word == "cannot tell" and found.interval is found.p is found.alone is None


def test_no_variance_is_certain():
    table = {"base": [2.0] * 3, "low": [1.0] * 3, "same": [2.0] * 3}
    assert word(table, "better", ["low"], 0.5) == "agrees"
    assert word(table, "better", ["same"]) == word(table, "worse", ["same"]) == "cannot tell"
    assert word(table, "equal", ["same"], 0.1) == "agrees"


def test_ranks_that_do_not_vary_are_as_certain_as_a_sign_test():
    """By hand: 2 x 2^-(3 seeds x 2 tasks), and more than 5 % with two seeds and two tasks."""
    for seeds, expected in ((3, "agrees"), (2, "cannot tell")):
        table = {"base": [0.5] * seeds, "low": [1.0] * seeds}
        [verdict] = judge(table, claim("better", ["low"]), higher=True, blocked=True, ranked=2)
        [found] = verdict.findings
        assert verdict.word == expected and found.p == 2 * 0.5 ** (2 * seeds)
        assert (found.alone.low == 0.5) == (found.interval.low >= 0) == (expected == "agrees")
        interval, p = contrasts.games_howell(Data(table, True, blocked=True, ranked=2).contrast({"low": 1, "base": -1}), 2)
        assert p == found.p and (interval.low == 0.5) == (expected == "agrees")


def test_runs_that_diverged_count():
    table = losses(base=2.0, low=1.0, same=2.0, broken=1.0)
    table["broken"] = [NAN] * 5
    assert word(table, "worse", ["broken"], 9.0) == "agrees"
    assert word(table, "better", ["broken"]) == "disagrees"
    assert word(table, "equal", ["broken"], 9.0) == "disagrees"
    assert word(table, "order", ["low", "base", "broken"]) == "agrees"
    assert word(table, "order", ["broken", "low"]) == "disagrees"
    # one run of five: not clearly more often, but the four that are left do not make the arm better
    table["low"][2] = table["same"][2] = NAN
    assert word(table, "better", ["low"], 0.5) == "cannot tell"
    assert word(table, "worse", ["low"], 0.5) == "cannot tell"
    assert word(table, "equal", ["same"], 0.5) == "cannot tell"
    assert word(table, "better", ["same"], 0.5) == "disagrees"
    table = losses(base=2.0, high=3.0)
    table["high"][0] = NAN
    assert word(table, "worse", ["high"], 0.5) == "agrees"
    assert judge(table, claim("worse", ["high"], 0.5))[0].findings[0].diverged == (0, 1)


def test_an_exponent_is_one_comparison_of_the_family():
    sizes = {"low": 1e3, "same": 1e4, "high": 1e5}
    table = {arm: [1.5 + 30 * size**-0.3 + 0.001 * seed for seed in (-1, 0, 1)] for arm, size in sizes.items()}
    law = claim("exponent", list(sizes), 0.05, sizes=tuple(sizes.values()), exponent=0.3)
    [alone] = judge(table, law, against="low")
    assert (alone.word, alone.tests) == ("agrees", 1) and alone.findings[0].value == pytest.approx(0.3, abs=0.01)
    both = judge(table, law, claim("better", ["high"]), against="low")
    assert [verdict.word for verdict in both] == ["agrees", "agrees"] and both[0].tests == 2
    far = claim("exponent", list(sizes), 0.05, sizes=tuple(sizes.values()), exponent=0.6)
    assert judge(table, far, against="low")[0].word == "disagrees"
    table["low"] = [NAN] * 3
    [lost] = judge(table, law, against="same")
    assert lost.word == "cannot tell" and "three sizes" in lost.problem


def test_bad_claims_are_named():
    table = losses(base=2.0, low=1.0)
    with pytest.raises(UserError, match="itself"):
        word(table, "better", ["base"])
    with pytest.raises(UserError, match="with no arm"):
        word(table, "order", ["low"])
    for kind in ("equal", "better"):
        with pytest.raises(UserError, match="'lwo'"):
            word(table, kind, ["lwo"], 0.1)


def test_sentences_add_to_the_error_of_their_pair():
    table = losses(base=2.0, low=1.0)
    plain, shared = (
        judge(table, claim("better", ["low"]), **more)[0].findings[0] for more in ({}, {"shared": {("low", "base"): 0.1}})
    )
    assert (
        shared.error == pytest.approx(np.hypot(plain.error, 0.1))
        and stats.norm.isf(0.025) * 0.1 < shared.value - shared.alone.low
    )
