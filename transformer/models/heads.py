"""What stands on an encoder's states: a masked language model, a pooler, a classifier (Devlin et al. 2019, 3.1 and 4).

Letters: B rows, S tokens, D d_model, N entries of the table, C outputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components.feed_forward import ACTIVATIONS
from transformer.config import Model
from transformer.models.dropout import Dropout
from transformer.models.layers import Embedding, NormLayer, kernel_initializer
from transformer.models.stack import Logits

Array = jax.Array


def _dense(config: Model, width: int, name: str) -> nn.Dense:
    return nn.Dense(width, kernel_init=kernel_initializer(config), dtype=jnp.dtype(config.dtype), name=name)


class MaskedLM(nn.Module):
    """norm(activation(x W + b)), then logits with the tied table or its own, and `logits_bias`."""

    config: Model
    rows: int
    size: int

    @nn.compact
    def __call__(self, states_BxSxD: Array, tied: Embedding | None) -> Array:
        """Logits BxSxN in fp32."""
        function, _ = ACTIVATIONS[self.config.feed_forward.activation]
        hidden_BxSxD = function(_dense(self.config, self.config.d_model, "transform")(states_BxSxD))
        hidden_BxSxD = NormLayer(self.config, name="norm")(hidden_BxSxD)
        return Logits(self.config, self.rows, self.size, name="logits")(hidden_BxSxD, tied)


class Pooler(nn.Module):
    """tanh(x_0 W + b) of the first token."""

    config: Model

    @nn.compact
    def __call__(self, states_BxSxD: Array) -> Array:
        """BxD."""
        return jnp.tanh(_dense(self.config, self.config.d_model, "dense")(states_BxSxD[:, 0]))


class Classifier(nn.Module):
    """Dropout, then x W + b: a score for each of C outputs."""

    config: Model
    outputs: int

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """.. x D -> .. x C, in fp32."""
        config = self.config
        x = Dropout(config.head_dropout_rate, config.dropout_generator, deterministic, name="dropout")(x)
        return _dense(config, self.outputs, "dense")(x).astype(jnp.float32)
