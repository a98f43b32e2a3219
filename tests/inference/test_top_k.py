"""The most probable tokens, against sorting all log probabilities in fp64."""

import jax
import numpy as np
import pytest

from transformer.inference.top_k import BLOCK, top_k_log_probs


def sorted_by_hand(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Best first, ties in the order of ids."""
    exact = logits.astype(np.float64)
    log_probs = exact - exact.max(axis=1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    ids = np.argsort(-log_probs, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(log_probs, ids, axis=1), ids


@pytest.mark.parametrize("size", [3, 2 * BLOCK, 2 * BLOCK + 1, 9 * BLOCK, 16 * BLOCK + 1, 40 * BLOCK - 1, 40 * BLOCK + 5])
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("kind", ["drawn", "equals", "crowded", "masked", "all equal"])
@pytest.mark.parametrize("rows", [5, 65])  # which lie otherwise in memory
def test_top_k_matches_sorting(size, count, kind, rows):
    draw = np.random.default_rng(size + count)
    logits = draw.normal(scale=3, size=(rows, size)).astype(np.float32)
    if kind == "equals":  # few values, so most tokens have equals, in their block and in others
        logits = np.round(logits) + 0.0  # there is one zero
    if kind == "crowded":  # the best stand side by side at the end, in a block that may be short
        logits[:, -9:] += 30
    if kind == "masked":
        logits[:, draw.permutation(size)[: size // 2]] = -1e30
    if kind == "all equal":
        logits[:] = 2.5
    values, ids = jax.jit(top_k_log_probs, static_argnums=1)(logits, count)
    wanted_values, wanted_ids = sorted_by_hand(logits, count)
    assert np.array_equal(ids, wanted_ids)
    np.testing.assert_allclose(values, np.maximum(wanted_values, -1e30), rtol=1e-6, atol=2e-5)


def test_half_precision_is_summed_in_full():
    logits = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    values, ids = top_k_log_probs(jax.numpy.asarray(logits, jax.numpy.bfloat16), 3)
    wanted = sorted_by_hand(np.asarray(jax.numpy.asarray(logits, jax.numpy.bfloat16), np.float32), 3)
    assert values.dtype == np.float32 and np.array_equal(ids, wanted[1])
    np.testing.assert_allclose(values, wanted[0], atol=2e-5)
