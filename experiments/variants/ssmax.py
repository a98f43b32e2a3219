"""Scalable softmax (SSMax): logits grow with the logarithm of the number of keys (Nakanishi 2025).

    weights = softmax(s log(n) l)

An ordinary softmax over more and more keys becomes flat; this one does not. s is learned for each head and is initialised to
1; n is the number of keys that the query sees. Supports every mask and position encoding; a query that sees one key gives it
all weight.

Letters: B rows, T queries, S keys, H heads.
"""

import dataclasses

import jax
import jax.numpy as jnp

from transformer.components.attention import Attention
from transformer.components.masks import Pairs, Sizes
from transformer.components.parameters import Constant, Declared, Parameters, Streams
from transformer.components.positions import Bound


@dataclasses.dataclass(frozen=True, kw_only=True)
class SSMax(Attention):
    """Logits, position bias included, times s log(n)."""

    def parameters(self, sizes: Sizes) -> Declared:
        return dict(super().parameters(sizes)) | {"length_scale": Constant((sizes.num_heads,), ("heads",), 1.0)}

    def logits(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound) -> jax.Array:
        scale_1xHx1x1 = p["length_scale"][None, :, None, None]
        return super().logits(p, q, k, pairs, positions) * scale_1xHx1x1 * jnp.log(pairs.count())
