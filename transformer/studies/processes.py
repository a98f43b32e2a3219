"""Where runs are executed, and a run's process. Here: on this machine; cluster.py: on those of a Ray cluster.

Each run has a process of its own, unless seeds of an arm are trained together. It costs a second or two to start, compilation
is paid by each run anyway, and a crash, or the system taking its memory back, ends one run alone.
"""

import contextlib
import dataclasses
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TextIO

from transformer.config import Config
from transformer.errors import UserError
from transformer.studies.results import beside

Train = Callable[[Config, Path], None]  # trains, or goes on, in a workdir, and scores; a function of a module
# The same of runs that differ in their seeds alone, what each says going to a file; whether all went well.
Together = Callable[[Mapping[Path, Config], Mapping[Path, TextIO]], bool]


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
        """How many may be started and not over."""
        ...

    @property
    def seeds(self) -> int:
        """How many seeds of an arm are started as one."""
        ...

    def start(self, train: Train, runs: Mapping[Path, Config]) -> Started:
        """Of runs that differ in their seeds alone, by their workdirs; `seeds` at most."""
        ...

    def wait(self, started: Collection[Any], seconds: float) -> None:
        """Until one of those that were started here may be over; `seconds` at most."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """This machine. With `together` it trains several `seeds` of an arm in one process."""

    most: int
    seeds: int = 1
    together: Together | None = None

    def start(self, train: Train, runs: Mapping[Path, Config]) -> Started:
        if len(runs) == 1 or self.together is None:
            ((folder, config),) = runs.items()
            return start(train, config, folder)
        return _spawn(_children, self.together, runs)

    def wait(self, started: Collection[BaseProcess], seconds: float) -> None:
        connection.wait([process.sentinel for process in started], seconds)


def start(train: Train, config: Config, folder: Path) -> BaseProcess:
    """The process of a run. It ends with the one that starts it, and saves and ends on SIGTERM."""
    return _spawn(_child, train, {folder: config})


def _spawn(child: Callable[..., None], train: Train | Together, runs: Mapping[Path, Config]) -> BaseProcess:
    for folder in runs:
        folder.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=child, args=(train, runs))
    process.start()
    return process


def _child(train: Train, runs: Mapping[Path, Config]) -> None:
    ((folder, config),) = runs.items()
    with _logs(runs):
        try:
            train(config, folder)
        except UserError as error:
            print(error)
            sys.exit(2)


def _children(together: Together, runs: Mapping[Path, Config]) -> None:
    with _logs(runs) as logs:
        if not together(runs, logs):
            sys.exit(1)


@contextlib.contextmanager
def _logs(runs: Collection[Path]) -> Iterator[dict[Path, TextIO]]:
    """In a process of runs: files beside their workdirs for what they say; what is no run's own goes to the first. The seconds
    that they took, each an equal part, go to others."""
    os.setpgid(0, 0)  # Ctrl-C is for the study, which asks runs to stop
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    files = [beside(folder, ".log") for folder in runs]
    logs = [file.open("a", encoding="utf-8", buffering=1) for file in files]  # not closed: a traceback comes after us
    with contextlib.ExitStack() as locks:
        for file in files:  # a study that was killed may have left a process behind, on its way out: this waits for it
            fcntl.flock(locks.enter_context(file.open("a")), fcntl.LOCK_EX)
        for stream in (1, 2):
            os.dup2(logs[0].fileno(), stream)
        sys.stdout = sys.stderr = logs[0]
        begun = time.monotonic()
        try:
            yield dict(zip(runs, logs, strict=True))
        finally:
            for folder in runs:
                with beside(folder, ".seconds").open("a") as times:
                    times.write(f"{(time.monotonic() - begun) / len(runs):.1f}\n")


def _end_with_the_study() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
