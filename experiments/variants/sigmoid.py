"""Sigmoid attention: each weight is a sigmoid of its own logit, and does not depend on other keys (Ramapuram et al. 2025).

    weight_s = sigmoid(l_s + b), b = -log n

Section 2, with the paper's bias: if logits are 0, the weights of n keys sum to about 1. Here n is the number of keys that
the query sees, so that decoding with a cache gives the same outputs as training. Supports every mask and position encoding.

Letters: B rows, T queries, S keys, H heads.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from transformer.components.attention import Attention
from transformer.components.masks import Pairs
from transformer.components.parameters import Parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmoid(Attention):
    """The weights of a query need not sum to 1."""

    softmax: ClassVar[bool] = False

    def normalize(self, p: Parameters, logits_BxHxTxS: jax.Array, pairs: Pairs) -> jax.Array:
        weights_BxHxTxS = jax.nn.sigmoid(logits_BxHxTxS - jnp.log(pairs.count()))
        return weights_BxHxTxS if (seen := pairs.seen()) is None else jnp.where(seen, weights_BxHxTxS, 0)
