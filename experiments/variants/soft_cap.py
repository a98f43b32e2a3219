"""Logits with a soft cap: cap tanh(logits / cap) (Gemma 2; Riviere et al. 2024, section 2).

Supports every mask and position encoding; the cap applies to logits with their position bias."""

import dataclasses

import jax
import jax.numpy as jnp

from transformer.components.attention import Attention
from transformer.components.masks import Pairs
from transformer.components.parameters import Parameters, Streams
from transformer.components.positions import Bound
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftCap(Attention):
    """No logit is further from 0 than the cap."""

    cap: float = setting(50.0, "bound of the attention logits", above=0)

    def logits(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound) -> jax.Array:
        return self.cap * jnp.tanh(super().logits(p, q, k, pairs, positions) / self.cap)
