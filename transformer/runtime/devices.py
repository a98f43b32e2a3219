"""The only file that knows pmap, meshes, hosts and replicas.

A `Runtime` compiles the pure steps for the devices at hand and moves state and batches to them and back. Above it, a
state is one tree and a batch has one leading row axis, whatever the devices.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from transformer import sharding
from transformer.config import Parallel
from transformer.errors import UserError

Batch = Mapping[str, np.ndarray]
AXIS = "devices"


def keep_freed_memory() -> None:
    """Lets this process keep large buffers that it frees, for the next step. To be called before JAX starts its threads.

    By default glibc gives each back to the system, which then clears every page again: a third of a step's time on a CPU.
    Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX
            mallopt(option, value)


# Published dense bf16 FLOP/s of a device, by what JAX calls its kind.
PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops(devices: Sequence[Any]) -> float | None:
    """FLOP/s that they could do: published, or of a CPU measured, the best of a few fp32 products; None: not known.

    Several devices of a CPU are simulated: they share it.
    """
    device = devices[0]
    if device.platform != "cpu":
        each = PEAKS.get(device.device_kind)
        return each and each * len(devices)
    size = 1024
    x = jax.device_put(np.ones((size, size), np.float32), device)
    product = jax.jit(lambda x: x @ x)
    times = []
    for _ in range(6):  # the first compiles
        begin = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times)


class Runtime:
    """How steps run: "jit" on the first device, "pmap" over all local ones, or jit over a "mesh" of them.

    `count`: devices (of a mesh: groups of them) that share a batch's rows. UserError: the mesh does not fit the devices.
    """

    def __init__(self, parallel: Parallel):
        keep_freed_memory()
        several = jax.local_device_count() > 1
        self.mode = ("pmap" if several else "jit") if parallel.mode == "auto" else parallel.mode
        self.devices = jax.local_devices()[:1] if self.mode == "jit" else jax.local_devices()
        self.count, self.mesh = len(self.devices), None
        if self.mode == "mesh":
            data, left = divmod(len(self.devices), parallel.fsdp * parallel.tensor)
            if left or not data:
                raise UserError(
                    f"config.parallel.fsdp {parallel.fsdp} x tensor {parallel.tensor}: there are {len(self.devices)} devices, "
                    "which must be a multiple of it"
                )
            shape, kinds = (data, parallel.fsdp, parallel.tensor), (AxisType.Auto,) * len(sharding.MESH)
            self.mesh = jax.make_mesh(shape, sharding.MESH, kinds, devices=self.devices)
            self.count = data * parallel.fsdp

    def create(self, init: Callable[[], Any]) -> Any:
        """What `init` makes, where steps want it; on a mesh no device ever holds it whole."""
        if self.mesh is None:
            return self.place_state(init())
        return jax.jit(init, out_shardings=self._shardings(jax.eval_shape(init)))()

    def place_state(self, state: Any) -> Any:
        """A state on the host or one device -> where steps want it."""
        if self.mesh is not None:
            return jax.tree.map(jax.device_put, state, self._shardings(state))
        if self.mode == "jit":
            return jax.device_put(state, self.devices[0])
        each = NamedSharding(jax.sharding.Mesh(np.asarray(self.devices), (AXIS,)), PartitionSpec(AXIS))
        return jax.tree.map(lambda x: jax.device_put(np.broadcast_to(np.asarray(x), (self.count, *np.shape(x))), each), state)

    def single(self, placed: Any) -> Any:
        """The inverse of `place_state`: one copy, still on a device, or on those that share it."""
        return jax.tree.map(lambda x: x.addressable_data(0)[0], placed) if self.mode == "pmap" else placed

    def place_batch(self, batch: Batch) -> Any:
        """Rows cut over the devices; their number must be a multiple of `count`."""
        if self.mode == "pmap":
            return {name: rows.reshape(self.count, -1, *rows.shape[1:]) for name, rows in batch.items()}
        where = self.devices[0] if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(sharding.ROWS))
        return {name: jax.device_put(rows, where) for name, rows in batch.items()}

    def compile_train(self, train_step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """`step(placed state, placed batch) -> placed state, metrics`; the old state's buffers are used again."""
        if self.mode == "pmap":
            return jax.pmap(partial(train_step, axis_name=AXIS), axis_name=AXIS, donate_argnums=0, devices=self.devices)
        if self.mesh is None:
            return jax.jit(train_step, donate_argnums=0)
        whole = NamedSharding(self.mesh, PartitionSpec())

        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            state, metrics = train_step(state, batch)
            return jax.lax.with_sharding_constraint(
                (state, metrics), (self._shardings(state), jax.tree.map(lambda _: whole, metrics))
            )

        return self._on_mesh(jax.jit(step, donate_argnums=0))

    def compile_eval(self, eval_step: Callable[..., Any]) -> Callable[..., Any]:
        """`step(placed params, placed batch) -> sums`."""
        if self.mode == "pmap":
            return jax.pmap(partial(eval_step, axis_name=AXIS), axis_name=AXIS, devices=self.devices)
        return self._on_mesh(jax.jit(eval_step))

    def fetch(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Metrics to the host; waits for them."""
        values = jax.device_get(metrics)
        return {name: float(np.ravel(value)[0]) for name, value in values.items()}

    def _on_mesh(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which then knows of the mesh (`sharding.by_rows`)."""
        if self.mesh is None:
            return function
        mesh = self.mesh

        def call(*arguments: Any) -> Any:
            with jax.set_mesh(mesh):
                return function(*arguments)

        return call

    def _shardings(self, state: Any) -> Any:
        assert self.mesh is not None
        specs = sharding.specs(state, dict(self.mesh.shape))
        return jax.tree.map(partial(NamedSharding, self.mesh), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
