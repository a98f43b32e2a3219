"""What stands on a model's states: a masked language model, a pooler, a classifier (Devlin et al. 2019, 3.1 and 4).

Letters: B rows, S tokens, D d_model, N entries of the table, C outputs.
"""

from functools import partial

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
    return nn.Dense(width, kernel_init=initializer, dtype=jnp.dtype(config.dtype), name=name)


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
    """tanh(x W + b), or with `pooler_activation`. x is the state of the first token or, with dropout, of the last one (Lewis et
    al. 2020, 3.1)."""

    config: Model
    last: bool = False

    @nn.compact
    def __call__(self, states_BxSxD: Array, segments_BxS: Array | None = None, deterministic: bool = True) -> Array:
        """BxD. One text a row; segments are 0 in the padding behind it."""
        config = self.config
        if not self.last:
            x_BxD = states_BxSxD[:, 0]
        elif segments_BxS is None:
            x_BxD = states_BxSxD[:, -1]
        else:
            last_B = jnp.maximum(jnp.sum(segments_BxS > 0, axis=1) - 1, 0)
            x_BxD = jnp.take_along_axis(states_BxSxD, last_B[:, None, None], axis=1)[:, 0]
        if self.last:
            x_BxD = Dropout(config.head_dropout_rate, config.dropout_generator, deterministic, name="dropout")(x_BxD)
        function = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": partial(jax.nn.gelu, approximate=False)}
        return function[config.pooler_activation](_dense(config, config.d_model, "dense")(x_BxD))


class Classifier(nn.Module):
    """Dropout, then x W + b: a score for each of C outputs."""

    config: Model
    outputs: int

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """.. x D -> .. x C, in fp32."""
        config = self.config
        x = Dropout(config.head_dropout_rate, config.dropout_generator, deterministic, name="dropout")(x)
        return _dense(config, self.outputs, "dense", output=True)(x).astype(jnp.float32)
