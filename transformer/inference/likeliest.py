"""The likeliest tokens of a row of logits, without an array of as many log probabilities.

At 256 rows of 58,000 logits that array is 60 MB, written and read again for every token. What is needed of it is a sum, and a
few entries: these stand in the few blocks whose greatest entries are the greatest, so the others are not looked at twice.

Letters: R rows, V vocabulary, C tokens chosen, G blocks of `BLOCK` entries.
"""

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
        highest_RxG = _block_maxima(logits_RxV)
        _, blocks_RxC = jax.lax.top_k(highest_RxG, count)
        # In order, so that equals are met by their ids.
        ids_RxK = (jnp.sort(blocks_RxC)[..., None] * BLOCK + jnp.arange(BLOCK)[None, None]).reshape(rows, -1)
        inside = ids_RxK < size
        candidates_RxK = jnp.take_along_axis(logits_RxV, jnp.where(inside, ids_RxK, 0), axis=1)
        values_RxC, places_RxC = jax.lax.top_k(jnp.where(inside, candidates_RxK, -jnp.inf), count)
        ids_RxC = jnp.take_along_axis(ids_RxK, places_RxC, axis=1)
        highest_R = jnp.max(highest_RxG, axis=1)
    total_R = jnp.sum(jnp.exp(logits_RxV - highest_R[:, None]), axis=1)
    return values_RxC - highest_R[:, None] - jnp.log(total_R)[:, None], ids_RxC.astype(jnp.int32)


def _block_maxima(logits_RxV: Array) -> Array:
    """Of each block of `BLOCK` entries, the last of which may be shorter: RxG."""
    size, whole = (1, BLOCK), ((0, 0), (0, -logits_RxV.shape[1] % BLOCK))
    return jax.lax.reduce_window(logits_RxV, -jnp.inf, jax.lax.max, size, size, whole)
