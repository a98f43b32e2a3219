"""Differential attention: the difference of two softmaxes, which cancels the noise that both have (Ye et al. 2025).

    (softmax(Q_1 K_1^T / sqrt(K)) - lambda softmax(Q_2 K_2^T / sqrt(K))) V
    lambda = exp(lambda_q1 . lambda_k1) - exp(lambda_q2 . lambda_k2) + lambda_init
    lambda_init = 0.8 - 0.6 exp(-0.3 l), l = 0 in the first layer
    head = (1 - lambda_init) RMSNorm(..)

Each of the two maps of a head has half of its width d_k. A layer thus has the same parameters as an ordinary one with the same
number of heads, plus a few vectors; with the paper's d_model / 2d heads, d_k and d_v are 2d. Not supported: an odd d_k;
position encodings that read queries and keys (Shaw, CoPE).

Letters: B rows, T queries, S keys, H heads, N key-value heads, V width of a head's values.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from transformer import registry
from transformer.components.attention import Attention, rms_norm
from transformer.components.masks import Mask, Pairs, Sizes, Tokens
from transformer.components.parameters import Constant, Declared, Drawn, Parameters, Streams
from transformer.components.positions import Bound, Positions

Array = jax.Array


def maps(sizes: Sizes) -> Sizes:
    """Sizes with twice the heads, for both maps: the first H heads are the first map."""
    return dataclasses.replace(
        sizes, num_heads=2 * sizes.num_heads, num_kv_heads=2 * sizes.num_kv_heads, d_k=max(sizes.d_k // 2, 1)
    )


def initial(layer: Array | int) -> Array:
    """lambda_init of a layer, where the first layer is 0."""
    return 0.8 - 0.6 * jnp.exp(-0.3 * jnp.asarray(layer, jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Differential(Attention):
    """The weights are a difference, and may be negative."""

    softmax: ClassVar[bool] = False

    def check(self, sizes: Sizes) -> str | None:
        return (
            f"config.model.d_k {sizes.d_k}: each of the two maps has half of it, so it must be even" if sizes.d_k % 2 else None
        )

    def supports(self, mask: Mask, positions: Positions, sizes: Sizes) -> str | None:
        if positions.of_content:
            name = registry.reference(type(positions))
            return f"config.model.positions {name}: reads the queries, but there are two of each here; choose another encoding"
        return positions.check(maps(sizes))

    def parameters(self, sizes: Sizes) -> Declared:
        width, normal = sizes.d_k // 2, jax.nn.initializers.normal(0.1)
        own: dict[str, Any] = {f"lambda_{name}": Drawn((width,), (), normal) for name in ("q1", "k1", "q2", "k2")}
        own["heads_norm/scale"] = Constant((sizes.d_v,), (), 1.0)
        return dict(super().parameters(maps(sizes))) | dict(self.output_parameters(sizes)) | own

    def key_parameters(self, sizes: Sizes) -> Declared:
        keys = {n: each for n, each in super().key_parameters(maps(sizes)).items() if n.startswith("key")}
        return dict(super().key_parameters(sizes)) | keys

    def queries(self, p: Parameters, x_BxTxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Streams:
        return super().queries(p, x_BxTxD, tokens, positions, maps(sizes))

    def logits(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound) -> Array:
        """The logits of both maps, with the same position bias: B x 2H x T x S."""
        scores = self.scores(p, q, k, pairs)
        bias = positions.bias(q, k, scores[:, : scores.shape[1] // 2], pairs)
        return self.capped(scores if bias is None else scores + jnp.concatenate([bias, bias], axis=1))

    def normalize(self, p: Parameters, logits_BxHxTxS: Array, pairs: Pairs) -> Array:
        """Normalizes logits with twice as many heads."""
        first, second = jnp.split(super().normalize(p, logits_BxHxTxS, pairs), 2, axis=1)
        factor = jnp.exp(jnp.sum(p["lambda_q1"] * p["lambda_k1"])) - jnp.exp(jnp.sum(p["lambda_q2"] * p["lambda_k2"]))
        return first - (factor + initial(pairs.layer)) * second

    def mix(self, p: Parameters, weights_BxHxTxS: Array, k: Streams, pairs: Pairs, positions: Bound) -> Array:
        heads_BxTxHxV = rms_norm(super().mix(p, weights_BxHxTxS, k, pairs, positions), p["heads_norm/scale"], 1e-5)
        return heads_BxTxHxV * (1 - initial(pairs.layer)).astype(heads_BxTxHxV.dtype)
