"""Losses as sums and weights, never means: whoever adds up devices and micro-batches divides once.

Letters: B rows, T tokens, N vocabulary entries.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(
    logits_BxTxN: Array, targets_BxT: Array, weights_BxT: Array, label_smoothing: float, size: int
) -> dict[str, Array]:
    """Weighted sums over tokens: `loss_sum` (smoothed), `nll_sum`, `correct_sum`, `weight_sum`; all fp32 scalars.

    Label smoothing spreads `label_smoothing` evenly over the `size` entries of the vocabulary, the right one included
    (Szegedy et al. 2016, section 7). -sum_k q_k log p_k = log Z - (1 - e) z_y - (e / size) sum_k z_k: no dense target.
    """
    logits = logits_BxTxN.astype(jnp.float32)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    right = jnp.take_along_axis(logits, targets_BxT[..., None], axis=-1)[..., 0]
    nll = log_normalizer - right
    loss = nll
    if label_smoothing > 0:
        mean = jnp.mean(logits[..., :size], axis=-1)
        loss = (1 - label_smoothing) * nll + label_smoothing * (log_normalizer - mean)
    correct = (jax.lax.stop_gradient(right) >= jax.lax.stop_gradient(jnp.max(logits, axis=-1))).astype(jnp.float32)
    weights = weights_BxT.astype(jnp.float32)
    return {
        "loss_sum": jnp.sum(loss * weights),
        "nll_sum": jnp.sum(nll * weights),
        "correct_sum": jnp.sum(correct * weights),
        "weight_sum": jnp.sum(weights),
    }
