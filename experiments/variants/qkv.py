"""Attention without queries, keys or values, to find what each of them contributes, for the study ablations/qkv.py.

`SharedQK` has no key projection: keys equal the queries (Kitaev et al. 2020, section 2, but a token may attend to itself here).
`InputValues` has no value projection: each head's values are a slice of the input. `EvenWeights` gives each visible key the
same weight; its queries and keys exist and have no effect. `HardMax` puts all weight on one key.

Not supported: grouped key-value heads with `SharedQK`; values narrower than d_model / heads with `InputValues`.

Letters: B rows, T queries, S keys, H heads, N key-value heads, K, V head widths, D d_model.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from transformer.components.attention import Attention, project
from transformer.components.masks import Pairs, Sizes, Tokens
from transformer.components.parameters import Declared, Parameters, Streams
from transformer.components.positions import Bound

Array = jax.Array


def _without(declared: Declared, module: str) -> Declared:
    return {name: each for name, each in declared.items() if name.split("/")[0] not in (module, f"{module}_norm")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedQK(Attention):
    """In self-attention, keys are the unscaled queries; cross-attention is unchanged."""

    def check(self, sizes: Sizes) -> str | None:
        if sizes.num_kv_heads != sizes.num_heads:
            return "config.model.num_kv_heads: shared queries and keys need as many key-value heads as heads; leave it at none"
        return super().check(sizes)

    def key_parameters(self, sizes: Sizes) -> Declared:
        declared = super().key_parameters(sizes)
        return _without(declared, "key") if sizes.role == "self" else declared

    def key(self, p: Parameters, x_BxSxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Array:
        if sizes.role == "cross":
            return super().key(p, x_BxSxD, tokens, positions, sizes)
        key_BxSxHxK = project(p, "query", x_BxSxD)
        key_BxSxHxK = self.normed(p, "query", key_BxSxHxK)
        return positions.rotate(key_BxSxHxK, tokens.positions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputValues(Attention):
    """Values are the inputs: each head has a slice of width d_model / num_heads."""

    def check(self, sizes: Sizes) -> str | None:
        if sizes.d_v * sizes.num_kv_heads != sizes.d_model:
            return (
                f"config.model.d_v {sizes.d_v}: {sizes.num_kv_heads} slices of it do not add up to d_model {sizes.d_model}, as "
                "they must if values are the inputs; leave d_v and num_kv_heads at none"
            )
        return super().check(sizes)

    def key_parameters(self, sizes: Sizes) -> Declared:
        return _without(super().key_parameters(sizes), "value")

    def value(self, p: Parameters, x_BxSxD: Array, sizes: Sizes) -> Array:
        return x_BxSxD.reshape(*x_BxSxD.shape[:-1], sizes.num_kv_heads, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedQKInputValues(SharedQK, InputValues):
    """Both changes: two of the four projections remain."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvenWeights(Attention):
    """All visible keys have the same weight, except for position biases."""

    def scores(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs) -> Array:
        return jnp.zeros_like(super().scores(p, q, k, pairs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardMax(Attention):
    """Puts all weight on the largest logit (ties go to the first key); zeros if the query sees no key.

    Straight-through estimator (Bengio et al. 2013): the gradient is that of the softmax. A maximum has no gradient, so queries
    and keys would not be trained.
    """

    softmax: ClassVar[bool] = False

    def normalize(self, p: Parameters, logits_BxHxTxS: Array, pairs: Pairs) -> Array:
        weights_BxHxTxS = super().normalize(p, logits_BxHxTxS, pairs)
        greatest = jnp.argmax(weights_BxHxTxS, axis=-1)
        chosen = jax.nn.one_hot(greatest, weights_BxHxTxS.shape[-1], dtype=weights_BxHxTxS.dtype)
        chosen = chosen * (jnp.max(weights_BxHxTxS, axis=-1, keepdims=True) > 0)
        return jax.lax.stop_gradient(chosen) + (weights_BxHxTxS - jax.lax.stop_gradient(weights_BxHxTxS))
