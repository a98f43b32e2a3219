"""Metrics of an attention softmax: how far it is from uniform, and how much gradient passes through it.

Letters: B rows of a batch, T queries, S keys, H heads.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def softmax_sums(logits_BxHxTxS: Array, weights_BxHxTxS: Array, seen_BxHxTxS: Array) -> dict[str, Array]:
    """Sums of metrics over queries and heads, fp32 scalars. Divided by `queries`, which counts the queries, they are means.

    For a query with the logits l and the weights p = softmax(l) over the n keys that it sees:

    logit_variance: (1 / n) sum_s (l_s - mean l)^2. With independent queries and keys of unit variance, l = scale q k has
        scale^2 d_k (Vaswani et al. 2017, footnote 4).
    attention_entropy: -sum_s p_s ln p_s / ln n, the fraction of the maximum: 1 is uniform, 0 is all weight on one key.
    jacobian_norm: ||diag(p) - p p^T||_F, of the softmax's Jacobian dp / dl: sqrt(n - 1) / n if p is uniform, at most 1/2,
        0 if all weight is on one key.

    Queries that see fewer than two keys are ignored.
    """
    count_BxHxT = jnp.sum(seen_BxHxTxS, axis=-1)
    n_BxHxT = jnp.maximum(count_BxHxT, 2).astype(jnp.float32)
    mean = jnp.sum(logits_BxHxTxS, axis=-1, keepdims=True, where=seen_BxHxTxS) / n_BxHxT[..., None]
    variance = jnp.sum(jnp.square(logits_BxHxTxS - mean), axis=-1, where=seen_BxHxTxS) / n_BxHxT
    entropy = -jnp.sum(jax.scipy.special.xlogy(weights_BxHxTxS, weights_BxHxTxS), axis=-1) / jnp.log(n_BxHxT)
    counted = count_BxHxT > 1
    measured = {"logit_variance": variance, "attention_entropy": entropy, "jacobian_norm": _jacobian_norm(weights_BxHxTxS)}
    sums = {name: jnp.sum(values, where=counted) for name, values in measured.items()}
    return sums | {"queries": jnp.sum(counted, dtype=jnp.float32)}


def _jacobian_norm(weights: Array) -> Array:
    """The norm over the last axis. Its square is sum_i p_i^2 ((1 - p_i)^2 + sum_(j != i) p_j^2). For the largest weight, which
    may be close to 1, both terms are computed from the other weights, so that a small norm is not lost in rounding."""
    greatest = jax.nn.one_hot(jnp.argmax(weights, axis=-1), weights.shape[-1], dtype=bool)
    others = jnp.where(greatest, 0.0, weights)
    squares = jnp.sum(jnp.square(weights), axis=-1, keepdims=True) - jnp.square(weights)
    of_greatest = jnp.square(jnp.sum(others, axis=-1)) + jnp.sum(jnp.square(others), axis=-1)
    of_others = jnp.sum(jnp.square(others) * (jnp.square(1 - others) + squares), axis=-1)
    return jnp.sqrt(jnp.square(jnp.max(weights, axis=-1)) * of_greatest + of_others)
