"""Lets a process end with the one that started it, also if that is killed."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """Call it in a process of `multiprocessing`."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
