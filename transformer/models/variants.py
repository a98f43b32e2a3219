"""What studies change in attention (`config.model.attention_*`, `query_init`), to see what each part of it is for.

Where these meet the rest is attention.py.

Letters: B rows of a batch, T queries, S keys, H heads, V width of a head's values, D d_model.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def hard_maximum(weights_BxHxTxS: Array) -> Array:
    """All weight on the greatest of the softmax's weights, the first of equals; where nothing is seen, zeros.

    Straight-through (Bengio et al. 2013): the gradient is the softmax's. A maximum has none, so queries and keys would
    stay as they were drawn.
    """
    greatest = jnp.argmax(weights_BxHxTxS, axis=-1)
    chosen = jax.nn.one_hot(greatest, weights_BxHxTxS.shape[-1], dtype=weights_BxHxTxS.dtype)
    chosen = chosen * (jnp.max(weights_BxHxTxS, axis=-1, keepdims=True) > 0)
    return jax.lax.stop_gradient(chosen) + (weights_BxHxTxS - jax.lax.stop_gradient(weights_BxHxTxS))


def sliced(x_BxTxD: Array, num_heads: int) -> Array:
    """Values that are the inputs: BxTxHxV with V = D / H, a slice for each head."""
    return x_BxTxD.reshape(*x_BxTxD.shape[:-1], num_heads, -1)


def divided(initializer: Callable[..., Array], divisor: float) -> Callable[..., Array]:
    """An initializer whose arrays are those of another over `divisor`."""

    def init(*arguments: Any) -> Array:
        return initializer(*arguments) / divisor

    return init
