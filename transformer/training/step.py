"""The pure train_step and eval_step: state and batch in, state and metrics out. They know no device, file or clock.

The same `train_step` is jitted on one device, pmapped (with `axis_name`), or jitted over a mesh. Losses are sums with
weights; gradients are divided once, by the global weight, so 1 and N devices agree up to rounding.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from transformer.components import products
from transformer.config import Train
from transformer.models.losses import Batch, Loss, Params, over_parts
from transformer.training.optimizer import apply_updates, still

Array = jax.Array

DROPOUT = 1  # streams of randomness: keys are fold_in(fold_in(seed, stream), step); initialisation is stream 0


@struct.dataclass
class State:
    """Everything that training changes. `step` is the number of updates done, and so the data position."""

    step: Array
    params: Params
    optimizer_state: optax.OptState
    average: Params | None  # average of the parameters, if one is kept: exponential, or schedule-free training's x


def init_state(params: Params, optimizer: optax.GradientTransformation, train: Train) -> State:
    """The state before the first update."""
    average = jax.tree.map(jnp.copy, params) if train.keeps_average else None
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def total_weights(batch: Batch, axis_name: str | None) -> Batch:
    """The sum of each of a batch's weights over all rows and devices, as "total_weights" and so on, for losses that add means.

    A part of the batch, on a device or a micro-batch, has other sums. With only one kind of weights, nothing is needed.
    """
    names = [name for name in batch if name.endswith("weights")]
    sums = {f"total_{name}": batch[name].sum() for name in names} if len(names) > 1 else {}
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    schedule: Callable[..., Any],
    train: Train,
    frozen: Callable[[Params], Any] | None = None,
) -> Callable[..., tuple[State, dict[str, Array]]]:
    """`train_step(state, batch, axis_name=None, seed=None, **numbers) -> state, metrics`.

    `seed`: overrides `train.seed`. `numbers`: the arguments of `schedule` besides the update. `frozen`: a mask of parameters
    that are not trained.

    The batch's rows are divided into `accumulate` micro-batches, which are processed one after the other. `optimizer` gives
    updates that `apply_updates` takes with the learning rate `schedule(state.step, **numbers)`. Metrics are the loss's sums
    over the whole batch, `gradient_norm` (before clipping), `learning_rate`, and `skipped`: 1 if the loss or the norm is not
    finite; then only the step changes.
    """

    def train_step(
        state: State, batch: Batch, axis_name: str | None = None, seed: Any = None, **numbers: Any
    ) -> tuple[State, dict[str, Array]]:
        whole = jax.random.key(train.seed if seed is None else seed, impl="threefry2x32")
        key = jax.random.fold_in(jax.random.fold_in(whole, DROPOUT), state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        totals = total_weights(batch, axis_name)

        def objective(params: Params, part: Batch, part_key: Array) -> tuple[Array, dict[str, Array]]:
            with products.reverse_mode():
                sums = loss(still(params, frozen), {**part, **totals}, part_key)
            return sums["loss_sum"], sums

        gradient = jax.grad(objective, has_aux=True)
        if train.accumulate == 1:
            gradients, sums = gradient(state.params, batch, key)
        else:

            def of_part(part: Batch, number: Array) -> Any:
                return gradient(state.params, part, jax.random.fold_in(key, number))

            gradients, sums = over_parts(of_part, batch, train.accumulate)
        if axis_name is not None:
            gradients, sums = jax.lax.psum((gradients, sums), axis_name)

        gradients = jax.tree.map(lambda g: g / jnp.maximum(sums["weight_sum"], 1.0), gradients)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(sums["loss_sum"]) & jnp.isfinite(norm)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        rate = schedule(state.step, **numbers)
        params, optimizer_state, average = apply_updates(train, state.params, updates, optimizer_state, state.average, rate)
        new = State(state.step + 1, params, optimizer_state, average)
        old = State(new.step, state.params, state.optimizer_state, state.average)
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, old)
        metrics = sums | {"gradient_norm": norm, "learning_rate": rate, "skipped": 1.0 - finite}
        return kept, metrics

    return train_step


@functools.lru_cache(maxsize=64)  # one function for each loss, so that its compiled program is reused (devices.py)
def make_eval_step(loss: Loss) -> Callable[..., dict[str, Array]]:
    """`eval_step(params, batch, axis_name=None) -> sums`, deterministic."""

    def eval_step(params: Params, batch: Batch, axis_name: str | None = None) -> dict[str, Array]:
        sums = loss(params, {**batch, **total_weights(batch, axis_name)}, None)
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    return eval_step
