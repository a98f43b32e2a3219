"""The log probabilities of the most probable tokens, without an array of the log probabilities of all tokens.

With 256 rows of 58,000 logits that array has 60 MB, which would be written and read for every token. Only its sum and a few of
its entries are needed. These entries are in the few blocks with the largest maxima, so the other blocks are read only once.

Letters: R rows, V vocabulary, C tokens chosen, G blocks of `BLOCK` entries.
"""

from typing import Any

import jax
import jax.numpy as jnp

from transformer.models.layers import entries_first

Array = jax.Array

BLOCK = 128


def top_k_log_probs(logits_RxV: Array, count: int) -> tuple[Array, Array]:
    """Log probabilities and ids, RxC, of the C = min(count, V) most probable tokens, best first (ties go to the lower id)."""
    logits_RxV = logits_RxV.astype(jnp.float32)
    rows, size = logits_RxV.shape
    count, axis = min(count, size), 0 if entries_first(rows) else 1
    x = jnp.moveaxis(logits_RxV, 1, axis)  # the axis of the entries, in the order of memory
    if size <= 2 * BLOCK * count:
        values_RxC, ids_RxC = jax.lax.top_k(logits_RxV, count)
        highest_R = values_RxC[:, 0]
    else:
        highest_RxG = jnp.moveaxis(_of_blocks(x, axis, -jnp.inf, jax.lax.max), axis, 1)
        _, blocks_RxC = jax.lax.top_k(highest_RxG, count)
        # Sorted, so that ties are in the order of ids.
        ids_RxK = (jnp.sort(blocks_RxC)[..., None] * BLOCK + jnp.arange(BLOCK)[None, None]).reshape(rows, -1)
        inside = ids_RxK < size
        places = jnp.moveaxis(jnp.where(inside, ids_RxK, 0), 1, axis)
        candidates_RxK = jnp.moveaxis(jnp.take_along_axis(x, places, axis=axis), axis, 1)
        values_RxC, places_RxC = jax.lax.top_k(jnp.where(inside, candidates_RxK, -jnp.inf), count)
        ids_RxC = jnp.take_along_axis(ids_RxK, places_RxC, axis=1)
        highest_R = jnp.max(highest_RxG, axis=1)
    powers = jnp.exp(x - jnp.expand_dims(highest_R, axis))
    total_R = jnp.sum(_of_blocks(powers, axis, 0.0, jax.lax.add), axis=axis)
    return values_RxC - highest_R[:, None] - jnp.log(total_R)[:, None], ids_RxC.astype(jnp.int32)


def _of_blocks(x: Array, axis: int, nothing: float, join: Any) -> Array:
    """Reduces each block of `BLOCK` entries along `axis` to one with `join`. The last block may be shorter.

    Sums are also computed in this way: otherwise XLA on a CPU adds entries one after another, at half the speed.
    """
    size, past = [1, 1], [(0, 0), (0, 0)]
    size[axis], past[axis] = BLOCK, (0, -x.shape[axis] % BLOCK)
    return jax.lax.reduce_window(x, nothing, join, size, size, past)
