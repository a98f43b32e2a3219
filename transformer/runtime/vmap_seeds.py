"""Several seeds of one program at once: their states are stacked, updated by `vmap`, and divided evenly over the devices.

A run sees its own state and metrics, which are sliced out of the stack only if they are read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer.errors import UserError
from transformer.runtime.memory import keep_freed_memory

AXIS = "runs"
Step = Callable[..., tuple[Any, Mapping[str, Any]]]


class Slice:
    """The state of one run: each field (`params`, ...) is sliced out of the stacked state, onto one device."""

    def __init__(self, stacked: Any, row: int, device: Any):
        self._stacked, self._row, self._device = stacked, row, device

    def __getattr__(self, name: str) -> Any:
        return self._cut(getattr(self._stacked, name))

    def whole(self) -> Any:
        """The whole state of the run."""
        return self._cut(self._stacked)

    def _cut(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.device_put(x[self._row], self._device), tree)


class Cell:
    """The value of a metric of one run; converting it to an array waits for the update."""

    def __init__(self, stacked: jax.Array, row: int):
        self._stacked, self._row = stacked, row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(np.asarray(self._stacked)[self._row], dtype)


class VmapSeeds:
    """`step(state, batch, seed=seed) -> state, metrics` of several runs at once."""

    def __init__(self, step: Step, devices: Sequence[Any] | None = None):
        keep_freed_memory()
        self._devices = devices or jax.devices()
        self._step = jax.vmap(lambda state, batch, seed: step(state, batch, seed=seed))
        self._programs: dict[Mesh, Any] = {}
        self._seeds: tuple[int, ...] = ()
        self._state: Any = None
        self._placed_seeds: Any = None

    def update(self, asked: Mapping[int, tuple[Any, Mapping[str, np.ndarray]]]) -> dict[int, tuple[Slice, dict[str, Cell]]]:
        """Updates each run, given by its seed with its state and batch, which have the same shapes in all runs. States are
        valid until the next update. The set of runs may change, because a run may have ended. UserError: batches of different
        shapes."""
        seeds = tuple(asked)
        if seeds != self._seeds:
            states = [state.whole() if isinstance(state, Slice) else state for state, _ in asked.values()]
            self._state = self._place(jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states))
            self._seeds, self._placed_seeds = seeds, self._place(np.asarray(seeds, np.uint32))
        batches = [batch for _, batch in asked.values()]
        shapes = [{name: rows.shape for name, rows in batch.items()} for batch in batches]
        if any(shape != shapes[0] for shape in shapes):
            raise UserError("batches of seeds that are trained together have different shapes; leave --vmap_seeds out")
        batch = self._place({name: np.stack([batch[name] for batch in batches]) for name in shapes[0]})
        self._state, metrics = self._program(len(seeds))(self._state, batch, self._placed_seeds)
        return {
            seed: (Slice(self._state, row, self._devices[0]), {name: Cell(value, row) for name, value in metrics.items()})
            for row, seed in enumerate(seeds)
        }

    def _program(self, runs: int) -> Any:
        """The compiled step of so many runs; each device updates its own, as the compiler cannot partition fused kernels."""
        mesh = self._mesh(runs)
        if mesh not in self._programs:
            step = self._step
            if mesh.size > 1:
                each = PartitionSpec(AXIS)
                step = jax.shard_map(step, mesh=mesh, in_specs=each, out_specs=each, check_vma=False)
            self._programs[mesh] = jax.jit(step, donate_argnums=0)
        return self._programs[mesh]

    def _mesh(self, runs: int) -> Mesh:
        return Mesh(np.asarray(self._devices[: math.gcd(runs, len(self._devices))]), (AXIS,))

    def _place(self, stacked: Any) -> Any:
        return jax.device_put(stacked, NamedSharding(self._mesh(len(jax.tree.leaves(stacked)[0])), PartitionSpec(AXIS)))
