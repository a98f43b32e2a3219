"""Critical values against Dunnett's printed table and exact cases; effects against statsmodels and simulated studies."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from transformer.studies import simultaneous, statistics


@pytest.mark.parametrize(
    "freedom, printed",  # Dunnett 1964, two-sided, 5 %; 1 to 4 arms besides the control
    [(5, (2.57, 3.03, 3.29, 3.48)), (10, (2.23, 2.57, 2.76, 2.89)), (20, (2.09, 2.38, 2.54, 2.65))],
)
def test_critical_values_are_dunnetts(freedom, printed):
    values = [simultaneous.critical(simultaneous.dunnett(arms), freedom) for arms in (2, 3, 4, 5)]
    assert values == pytest.approx(printed, abs=0.0051)


def test_special_cases_of_the_tail():
    one, same = simultaneous.dunnett(2), simultaneous.as_key(np.ones((3, 3)))
    for bound in (0.3, 2.0, 40.0):
        assert simultaneous.tail(bound, one, 7) == pytest.approx(2 * stats.t.sf(bound, 7))
        assert simultaneous.tail(bound, same, 7) == pytest.approx(2 * stats.t.sf(bound, 7))  # one statistic, three times
    apart = simultaneous.as_key(np.eye(3))  # so much freedom that they are normal and independent
    assert simultaneous.tail(2.0, apart, 10**7) == pytest.approx(1 - (1 - 2 * stats.norm.sf(2.0)) ** 3, rel=1e-3)
    assert simultaneous.tail(0.0, apart, 5) == 1.0


def test_which_axes_a_processor_finds_says_nothing(monkeypatch):
    """Of a balanced design all variances but one are equal, so any axes at right angles to that one's will do."""
    correlation, find = simultaneous.dunnett(6), np.linalg.eigh
    before = simultaneous._directions.__wrapped__(correlation)[1]

    def turned(matrix):
        variances, axes_PxP = find(matrix)
        turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
        return variances, np.concatenate([axes_PxP[:, :4] @ turn, axes_PxP[:, 4:]], axis=1)

    assert find(np.array(correlation))[0][:4] == pytest.approx(0.5)
    monkeypatch.setattr(np.linalg, "eigh", turned)
    assert simultaneous._directions.__wrapped__(correlation)[1] == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_root_is_one_of_the_matrix(rank):
    loads_PxR = np.random.default_rng(rank).normal(size=(4, rank))
    loads_PxR /= np.linalg.norm(loads_PxR, axis=1, keepdims=True)
    root = simultaneous._root(loads_PxR @ loads_PxR.T)
    assert root.shape == (4, rank) and root @ root.T == pytest.approx(loads_PxR @ loads_PxR.T, abs=1e-9)


def test_far_tails_are_between_one_test_and_bonferroni():
    p = simultaneous.tail(30.0, simultaneous.dunnett(5), 20)
    one = 2 * stats.t.sf(30.0, 20)
    assert one < p <= 4 * one * 1.01


def test_detectable_effect_of_two_arms_is_statsmodels():
    """Two arms and a block are a paired t test, whose differences vary by sqrt(2) times the residual."""
    standard = TTestPower().solve_power(nobs=6, alpha=0.05, power=0.8, alternative="two-sided")
    assert simultaneous.detectable(0.3, 6, 2) == pytest.approx(standard * 0.3 * np.sqrt(2), rel=2e-3)


def test_simulated_studies_find_what_they_should():
    effect, margin = simultaneous.detectable(0.5, 4, 3), simultaneous.provable_margin(0.5, 4, 3)
    rng, found, equal = np.random.default_rng(0), 0, 0
    for values_AxS in 0.5 * rng.normal(size=(2000, 3, 4)):
        plain, same, better = values_AxS
        result = statistics.compare({"plain": plain, "same": same, "better": better + effect}, "plain").differences
        found += result["better", "plain"].interval.low > 0
        low, high = result["same", "plain"].interval
        equal += -margin < low and high < margin
    assert found / 2000 == pytest.approx(0.8, abs=0.03)
    assert equal / 2000 == pytest.approx(0.8, abs=0.03)


def test_what_one_seed_or_small_claims_leave_open():
    assert simultaneous.detectable(1.0, 1, 4) is simultaneous.provable_margin(1.0, 1, 4) is None
    assert simultaneous.detectable(0.0, 3, 4) == 0.0
    assert simultaneous.exploratory(0.9, None)
    assert simultaneous.exploratory(0.9, 1.0)
    assert not simultaneous.exploratory(0.9, 0.8)
