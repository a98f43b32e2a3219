"""Shared queries and keys (Kitaev et al. 2020, Reformer, section 2: "Shared-QK Transformer" and "causal masking").

    k_j = q_j / |q_j|

A token does not attend to itself unless it sees no other token, because its logit with itself would be the largest. There is no
hashing: each token attends to all others that it sees. Cross-attention is ordinary attention. It needs the same number of heads
and key-value heads, and supports every mask and position encoding.

Letters: B rows, T queries, S keys, H heads, K width of a head.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.variants.qkv import SharedQK
from transformer.components.attention import masked_softmax
from transformer.components.masks import Pairs, Sizes, Tokens
from transformer.components.parameters import Parameters
from transformer.components.positions import Bound

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reformer(SharedQK):
    """Keys have length 1; a token sees itself only if it sees no other token."""

    has_own_norm: ClassVar[bool] = True
    softmax: ClassVar[bool] = False

    def key(self, p: Parameters, x_BxSxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Array:
        key_BxSxHxK = super().key(p, x_BxSxD, tokens, positions, sizes)
        if sizes.role == "cross":
            return key_BxSxHxK
        exact = key_BxSxHxK.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.sum(exact * exact, axis=-1, keepdims=True) + self.norm_epsilon)
        return (exact * inverse).astype(key_BxSxHxK.dtype)

    def normalize(self, p: Parameters, logits_BxHxTxS: Array, pairs: Pairs) -> Array:
        assert pairs.sizes is not None
        if pairs.sizes.role == "cross":
            return super().normalize(p, logits_BxHxTxS, pairs)
        seen = jnp.bool_(True) if (seen := pairs.seen()) is None else seen
        others = seen & (pairs.distance() != 0)[:, None]
        alone = ~jnp.any(others, axis=-1, keepdims=True)
        return masked_softmax(logits_BxHxTxS, jnp.where(alone, seen, others))
