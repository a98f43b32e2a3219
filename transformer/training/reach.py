"""How far a gradient reaches: from what is said last, back to what was read so many tokens before (Vaswani et al. 2017, 4)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.config import Config
from transformer.models.layers import Embedding
from transformer.training.step import Batch, Loss, Params

Array = jax.Array
Sums = dict[int, tuple[Array, Array]]  # by distance: the sum of squared norms, and of how many rows


def distances(config: Config) -> Sequence[int]:
    """1, 2, 4, .. tokens, as far as a text can be long."""
    side = "target" if config.family == "decoder_only" else "source"
    longest = getattr(config.data, f"max_{side}_length")
    return [2**power for power in range(longest.bit_length()) if 2**power < longest]


def squares(loss: Loss, config: Config, params: Params, batch: Batch) -> Sums:
    """Of a batch: ||dl / dx||^2 at each distance, added over the rows that reach so far.

    l is the loss of the last target of a row, x an embedded token of the source or, by a decoder alone, of the row itself; a
    distance is counted from the last token of the text that l belongs to.
    """
    side, segments = ("inputs", "segments") if config.family == "decoder_only" else ("source", "source_segments")
    places_1xT = jnp.arange(batch["weights"].shape[1])[None]
    last_B = jnp.max(jnp.where(batch["weights"] > 0, places_1xT, -1), axis=1)
    only_last = dict(batch) | {"weights": batch["weights"] * (places_1xT == last_B[:, None])}

    def of_inputs(added_BxSxD: Array) -> Array:
        with nn.intercept_methods(_adding(added_BxSxD)):
            return loss(params, only_last, None)["loss_sum"]

    gradient_BxSxD = jax.grad(of_inputs)(jnp.zeros((*batch[side].shape, config.model.d_model)))
    square_BxS = jnp.sum(jnp.square(gradient_BxSxD), axis=-1)
    text_B = jnp.take_along_axis(batch["segments"], jnp.maximum(last_B, 0)[:, None], axis=1)
    places_1xS = jnp.arange(square_BxS.shape[1])[None]
    own_BxS = (batch[segments] == text_B) & (last_B >= 0)[:, None]
    if config.family == "decoder_only":
        own_BxS &= places_1xS <= last_B[:, None]
    end_B = jnp.max(jnp.where(own_BxS, places_1xS, -1), axis=1)
    result = {}
    for distance in distances(config):
        there_BxS = own_BxS & (places_1xS == end_B[:, None] - distance)
        result[distance] = (jnp.sum(square_BxS, where=there_BxS), jnp.sum(there_BxS, dtype=jnp.float32))
    return result


def relative(sums: Sums) -> dict[int, Array]:
    """Root mean squares over rows, in units of that at a distance of 1. NaN: no row is so long."""
    norms = {distance: jnp.sqrt(total / rows) for distance, (total, rows) in sums.items()}
    return {distance: norm / norms[1] for distance, norm in norms.items() if distance > 1}


def _adding(added: Array) -> Callable[..., Any]:
    """An interceptor of calls that adds to what the first embedding gives, which is of the source where there is one."""
    embedded = []

    def interceptor(call: Callable[..., Any], arguments: Any, named: Any, context: Any) -> Any:
        result = call(*arguments, **named)
        if isinstance(context.module, Embedding) and context.method_name == "__call__" and not embedded:
            embedded.append(True)
            return result + added.astype(result.dtype)
        return result

    return interceptor
