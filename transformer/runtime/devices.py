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

from transformer.config import Parallel

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
    """How steps run: "jit" on the first device, or "pmap" over all local ones. `count`: devices that share a batch."""

    def __init__(self, parallel: Parallel):
        keep_freed_memory()
        several = jax.local_device_count() > 1
        self.mode = ("pmap" if several else "jit") if parallel.mode == "auto" else parallel.mode
        self.devices = jax.local_devices() if self.mode == "pmap" else jax.local_devices()[:1]
        self.count = len(self.devices)

    def place_state(self, state: Any) -> Any:
        """A state on the host or one device -> where steps want it."""
        if self.mode == "jit":
            return jax.device_put(state, self.devices[0])
        mesh = jax.sharding.Mesh(np.asarray(self.devices), (AXIS,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
        return jax.tree.map(
            lambda x: jax.device_put(np.broadcast_to(np.asarray(x), (self.count, *np.shape(x))), sharding), state
        )

    def single(self, placed: Any) -> Any:
        """The inverse of `place_state`: one copy, still on a device."""
        return jax.tree.map(lambda x: x.addressable_data(0)[0], placed) if self.mode == "pmap" else placed

    def place_batch(self, batch: Batch) -> Any:
        """Rows cut over the devices; their number must be a multiple of `count`."""
        if self.mode == "jit":
            return {name: jax.device_put(rows, self.devices[0]) for name, rows in batch.items()}
        return {name: rows.reshape(self.count, -1, *rows.shape[1:]) for name, rows in batch.items()}

    def compile_train(self, train_step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """`step(placed state, placed batch) -> placed state, metrics`; the old state's buffers are used again."""
        if self.mode == "jit":
            return jax.jit(train_step, donate_argnums=0)
        return jax.pmap(partial(train_step, axis_name=AXIS), axis_name=AXIS, donate_argnums=0, devices=self.devices)

    def compile_eval(self, eval_step: Callable[..., Any]) -> Callable[..., Any]:
        """`step(placed params, placed batch) -> sums`."""
        if self.mode == "jit":
            return jax.jit(eval_step)
        return jax.pmap(partial(eval_step, axis_name=AXIS), axis_name=AXIS, devices=self.devices)

    def fetch(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Metrics to the host; waits for them."""
        values = jax.device_get(metrics)
        return {name: float(np.ravel(value)[0]) for name, value in values.items()}
