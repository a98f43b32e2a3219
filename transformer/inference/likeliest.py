"""The likeliest tokens of a row of logits, without an array of as many log probabilities.

At 256 rows of 58,000 logits that array is 60 MB, written and read again for every token. What is needed of it is a sum, and a
few entries: these stand in the few blocks whose greatest entries are the greatest, so the others are not looked at twice.

Letters: R rows, V vocabulary, C tokens chosen, G blocks of `BLOCK` entries.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

BLOCK = 128


def likeliest(logits_RxV: Array, count: int) -> tuple[Array, Array]:
    """Log probabilities and ids, both RxC, of the C = min(count, V) likeliest tokens, best first; of equals the lowest id."""
    logits_RxV = logits_RxV.astype(jnp.float32)
    rows, size = logits_RxV.shape
    count = min(count, size)
    if size <= 2 * BLOCK * count:
        values_RxC, ids_RxC = jax.lax.top_k(logits_RxV, count)
        highest_R = values_RxC[:, 0]
    else:
        highest_RxG = _of_blocks(logits_RxV, -jnp.inf, jax.lax.max)
        _, blocks_RxC = jax.lax.top_k(highest_RxG, count)
        # In order, so that equals are met by their ids.
        ids_RxK = (jnp.sort(blocks_RxC)[..., None] * BLOCK + jnp.arange(BLOCK)[None, None]).reshape(rows, -1)
        inside = ids_RxK < size
        candidates_RxK = jnp.take_along_axis(logits_RxV, jnp.where(inside, ids_RxK, 0), axis=1)
        values_RxC, places_RxC = jax.lax.top_k(jnp.where(inside, candidates_RxK, -jnp.inf), count)
        ids_RxC = jnp.take_along_axis(ids_RxK, places_RxC, axis=1)
        highest_R = jnp.max(highest_RxG, axis=1)
    total_R = jnp.sum(_of_blocks(jnp.exp(logits_RxV - highest_R[:, None]), 0.0, jax.lax.add), axis=1)
    return values_RxC - highest_R[:, None] - jnp.log(total_R)[:, None], ids_RxC.astype(jnp.int32)


def _of_blocks(x_RxV: Array, nothing: float, join: Any) -> Array:
    """Each block of `BLOCK` entries joined to one, the last of which may be shorter: RxG.

    Of sums too: XLA on a CPU adds what it has just computed one after the other, in half the speed of a window.
    """
    size, whole = (1, BLOCK), ((0, 0), (0, -x_RxV.shape[1] % BLOCK))
    return jax.lax.reduce_window(x_RxV, nothing, join, size, size, whole)
