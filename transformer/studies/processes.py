"""Where runs are executed, and a run's process. Here: on this machine; cluster.py: on those of a Ray cluster.

Each run has a process of its own. It costs a second or two to start, compilation is paid by each run anyway, and a crash, or
the system taking its memory back, ends one run alone.
"""

import dataclasses
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from transformer.config import Config
from transformer.errors import UserError
from transformer.studies.results import beside

Train = Callable[[Config, Path], None]  # trains, or goes on, in a workdir, and scores; a function of a module


class Started(Protocol):
    """A run that was started, as `multiprocessing` has it."""

    @property
    def exitcode(self) -> int | None:
        """Of its process, once that is over; negative: the signal that ended it."""
        ...

    def is_alive(self) -> bool: ...

    def terminate(self) -> None:
        """Asks it to save and end."""

    def kill(self) -> None: ...


class Place(Protocol):
    """Where runs are executed."""

    @property
    def most(self) -> float:
        """How many runs may be started and not over."""
        ...

    def start(self, train: Train, config: Config, folder: Path) -> Started: ...

    def wait(self, started: Collection[Any], seconds: float) -> None:
        """Until one of those that were started here may be over; `seconds` at most."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """This machine."""

    most: int

    def start(self, train: Train, config: Config, folder: Path) -> Started:
        return start(train, config, folder)

    def wait(self, started: Collection[BaseProcess], seconds: float) -> None:
        connection.wait([process.sentinel for process in started], seconds)


def start(train: Train, config: Config, folder: Path) -> BaseProcess:
    """The process of a run. It ends with the one that starts it, and saves and ends on SIGTERM."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(train, config, folder))
    process.start()
    return process


def _child(train: Train, config: Config, folder: Path) -> None:
    """A run's process. What it says goes to a file beside its workdir, as do the seconds that it took."""
    os.setpgid(0, 0)  # Ctrl-C is for the study, which asks runs to stop
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    log = beside(folder, ".log").open("a", encoding="utf-8", buffering=1)  # noqa: SIM115  (a traceback comes after us)
    # A study that was killed may have left a process behind, on its way out: this waits for it.
    with beside(folder, ".log").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        sys.stdout = sys.stderr = log
        begun = time.monotonic()
        try:
            train(config, folder)
        except UserError as error:
            print(error)
            sys.exit(2)
        finally:
            with beside(folder, ".seconds").open("a") as times:
                times.write(f"{time.monotonic() - begun:.1f}\n")


def _end_with_the_study() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
