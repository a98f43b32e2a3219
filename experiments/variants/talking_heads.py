"""Talking heads: logits and weights are mixed across heads, before and after the softmax (Shazeer et al. 2020).

    weights = softmax(scores P_l + bias) P_w, P_l and P_w of H x H

Position biases are added to the mixed logits. There are as many heads of logits as of values. Supports every mask and position
encoding.

Letters: B rows, T queries, S keys, H heads.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from transformer.components.attention import Attention
from transformer.components.masks import Pairs, Sizes
from transformer.components.parameters import Declared, Kernel, Parameters, Streams


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalkingHeads(Attention):
    """The weights of a query may be negative."""

    softmax: ClassVar[bool] = False

    def parameters(self, sizes: Sizes) -> Declared:
        mix = Kernel((sizes.num_heads, sizes.num_heads), (None, "heads"))
        return dict(super().parameters(sizes)) | {"logits_mix/kernel": mix, "weights_mix/kernel": mix}

    def scores(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs) -> jax.Array:
        return jnp.einsum("bhts,hg->bgts", super().scores(p, q, k, pairs), p["logits_mix/kernel"])

    def normalize(self, p: Parameters, logits_BxHxTxS: jax.Array, pairs: Pairs) -> jax.Array:
        return jnp.einsum("bhts,hg->bgts", super().normalize(p, logits_BxHxTxS, pairs), p["weights_mix/kernel"])
