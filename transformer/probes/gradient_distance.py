"""Gradient distance: the gradient of an output token with respect to an input token a given number of positions before it
(Vaswani et al. 2017, section 4)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from transformer import families
from transformer.config import Config
from transformer.models.losses import Batch, Loss, Params
from transformer.probes.sites import added_to_embeddings

Array = jax.Array
Sums = dict[int, tuple[Array, Array]]  # by distance: the sum of norms, and the number of rows


def distances(config: Config) -> Sequence[int]:
    """1, 2, 4, .. tokens, up to the maximum length of a text."""
    side = "source" if families.FAMILIES[config.family].encodes else "target"
    longest = getattr(config.data, f"max_{side}_length")
    return [2**power for power in range(longest.bit_length()) if 2**power < longest]


def norms(loss: Loss, config: Config, params: Params, batch: Batch) -> Sums:
    """||dl / dx|| at each distance, summed over the rows of a batch that are long enough.

    x is an embedded token of the source, and l is the loss of the row's first target, so that the gradient passes through no
    other decoder step. In a decoder-only model, x is an embedded token of the row, and l is the loss of its last target.
    Distances are counted from the last token that the model reads of the text that contains x.
    """
    alone = not families.FAMILIES[config.family].encodes
    side, segments = ("inputs", "segments") if alone else ("source", "source_segments")
    slots_1xT = jnp.arange(batch["weights"].shape[1])[None]
    counted_BxT = batch["weights"] > 0
    chosen_B = jnp.max(jnp.where(counted_BxT, slots_1xT, -1), axis=1) if alone else jnp.argmax(counted_BxT, axis=1)
    only_one = dict(batch) | {"weights": batch["weights"] * (slots_1xT == chosen_B[:, None])}

    def of_inputs(added_BxSxD: Array) -> Array:
        with added_to_embeddings(added_BxSxD):
            return loss(params, only_one, None)["loss_sum"]

    gradient_BxSxD = jax.grad(of_inputs)(jnp.zeros((*batch[side].shape, config.model.d_model)))
    # Over a long distance a gradient may be so small that its square underflows to 0.
    greatest_BxSx1 = jnp.max(jnp.abs(gradient_BxSxD), axis=-1, keepdims=True)
    unit_BxSxD = gradient_BxSxD / jnp.where(greatest_BxSx1 > 0, greatest_BxSx1, 1)
    norm_BxS = greatest_BxSx1[..., 0] * jnp.linalg.norm(unit_BxSxD, axis=-1)
    text_Bx1 = jnp.take_along_axis(batch["segments"], jnp.maximum(chosen_B, 0)[:, None], axis=1)
    slots_1xS = jnp.arange(norm_BxS.shape[1])[None]
    own_BxS = (batch[segments] == text_Bx1) & jnp.any(counted_BxT, axis=1, keepdims=True)
    if alone:
        own_BxS &= slots_1xS <= chosen_B[:, None]
    end_B = jnp.max(jnp.where(own_BxS, slots_1xS, -1), axis=1)
    result = {}
    for distance in distances(config):
        there_BxS = own_BxS & (slots_1xS == end_B[:, None] - distance)
        result[distance] = (jnp.sum(norm_BxS, where=there_BxS), jnp.sum(there_BxS, dtype=jnp.float32))
    return result


def relative(sums: Sums) -> dict[int, Array]:
    """Means over rows, divided by the mean at distance 1. NaN if no row is long enough."""
    means = {distance: total / rows for distance, (total, rows) in sums.items()}
    return {distance: mean / means[1] for distance, mean in means.items() if distance > 1}
