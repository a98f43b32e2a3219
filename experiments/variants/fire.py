"""FIRE: a small network computes a bias from a distance, relative to the number of visible keys (Li et al. 2024, section 3).

    b(i, j) = f(psi(i - j) / psi(max(L, i))),   psi(x) = log(|c| x + 1)

f has one hidden ReLU layer and one output for each head; c and L are learned. Each layer has its own (the paper's FIRE-S
shares them). For causal masks; in a prefix, keys after the query have distance 0. Any length.

Letters: B rows, T queries, S keys, H heads, W hidden units.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from transformer.components.masks import Pairs, Sizes
from transformer.components.parameters import Constant, Declared, Kernel, Parameters, Streams
from transformer.components.positions import Positions
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class FIRE(Positions):
    """Functional interpolation of relative positions."""

    owner: ClassVar[Literal["stack", "layer"]] = "layer"
    relative: ClassVar[bool] = True
    backward: ClassVar[bool] = True
    width: int = setting(32, "hidden units of the network", at_least=1)
    threshold: float = setting(512.0, "initial value of L: shorter texts are not interpolated", above=0)

    def parameters(self, sizes: Sizes, stddev: float) -> Declared:
        return {
            "hidden/kernel": Kernel((1, self.width)),
            "hidden/bias": Constant((self.width,)),
            "output/kernel": Kernel((self.width, sizes.num_heads), (None, "heads")),
            "output/bias": Constant((sizes.num_heads,), ("heads",)),
            "c": Constant((), (), 0.1),
            "threshold_factor": Constant((), (), 1.0),
        }

    def bias(self, p: Parameters, q: Streams, k: Streams, scores_BxHxTxS: jax.Array, pairs: Pairs) -> jax.Array:
        def psi(x: jax.Array) -> jax.Array:
            return jnp.log(jnp.abs(p["c"]) * x + 1)

        distance_BxTxS = jnp.maximum(-pairs.distance(), 0).astype(jnp.float32)
        query = pairs.query.positions.reshape(-1, distance_BxTxS.shape[1], 1).astype(jnp.float32)
        longest_BxTx1 = jnp.maximum(query, jnp.abs(p["threshold_factor"]) * self.threshold)
        relative_BxTxSx1 = (psi(distance_BxTxS) / (psi(longest_BxTx1) + 1e-6))[..., None]
        hidden_BxTxSxW = jax.nn.relu(relative_BxTxSx1 * p["hidden/kernel"][None, None] + p["hidden/bias"][None, None, None])
        bias_BxHxTxS = jnp.einsum("btsw,wh->bhts", hidden_BxTxSxW, p["output/kernel"])
        return bias_BxHxTxS + p["output/bias"][None, :, None, None]
