"""The soft cap against a loop in fp64."""

import math

import jax.numpy as jnp
import numpy as np

from experiments.variants.soft_cap import SoftCap
from transformer.components.attention import attend
from transformer.components.masks import Causal, Pairs, Tokens


def test_logits_are_capped_before_the_mask():
    draw = np.random.default_rng(0)
    query, key, value = (draw.normal(scale=3.0, size=(2, 5, 3, 4)).astype(np.float32) for _ in range(3))
    tokens = Tokens(jnp.arange(5))
    arguments = [jnp.asarray(x) for x in (query, key, value)]
    found = attend(*arguments, Pairs(tokens, tokens, mask=Causal()), attention=SoftCap(cap=2.0))
    for b, t, h in np.ndindex(2, 5, 3):
        logits = [2.0 * math.tanh(float(query[b, t, h] @ key[b, s, h]) / 2 / 2.0) for s in range(t + 1)]
        weights = np.exp(logits) / np.sum(np.exp(logits))
        np.testing.assert_allclose(found[b, t, h], weights @ value[b, : t + 1, h], atol=1e-5)
