"""The number of programs that JAX has compiled. Repeated compilation makes a step slow without a visible reason."""

import threading

import jax

EVENT = "/jax/core/compile/backend_compile_duration"

_of_thread = threading.local()  # compilations in other threads do not belong to a step


def count() -> int:
    """The number of programs that this thread has compiled, or found compiled on disk, since this file was imported."""
    return getattr(_of_thread, "count", 0)


def _add(event: str, duration_secs: float, **more: str | int) -> None:
    if event == EVENT:
        _of_thread.count = count() + 1


jax.monitoring.register_event_duration_secs_listener(_add)
