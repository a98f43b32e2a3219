"""Stacked states on one device and on several: each row is the same as alone.

Eight devices are simulated in a separate process, whose program is this file."""

import json

import jax
import numpy as np
import pytest
import simulated

from transformer.errors import UserError
from transformer.runtime.vmap_seeds import AXIS, VmapSeeds


def step(state, batch, seed):
    total = batch["x"].sum()
    return {"w": state["w"] * 2 + total + seed}, {"seen": total}


def updated(stack, states, seeds=(5, 0, 3, 2)):
    """After an update of these runs, whose batches contain their seeds: each metric, each state as a number, and the states."""
    made = stack.update({seed: (states[seed], {"x": np.full((2, 3), seed, np.float32)}) for seed in seeds})
    metrics = [float(np.ravel(jax.device_get(row["seen"]))[0]) for _, row in made.values()]
    return metrics, [float(state.whole()["w"]) for state, _ in made.values()], {s: state for s, (state, _) in made.items()}


def run(count):
    """Four runs, then three of them; the results, and the number of devices that held them."""
    stack = VmapSeeds(step, jax.devices()[:count])
    metrics, values, states = updated(stack, {seed: {"w": np.float32(seed)} for seed in (5, 0, 3, 2)})
    held = [len(states[0]._stacked["w"].sharding.device_set)]
    *fewer, states = updated(stack, states, (5, 3, 2))
    held.append(len(states[5]._stacked["w"].sharding.device_set))
    return [metrics, values, *fewer, held]


# Doubled, and six times the seed and the seed itself added; then once more, without the second run.
BY_HAND = [[30, 0, 18, 12], [45, 0, 27, 18], [30, 18, 12], [125, 75, 50]]


def test_one_device():
    assert run(1) == [*BY_HAND, [1, 1]]


@pytest.fixture(scope="module")
def on_eight():
    return simulated.eight(__file__)


@pytest.mark.parametrize(("count", "held"), [(2, [2, 1]), (3, [1, 3]), (8, [4, 1])])
def test_devices_that_runs_fill_evenly(on_eight, count, held):
    assert on_eight[str(count)] == [*BY_HAND, held]


def test_each_device_updates_its_own_runs(on_eight):
    """With shard_map over four devices: nothing is gathered for a kernel, which the compiler cannot partition."""
    assert on_eight["devices"] == 4


def test_fields_are_cut_out_when_they_are_read():
    class Named(dict):
        w = property(lambda self: self["w"])

    jax.tree_util.register_pytree_node(Named, lambda x: ((x["w"],), None), lambda _, leaves: Named(w=leaves[0]))
    stack = VmapSeeds(lambda state, batch, seed: (Named(w=state.w + seed), {"x": seed}), jax.devices()[:1])
    made = stack.update({n: (Named(w=np.zeros(2, np.float32)), {"x": np.ones(1)}) for n in (1, 4)})
    np.testing.assert_array_equal(made[4][0].w, [4.0, 4.0])
    with pytest.raises(AttributeError):
        _ = made[4][0].b


def test_batches_of_other_shapes():
    batches = {n: (np.float32(0), {"x": np.ones((2, n), np.float32)}) for n in (2, 3)}
    with pytest.raises(UserError, match="different shapes"):
        VmapSeeds(step, jax.devices()[:1]).update(batches)


def devices() -> int:
    """The number of devices that shard_map divides the program of four runs over."""
    seen = []

    def noted(state, batch, seed):
        seen.append(jax.lax.axis_size(AXIS))
        return step(state, batch, seed)

    stack = VmapSeeds(noted, jax.devices())
    updated(stack, {seed: {"w": np.float32(seed)} for seed in (5, 0, 3, 2)})
    return seen[0]


if __name__ == "__main__":
    print(json.dumps({count: run(count) for count in (2, 3, 8)} | {"devices": devices()}))
