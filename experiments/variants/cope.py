"""CoPE, contextual position encoding: each query decides which keys count as positions (Golovneva et al. 2024).

    g_ij = sigmoid(q_i . k_j),   p_ij = sum over k = j .. i of g_ik,   logit_ij = q_i . (k_j + e[p_ij])

Between two whole numbers, e[p] is interpolated; past the end of the table, the last entry is used. q is the query times the
factor of attention, in all three places. The table is initialized with the standard deviation `init_stddev`. Each layer has its
own table, which all heads share. For causal masks; with a prefix, keys are counted up to its end, and with a window, only keys
inside it. Not supported: fused kernels, and attention with other queries (differential, latent).

Letters: B rows, T queries, S keys, H heads, K width of a head, E entries of the table.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from transformer.components.masks import Pairs, Sizes
from transformer.components.parameters import Declared, Drawn, Parameters, Streams
from transformer.components.positions import Positions
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoPE(Positions):
    """Contextual position encoding."""

    owner: ClassVar[Literal["stack", "layer"]] = "layer"
    relative: ClassVar[bool] = True
    of_content: ClassVar[bool] = True
    backward: ClassVar[bool] = True
    largest: int = setting(64, "the largest position (p_max)", at_least=1)

    def parameters(self, sizes: Sizes, stddev: float) -> Declared:
        return {"table": Drawn((self.largest + 1, sizes.d_k), (), jax.nn.initializers.normal(stddev))}

    def bias(self, p: Parameters, q: Streams, k: Streams, scores_BxHxTxS: jax.Array, pairs: Pairs) -> jax.Array:
        position_BxHxTxS = jnp.minimum(pairs.sum_from(jax.nn.sigmoid(scores_BxHxTxS)), self.largest)
        below = jnp.floor(jax.lax.stop_gradient(position_BxHxTxS)).astype(jnp.int32)
        query = q["query"]
        logits_BxHxTxE = jnp.einsum("bthk,ek->bhte", query, p["table"].astype(query.dtype), preferred_element_type=jnp.float32)
        first = jnp.take_along_axis(logits_BxHxTxE, below, axis=-1)
        second = jnp.take_along_axis(logits_BxHxTxE, jnp.minimum(below + 1, self.largest), axis=-1)
        return first + (position_BxHxTxS - below.astype(jnp.float32)) * (second - first)
