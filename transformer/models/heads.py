"""Heads on a model's final states: a masked language model, a pooler, a classifier (Devlin et al. 2019, 3.1 and 4).

Letters: B rows, S tokens, D d_model, N entries of the table, C outputs.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components.feed_forward import ACTIVATIONS
from transformer.config import Model
from transformer.models.dropout import Dropout
from transformer.models.layers import Embedding, NormLayer, kernel_initializer, output_initializer
from transformer.models.stack import Logits

Array = jax.Array


def _dense(config: Model, width: int, name: str, output: bool = False) -> nn.Dense:
    initializer = output_initializer(config) if output else kernel_initializer(config)
    bias = output or config.head_bias
    return nn.Dense(width, use_bias=bias, kernel_init=initializer, dtype=jnp.dtype(config.dtype), name=name)


class MaskedLM(nn.Module):
    """norm(activation(x W + b)), then logits with the tied table or a separate one, plus a bias if `logits_bias` is set."""

    config: Model
    rows: int
    size: int

    @nn.compact
    def __call__(self, states_BxSxD: Array, tied: Embedding | None, factors: bool = False) -> Any:
        """Logits BxSxN in fp32, or their `Factors`."""
        function, _ = ACTIVATIONS[self.config.feed_forward.activation]
        hidden_BxSxD = function(_dense(self.config, self.config.d_model, "transform")(states_BxSxD))
        hidden_BxSxD = NormLayer(self.config, name="norm")(hidden_BxSxD)
        return Logits(self.config, self.rows, self.size, name="logits")(hidden_BxSxD, tied, factors)


class Pooler(nn.Module):
    """tanh(x W + b), or another `pooler_activation`; in ModernBERT's head a norm follows (Warner et al. 2024).

    x is the state of the first token or the mean of all states (`pooling`). With `last` it is the state of the last token, with
    dropout (Lewis et al. 2020, 3.1). With `per_token` the pooler computes each token's own vector.
    """

    config: Model
    last: bool = False
    per_token: bool = False

    @nn.compact
    def __call__(self, states_BxSxD: Array, segments_BxS: Array | None = None, deterministic: bool = True) -> Array:
        """BxD, or BxSxD with `per_token`. Each row has one text; segments are 0 in the padding after it."""
        config = self.config
        x = states_BxSxD if self.per_token else self._pool(states_BxSxD, segments_BxS)
        if self.last:
            x = Dropout(config.head_dropout_rate, config.dropout_generator, deterministic, name="dropout")(x)
        function = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": partial(jax.nn.gelu, approximate=False)}
        x = function[config.pooler_activation](_dense(config, config.d_model, "dense")(x))
        return NormLayer(config, name="norm")(x) if config.prediction_head == "modernbert" else x

    def _pool(self, states_BxSxD: Array, segments_BxS: Array | None) -> Array:
        """BxD."""
        if not self.last and self.config.pooling == "mean":
            seen_BxS = jnp.ones(states_BxSxD.shape[:2]) if segments_BxS is None else segments_BxS > 0
            sums_BxD = jnp.einsum("bsd,bs->bd", states_BxSxD, seen_BxS, preferred_element_type=jnp.float32)
            counts_Bx1 = jnp.maximum(jnp.sum(seen_BxS, axis=1, keepdims=True), 1)  # a row may be empty
            return (sums_BxD / counts_Bx1).astype(states_BxSxD.dtype)
        if not self.last:
            return states_BxSxD[:, 0]
        if segments_BxS is None:
            return states_BxSxD[:, -1]
        last_B = jnp.maximum(jnp.sum(segments_BxS > 0, axis=1) - 1, 0)
        return jnp.take_along_axis(states_BxSxD, last_B[:, None, None], axis=1)[:, 0]


class Classifier(nn.Module):
    """Dropout, then x W + b, which gives a score for each of C outputs."""

    config: Model
    outputs: int

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Scores ... x C in fp32 of states ... x D."""
        config = self.config
        x = Dropout(config.head_dropout_rate, config.dropout_generator, deterministic, name="dropout")(x)
        return _dense(config, self.outputs, "dense", output=True)(x).astype(jnp.float32)
