"""Devices: only this file uses pmap and replicas. Several processes: hosts.py; several runs at once: vmap_seeds.py.

A `Runtime` compiles the pure steps for the devices at hand and moves state and batches to them and back. Above it, a state is
one tree and a batch has one leading row axis, whatever the devices. With several processes, each has the rows of its own
devices, which are its `share` of a batch.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from transformer import sharding
from transformer.config import Parallel
from transformer.runtime import hosts, layout
from transformer.runtime.checkpoints import on_host
from transformer.runtime.memory import keep_freed_memory

Batch = Mapping[str, np.ndarray]
AXIS = "devices"


# Published dense bf16 FLOP/s of a device, by JAX's names for its kind (for TPUs those of jax/_src/pallas/mosaic/tpu_info.py).
PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def processors() -> int:
    """The number of processors that XLA uses on a CPU: NPROC if it is set, else those that this process may use."""
    if (given := os.environ.get("NPROC", "")).isdigit():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_flops(devices: Sequence[Any]) -> float | None:
    """Peak FLOP/s: published, or for a CPU measured as the best of a few fp32 products; None if unknown.

    Several devices of a CPU are simulated and share it; every process is assumed to have a CPU like this one.
    """
    device = devices[0]
    if device.platform != "cpu":
        each = PEAKS.get(device.device_kind)
        return each and each * len(devices)
    device = next(each for each in devices if each.process_index == jax.process_index())
    size = 1024
    x = jax.device_put(np.ones((size, size), np.float32), device)
    product = jax.jit(lambda x: x @ x)
    times = []
    for _ in range(6):  # the first call compiles
        begin = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times) * len({each.process_index for each in devices})


_any = jax.jit(jax.numpy.any)


@lru_cache(maxsize=64)
def _compiled(function: Callable[..., Any], donated: int | None = None) -> Callable[..., Any]:
    """`function` under jit, once for each function, so that its programs are reused by later runs of a process."""
    return jax.jit(function, donate_argnums=donated)


def simulate(count: int) -> None:
    """Gives this process `count` simulated CPU devices to compile for. Call it before anything uses JAX's devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


