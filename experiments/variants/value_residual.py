"""Value residual: each layer mixes its values with those of the first layer (Zhou et al. 2025, Value Residual Learning).

    V'_n = (1 - share) V_n + share V_1

With a share of 1/2 both weigh the same, as in Identity-ResFormer. It is an example of a variant that reads another layer. In
self-attention only; supports every mask, position encoding and fused kernel. All layers that have it must have values of the
same size, and V_1 are the values of the first of them.

Letters: B rows, T tokens, N key-value heads, V width of a head's values.
"""

import dataclasses

import jax.numpy as jnp

from transformer.components.attention import Attention
from transformer.components.masks import Pairs, Sizes
from transformer.components.parameters import Parameters, Streams
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueResidual(Attention):
    """Values that contain those of the first layer."""

    share: float = setting(0.5, "weight of the first layer's values; that of a layer's own is 1 - share", at_least=0, below=1)

    def passed_up(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"first_value": (sizes.num_kv_heads, sizes.d_v), "known": ()}  # known: 1 from the first layer on

    def from_below(self, p: Parameters, k: Streams, below: Streams, pairs: Pairs) -> tuple[Streams, Streams]:
        first_BxTxNxV = jnp.where(below["known"][..., None, None] > 0, below["first_value"], k["value"])
        mixed_BxTxNxV = (1 - self.share) * k["value"] + self.share * first_BxTxNxV
        return k | {"value": mixed_BxTxNxV}, {"first_value": first_BxTxNxV, "known": jnp.ones_like(below["known"])}
