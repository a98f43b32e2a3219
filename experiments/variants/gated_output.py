"""Gated output: each head's output times a sigmoid of the query's token (Qiu et al. 2025: head-wise, position G1).

    head_i * sigmoid(x W_i + b_i), W_i of D x 1

A head can give no output for a token without an attention sink. Supports every mask and position encoding, and fused kernels.

Letters: B rows, T queries, H heads, V width of a head's values, D d_model.
"""

import dataclasses
from typing import Any

import jax

from transformer.components.attention import Attention
from transformer.components.masks import Sizes
from transformer.components.parameters import Constant, Declared, Kernel, Parameters
from transformer.components.products import product


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedOutput(Attention):
    """One gate for each head and token, between 0 and 1."""

    def parameters(self, sizes: Sizes) -> Declared:
        declared: dict[str, Any] = {"gate/kernel": Kernel((sizes.d_model, sizes.num_heads), ("model", "heads"))}
        if self.bias:
            declared["gate/bias"] = Constant((sizes.num_heads,), ("heads",))
        return dict(super().parameters(sizes)) | declared

    def output(self, p: Parameters, heads_BxTxHxV: jax.Array, x_BxTxD: jax.Array, sizes: Sizes) -> jax.Array:
        gate_BxTxH = product("btd,dh->bth", x_BxTxD, p["gate/kernel"])
        if "gate/bias" in p:
            gate_BxTxH = gate_BxTxH + p["gate/bias"].astype(gate_BxTxH.dtype)[None, None]
        return super().output(p, heads_BxTxHxV * jax.nn.sigmoid(gate_BxTxH)[..., None], x_BxTxD, sizes)