class Runtime:
    """Compiles steps and places arrays for the layout of `config.parallel` (layout.py).

    `devices`: by default all. `count`: number of devices (on a mesh: groups of devices) that share a batch's rows. `share`:
    which of the equal parts of a batch this process has, and how many parts there are. UserError: the layout does not fit the
    devices or the processes.
    """

    def __init__(self, parallel: Parallel, devices: Sequence[Any] | None = None, axes: sharding.Axes = ()):
        keep_freed_memory()
        self.axes = axes
        devices = devices or jax.devices()
        self.layout = layout.choose(parallel, len(devices), jax.process_count())
        self.mode, self.count, self.mesh = self.layout.mode, self.layout.row_parts, None
        self.devices = devices[: self.layout.used]
        self.share = tuple(range(self.count)), self.count
        self._asked: Any = None
        if self.mode == "mesh":
            shape, kinds = tuple(self.layout.sizes.values()), (AxisType.Auto,) * len(sharding.MESH)
            self.mesh = jax.make_mesh(shape, sharding.MESH, kinds, devices=self.devices)
            parts = NamedSharding(self.mesh, PartitionSpec(sharding.ROWS)).addressable_devices_indices_map((self.count,))
            self.share = tuple(sorted({part[0].indices(self.count)[0] for part in parts.values() if part})), self.count

    def __str__(self) -> str:
        processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return self.layout.describe(self.devices[0].platform) + processes

    def create(self, init: Callable[[], Any]) -> Any:
        """The result of `init`, placed where the steps need it; on a mesh no device ever holds all of it."""
        if self.mesh is None:
            return self.place_state(init())
        return jax.jit(init, out_shardings=self.shardings(jax.eval_shape(init)))()

    def like(self, shapes: Any) -> Any:
        """The `like` for restoring a state of these shapes: on a mesh, each device's parts."""
        if self.mesh is None:
            return jax.tree.map(on_host, shapes)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings(shapes))

    def place_state(self, state: Any) -> Any:
        """Moves a state from the host or one device to the devices of the steps."""
        if self.mesh is not None:
            return jax.tree.map(self._cut, state, self.shardings(state))
        if self.mode == "jit":
            return jax.device_put(state, self.devices[0])
        each = NamedSharding(jax.sharding.Mesh(np.asarray(self.devices), (AXIS,)), PartitionSpec(AXIS))
        return jax.tree.map(lambda x: jax.device_put(np.broadcast_to(np.asarray(x), (self.count, *np.shape(x))), each), state)

    def single(self, placed: Any) -> Any:
        """The inverse of `place_state`: one copy of the state, on one device or sharded over several."""
        return jax.tree.map(lambda x: x.addressable_data(0)[0], placed) if self.mode == "pmap" else placed

    def place_batch(self, batch: Batch) -> Any:
        """Divides the rows of this process's `share` over its devices. The number of all rows must be a multiple of `count`."""
        if self.mode == "pmap":
            return {name: rows.reshape(self.count, -1, *rows.shape[1:]) for name, rows in batch.items()}
        if self.mesh is None:
            return {name: jax.device_put(rows, self.devices[0]) for name, rows in batch.items()}
        where, each = (
            NamedSharding(self.mesh, PartitionSpec(sharding.ROWS)),
            len(next(iter(batch.values()))) // len(self.share[0]),
        )

        def placed(rows: np.ndarray) -> Any:
            def part(index: Any) -> np.ndarray:
                begin = self.share[0].index((index[0].start or 0) // each) * each
                return rows[begin : begin + each]

            return jax.make_array_from_callback((each * self.count, *rows.shape[1:]), where, part)

        return {name: placed(rows) for name, rows in batch.items()}

    def compile_train(self, train_step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """`step(placed state, placed batch) -> placed state, metrics`; the old state's buffers are reused.

        On one device the keywords of a partial are arguments of the program, so that steps which differ only in them share
        it; in other layouts they are constants.
        """
        if self.mode == "pmap":
            return jax.pmap(partial(train_step, axis_name=AXIS), axis_name=AXIS, donate_argnums=0, devices=self.devices)
        if self.mesh is None:
            if not isinstance(train_step, partial):
                return _compiled(train_step, 0)
            program, placed = _compiled(train_step.func, 0), jax.device_put(train_step.keywords, self.devices[0])
            return lambda state, batch: program(state, batch, **placed)
        return self._on_mesh(self._mesh_train(train_step))

    def train_memory(self, train_step: Callable[..., tuple[Any, Any]], state: Any, batch: Batch) -> Any:
        """XLA's count of the bytes of the compiled step on one device. `state` and `batch` may be shapes."""
        if self.mesh is None:
            if self.mode == "pmap":
                state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.count, *x.shape), x.dtype), state)
                batch = jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct((self.count, x.shape[0] // self.count, *x.shape[1:]), x.dtype), dict(batch)
                )
            compiled: Any = self.compile_train(train_step) if self.mode == "pmap" else jax.jit(train_step, donate_argnums=0)
            return compiled.lower(state, batch).compile().memory_analysis()
        rows = NamedSharding(self.mesh, PartitionSpec(sharding.ROWS))
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, self.shardings(state))
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in batch.items()}
        with jax.set_mesh(self.mesh):
            return self._mesh_train(train_step).lower(state, shapes).compile().memory_analysis()

    def _mesh_train(self, train_step: Callable[..., tuple[Any, Any]]) -> Any:
        assert self.mesh is not None
        whole = NamedSharding(self.mesh, PartitionSpec())

        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            state, metrics = train_step(state, batch)
            return jax.lax.with_sharding_constraint(
                (state, metrics), (self.shardings(state), jax.tree.map(lambda _: whole, metrics))
            )

        return jax.jit(step, donate_argnums=0)

    def compile_eval(self, eval_step: Callable[..., Any]) -> Callable[..., Any]:
        """`step(placed params, placed batch) -> sums`."""
        if self.mode == "pmap":
            return jax.pmap(partial(eval_step, axis_name=AXIS), axis_name=AXIS, devices=self.devices)
        return self._on_mesh(_compiled(eval_step) if self.mesh is None else jax.jit(eval_step))

    def fetch(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Moves metrics to the host; waits for them."""
        with hosts.exchange():
            values = jax.device_get(metrics)
        return {name: float(np.ravel(value)[0]) for name, value in values.items()}

    def asked(self, here: bool) -> bool:
        """Whether any process was asked to stop. The result is the same in all processes; with several it comes one call late,
        so that no device waits. All processes call it once for each update.
        """
        if jax.process_count() == 1:
            return here
        before, self._asked = self._asked, self._any(here)
        return before is not None and bool(self.fetch({"asked": before})["asked"])

    def _any(self, here: bool) -> Any:
        assert self.mesh is not None
        every = NamedSharding(self.mesh, PartitionSpec(sharding.MESH))
        flags = jax.make_array_from_callback((self.mesh.size,), every, lambda index: np.full(1, here))
        return _any(flags)

    def _cut(self, x: Any, where: NamedSharding) -> Any:
        if isinstance(x, jax.Array) and x.sharding == where:
            return x
        if where.is_fully_addressable:
            return jax.device_put(x, where)
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    def _on_mesh(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with the mesh in its context (`sharding.by_rows`)."""
        if self.mesh is None:
            return function
        mesh = self.mesh

        def call(*arguments: Any) -> Any:
            with jax.set_mesh(mesh), hosts.exchange():
                return function(*arguments)

        return call

    def shardings(self, state: Any) -> Any:
        """On a mesh: the sharding of each leaf of a tree of arrays or shapes."""
        assert self.mesh is not None
        specs = sharding.specs(state, self.layout.sizes, self.axes)
        return jax.tree.map(partial(NamedSharding, self.mesh), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
