"""A training state in checkpoints: parameters, optimizer state and average are separate items of one checkpoint."""

from collections.abc import Mapping

import jax.numpy as jnp

from transformer.runtime.checkpoints import Checkpoints
from transformer.training.step import State


def save(checkpoints: Checkpoints, step: int, state: State, metrics: Mapping[str, float], periodic: bool = True) -> None:
    """Starts to save the state after `step` updates. Prediction reads the parameters or the average, not the rest."""
    items = {"params": state.params, "optimizer": state.optimizer_state, "average": state.average}
    checkpoints.save(step, {name: item for name, item in items.items() if item is not None}, metrics, periodic)


def restore(checkpoints: Checkpoints, step: int, like: State) -> State:
    """The state that was saved after `step` updates. `like`: its shapes."""
    average = like.average if like.average is None else checkpoints.restore(step, "average", like.average)
    params = checkpoints.restore(step, "params", like.params)
    optimizer_state = checkpoints.restore(step, "optimizer", like.optimizer_state)
    return State(jnp.asarray(step, jnp.int32), params, optimizer_state, average)
