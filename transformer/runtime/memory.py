"""Configures how this process gets memory from the system."""

import ctypes
import os
import sys

KEEPING = {  # name in the environment: (mallopt's number, value)
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_ARENA_MAX": (-8, 1),  # no effect once a second thread has asked for memory
}


def keep_freed_memory() -> None:
    """Lets this process, and those that it starts, keep large buffers that they free for the next step.

    By default glibc returns each to the system, which then clears every page again: a third of a step's time on a CPU. Call it
    before anything starts a thread, as the import of NumPy does; afterwards some threads would still return theirs. Settings in
    the user's environment take precedence. Without glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return
    for name, (number, value) in KEEPING.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            mallopt(number, value)
