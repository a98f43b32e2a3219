"""Softmax metrics against their definitions in fp64, one query and one head at a time."""

import math

import jax
import numpy as np
import pytest

from transformer.components.attention import masked_softmax
from transformer.probes.softmax import softmax_sums

B, H, T, S = 2, 3, 4, 6


def by_hand(logits, seen):
    """Sums over queries that see at least two keys: the variance, the entropy, and the full Jacobian, by definition."""
    sums = {"logit_variance": 0.0, "attention_entropy": 0.0, "jacobian_norm": 0.0, "queries": 0}
    for b, h, t in np.ndindex(*logits.shape[:3]):
        l = logits[b, h, t][seen[b, h, t]].astype(np.float64)  # noqa: E741
        if len(l) < 2:
            continue
        p = np.exp(l - l.max()) / np.exp(l - l.max()).sum()
        sums["logit_variance"] += np.mean((l - np.mean(l)) ** 2)
        sums["attention_entropy"] += -sum(x * math.log(x) for x in p if x) / math.log(len(l))
        sums["jacobian_norm"] += np.linalg.norm(np.diag(p) - np.outer(p, p))
        sums["queries"] += 1
    return sums


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 4.0])
def test_measures_are_their_definitions(spread):
    draw = np.random.default_rng(0)
    logits = (50.0 + draw.normal(scale=spread, size=(B, H, T, S))).astype(np.float32)
    seen = draw.random((B, H, T, S)) < 0.6
    seen[0, 0, 0], seen[0, 0, 1], seen[0, 0, 2] = False, [True] + [False] * (S - 1), True  # none, one, all
    logits[~seen] = 1e4  # what is not seen does not count
    found = jax.jit(lambda x: softmax_sums(x, masked_softmax(x, seen), seen))(logits)
    wanted = by_hand(logits, seen)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert 0 < wanted["queries"] < B * H * T - 1


def test_known_values_of_uniform_and_of_one_hot_weights():
    even, one = np.zeros((1, 1, 1, 5), np.float32), np.asarray([[[[0.0, 200.0, 0.0, 0.0, 0.0]]]], np.float32)
    seen = np.ones(even.shape, bool)
    of = {name: softmax_sums(x, masked_softmax(x, seen), seen) for name, x in (("even", even), ("one", one))}
    assert (of["even"]["attention_entropy"], of["even"]["logit_variance"]) == (pytest.approx(1), 0)
    assert of["even"]["jacobian_norm"] == pytest.approx(2 / 5)  # sqrt(n - 1) / n
    assert (of["one"]["attention_entropy"], of["one"]["jacobian_norm"]) == (0, 0)
    assert of["one"]["logit_variance"] == pytest.approx(40**2 * 4)  # mean 40; 160^2 once, 40^2 four times, over 5


@pytest.mark.parametrize("gap", [8.0, 14.0, 20.0])
def test_a_small_jacobian_is_not_lost_in_rounding(gap):
    """One weight is 1 up to exp(-gap), which fp32 cannot distinguish from 1."""
    logits = np.asarray([[[[gap, 0.0, -1.0]]]], np.float32)
    seen = np.ones(logits.shape, bool)
    found = softmax_sums(logits, masked_softmax(logits, seen), seen)
    assert found["jacobian_norm"] == pytest.approx(by_hand(logits, seen)["jacobian_norm"], rel=1e-5, abs=0)
