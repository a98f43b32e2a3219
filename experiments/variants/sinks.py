"""Attention sinks: each head has an extra logit that receives weight and has no value (Xiao et al. 2024).

    softmax(l)_s = exp(l_s) / (exp(sink) + sum_j exp(l_j))

A head that finds no relevant key can give all keys almost no weight. `zero` is the paper's "SoftMax-off-by-one"; `learned`, a
learned sink logit for each head, is that of gpt-oss (OpenAI 2025). Supports every mask and position encoding.

Letters: B rows, T queries, S keys, H heads.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from transformer.components.attention import Attention, masked_softmax
from transformer.components.masks import Pairs, Sizes
from transformer.components.parameters import Constant, Declared, Parameters
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinks(Attention):
    """The weights of a query sum to less than 1."""

    softmax: ClassVar[bool] = False
    sink: Literal["learned", "zero"] = setting("learned", "the logit of the sink; learned: one for each head, initialized to 0")

    def parameters(self, sizes: Sizes) -> Declared:
        own = {"sink": Constant((sizes.num_heads,), ("heads",))} if self.sink == "learned" else {}
        return dict(super().parameters(sizes)) | own

    def normalize(self, p: Parameters, logits_BxHxTxS: jax.Array, pairs: Pairs) -> jax.Array:
        rows, heads, length, _ = logits_BxHxTxS.shape
        sink_H = p.get("sink", jnp.zeros((heads,)))
        sink_BxHxTx1 = jnp.broadcast_to(sink_H[None, :, None, None], (rows, heads, length, 1))
        seen = jnp.broadcast_to(jnp.bool_(True) if (seen := pairs.seen()) is None else seen, logits_BxHxTxS.shape)
        with_sink = jnp.concatenate([logits_BxHxTxS, sink_BxHxTx1], axis=-1)
        return masked_softmax(with_sink, jnp.concatenate([seen, jnp.ones_like(sink_BxHxTx1, bool)], axis=-1))[..., :-1]
