"""Losses as sums and weights, never means: whoever adds up devices and micro-batches divides once.

Letters: B rows, T tokens, N vocabulary entries.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from transformer.sharding import by_rows, row_parts

Array = jax.Array
Batch = Mapping[str, Array]
Params = Any
Sums = dict[str, Array]
# (params, batch, dropout key or None when deterministic) -> sums: `loss_sum`, `weight_sum`, and others to report.
Loss = Callable[[Params, Batch, Array | None], Sums]


def cross_entropy(
    logits_BxTxN: Array,
    targets_BxT: Array,
    weights_BxT: Array,
    label_smoothing: float,
    size: int,
    z_loss: float = 0.0,
) -> dict[str, Array]:
    """Weighted sums over tokens: `loss_sum` (smoothed), `nll_sum`, `correct_sum`, `weight_sum`; all fp32 scalars.

    Label smoothing spreads `label_smoothing` evenly over the `size` entries of the vocabulary, the right one included
    (Szegedy et al. 2016, section 7). -sum_k q_k log p_k = log Z - (1 - e) z_y - (e / size) sum_k z_k: no dense target.
    `z_loss` times (log Z)^2 is added to the loss, so that Z stays near 1 (Chowdhery et al. 2022, section 5).
    """
    logits = logits_BxTxN.astype(jnp.float32)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    right = jnp.take_along_axis(logits, targets_BxT[..., None], axis=-1)[..., 0]
    nll = log_normalizer - right
    loss = nll
    if label_smoothing > 0:
        mean = jnp.mean(logits[..., :size], axis=-1)
        loss = (1 - label_smoothing) * nll + label_smoothing * (log_normalizer - mean)
    if z_loss > 0:
        loss = loss + z_loss * jnp.square(log_normalizer)
    correct = (jax.lax.stop_gradient(right) >= jax.lax.stop_gradient(jnp.max(logits, axis=-1))).astype(jnp.float32)
    weights = weights_BxT.astype(jnp.float32)
    return {
        "loss_sum": jnp.sum(loss * weights),
        "nll_sum": jnp.sum(nll * weights),
        "correct_sum": jnp.sum(correct * weights),
        "weight_sum": jnp.sum(weights),
    }


def in_chunks(
    function: Callable[[Params, Array, Any], dict[str, Array]], params: Params, states_BxTxD: Array, labels: Any, slots: int
) -> dict[str, Array]:
    """`function(params, states_BxTxD, labels)`, a dict of sums, over slices of T of about `slots` tokens a device, summed.

    Logits exist for one slice at a time, in the forward and the backward pass: the gradient of "loss_sum" is taken along
    with the slice's sums, while its logits are there, so nothing is stored or computed twice. Other sums have no gradient.
    `labels` is a tree of BxT arrays. The last slice is filled with zeros, so tokens with a weight of 0 must not count.
    """
    batch, length = states_BxTxD.shape[:2]
    most = max(1, min(length, slots * row_parts() // batch))
    if most == length:
        return function(params, states_BxTxD, labels)
    width = -(-length // -(-length // most))  # as many slices as `most` needs, of equal widths: little is added to the last

    def cut(x: Array) -> Array:  # BxTx.. -> number of slices x B x width x ..
        x = jnp.pad(x, [(0, 0), (0, -length % width)] + [(0, 0)] * (x.ndim - 2))
        return by_rows(jnp.moveaxis(x.reshape(batch, -1, width, *x.shape[2:]), 1, 0), axis=1)

    def add(total: Any, part: Any) -> Any:
        return jax.tree.map(jnp.add, total, part)

    def zeros(shapes: Any) -> Any:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    @jax.custom_vjp
    def total(params: Params, states: Array) -> dict[str, Array]:
        parts = cut(states), jax.tree.map(cut, labels)
        shapes = jax.eval_shape(function, params, *jax.tree.map(lambda x: x[0], parts))
        return jax.lax.scan(lambda sums, part: (add(sums, function(params, *part)), None), zeros(shapes), parts)[0]

    def forward(params: Params, states: Array) -> tuple[dict[str, Array], Any]:
        parts = cut(states), jax.tree.map(cut, labels)

        def loss(params: Params, states: Array, labels: Any) -> tuple[Array, dict[str, Array]]:
            sums = function(params, states, labels)
            return sums["loss_sum"], sums

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)

        def one(carry: Any, part: Any) -> tuple[Any, Array]:
            (params_gradient, states_gradient), sums = gradient(params, *part)
            return add(carry, (params_gradient, sums)), by_rows(states_gradient)

        (shapes, _), sums_shapes = jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], parts))
        (params_gradient, sums), slices = jax.lax.scan(one, zeros((shapes, sums_shapes)), parts)
        states_gradient = jnp.moveaxis(slices, 0, 1).reshape(batch, -1, *slices.shape[3:])[:, :length]
        return sums, (params_gradient, states_gradient)

    def backward(gradients: Any, cotangents: dict[str, Array]) -> Any:
        return jax.tree.map(lambda g: (g * cotangents["loss_sum"]).astype(g.dtype), gradients)

    total.defvjp(forward, backward)
    return total(params, states_BxTxD)


def over_parts(function: Callable[[Mapping[str, Array], Array], Any], batch: Mapping[str, Array], count: int) -> Any:
    """The sum of a function's trees over `count` equal parts of a batch's rows, which are in memory one after the other.

    `function(part, number)`: of the rows and the number of a part, from 0 on.
    """
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), dict(batch))
    numbers = jnp.arange(count)

    def add(total: Any, numbered: tuple[Array, Mapping[str, Array]]) -> tuple[Any, None]:
        number, part = numbered
        return jax.tree.map(jnp.add, total, function(part, number)), None

    shapes = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], (parts, numbers)))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (numbers, parts))[0]
