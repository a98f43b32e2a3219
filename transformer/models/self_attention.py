"""This library's self-attention as a layer for any Flax model."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components.masks import Pairs, Tokens
from transformer.config import Model
from transformer.models.attention import AttentionLayer
from transformer.models.declare import declare
from transformer.models.layers import kernel_initializer

Array = jax.Array


class SelfAttention(nn.Module):
    """Attention with the heads, widths, `attention`, `positions`, `mask` and `window` of `config`; no norms, no residuals.

    Position encodings that are added to embeddings (sinusoidal, learned) are added to the input. `causal`: attention is that
    of a decoder.
    """

    config: Model
    causal: bool = False

    @nn.compact
    def __call__(self, x_BxTxD: Array, segments_BxT: Array | None = None, deterministic: bool = True) -> Array:
        """States BxTxD of inputs BxTxD. `segments_BxT`: a token sees only tokens of its own segment; 0 is padding."""
        stack = "decoder" if self.causal else "encoder"
        config, positions = self.config.of_stack(stack), self.config.of_stack(stack).positions
        initializer = kernel_initializer(config)
        declared = positions.parameters(config.sizes(stack), config.init_stddev) if positions.owner == "stack" else {}
        parameters = declare(self, declared, initializer, prefix="position_")
        tokens = Tokens(jnp.arange(x_BxTxD.shape[1]), segments_BxT)
        pairs = Pairs(tokens, tokens, 0, config.self_mask(stack, not deterministic), aligned=True)
        layer = AttentionLayer(config, stack, "self", initializer, deterministic, name="attention")
        return layer(positions.embed(parameters, x_BxTxD, tokens.positions), pairs, position_parameters=parameters)[0]
