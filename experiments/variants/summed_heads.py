"""One output projection for the sum of the heads.

Concat(heads) W^O is a sum over heads too, sum_i head_i W_i^O (Vaswani et al. 2017, section 3.2.2). Here the W_i^O are one
matrix, so heads cannot write to different subspaces. Supports every mask and position encoding.

Letters: B rows, T queries, H heads, V width of a head's values, D d_model.
"""

import dataclasses
from typing import Any

import jax

from transformer.components.attention import Attention
from transformer.components.masks import Sizes
from transformer.components.parameters import Constant, Declared, Kernel, Parameters
from transformer.components.products import product

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class SummedHeads(Attention):
    """(head_1 + .. + head_h) W^O with W^O V x D."""

    def output_parameters(self, sizes: Sizes) -> Declared:
        declared: dict[str, Any] = {"summed_output/kernel": Kernel((sizes.d_v, sizes.d_model), ("width", "model"))}
        return declared | ({"summed_output/bias": Constant((sizes.d_model,))} if self.has_output_bias else {})

    def output(self, p: Parameters, heads_BxTxHxV: Array, x_BxTxD: Array, sizes: Sizes) -> Array:
        result = product("btv,vd->btd", heads_BxTxHxV.sum(axis=2), p["summed_output/kernel"])
        return result + p["summed_output/bias"].astype(result.dtype)[None, None] if self.has_output_bias else result
