"""FoX, the forgetting Transformer: each token between a key and its query lowers the logit (Lin et al. 2025, section 3).

    f_t = sigmoid(w . x_t + b),   logit_ij += sum over l = j + 1 .. i of log f_l

How fast a head forgets depends on the data. It needs no other position encoding. For causal masks; with a prefix, the sum is
over the tokens between a key and the end of the prefix. The cache holds log f in fp32. Any length; fused kernels that take a
bias support it.

Letters: B rows, T queries, S keys, H heads, D d_model.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from transformer.components.masks import Pairs, Sizes, Tokens
from transformer.components.parameters import Constant, Declared, Kernel, Parameters, Streams
from transformer.components.positions import Positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgetting(Positions):
    """A data-dependent forget gate for each head."""

    owner: ClassVar[Literal["stack", "layer"]] = "layer"
    relative: ClassVar[bool] = True
    backward: ClassVar[bool] = True

    def parameters(self, sizes: Sizes, stddev: float) -> Declared:
        kernel = Kernel((sizes.d_model, sizes.num_heads), ("model", "heads"))
        return {"forget/kernel": kernel, "forget/bias": Constant((sizes.num_heads,), ("heads",))}

    def key_streams(self, p: Parameters, x_BxSxD: jax.Array, tokens: Tokens) -> Streams:
        forget = jnp.einsum("bsd,dh->bsh", x_BxSxD.astype(jnp.float32), p["forget/kernel"])
        return {"log_forget": jax.nn.log_sigmoid(forget + p["forget/bias"][None, None])}

    def bias(self, p: Parameters, q: Streams, k: Streams, scores_BxHxTxS: jax.Array, pairs: Pairs) -> jax.Array:
        log_forget_BxHx1xS = jnp.moveaxis(k["log_forget"], 1, 2)[:, :, None]
        return pairs.sum_from(log_forget_BxHx1xS) - log_forget_BxHx1xS
