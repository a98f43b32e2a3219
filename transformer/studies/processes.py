"""Where runs are executed, and a run's process. Here: on this machine; cluster.py: on those of a Ray cluster.

A worker is a process that trains one run after the other and keeps what it has compiled, so that equal programs are compiled
once. A run that fails takes its worker with it, and the next one gets a new worker: nothing of a failure is left, and a crash,
or the system taking its memory back, ends one run alone.
"""

import contextlib
import fcntl
import gc
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

    def close(self) -> None:
        """Ends what was started."""


class Worker:
    """A process that trains runs; see the head of this file."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,))
        self.process.start()
        other.close()
        self.job: Job | None = None

    @property
    def free(self) -> bool:
        """Whether it can be given a job."""
        return (self.job is None or self.job.exitcode == 0) and self.process.is_alive()

    def close(self) -> None:
        """Ends it; a job that it has is lost."""
        self.connection.close()
        self.process.kill()
        self.process.join()


class Job:
    """What a worker was given to do."""

    def __init__(self, worker: Worker, child: Callable[..., None], train: Train | Together, runs: Mapping[Path, Config]):
        self.worker, self._exitcode = worker, None
        worker.job = self
        worker.connection.send((child, train, runs))

    @property
    def exitcode(self) -> int | None:
        """0 once it is done; of a worker that ended meanwhile its exit status; None: it is under way."""
        if self._exitcode is None and self.worker.connection.poll():
            try:
                self._exitcode = self.worker.connection.recv()
            except (EOFError, OSError):
                self.worker.process.join()
                self._exitcode = self.worker.process.exitcode
        return self._exitcode

    def is_alive(self) -> bool:
        return self.exitcode is None

    def terminate(self) -> None:
        self.worker.process.terminate()

    def kill(self) -> None:
        self.worker.process.kill()


class Processes:
    """Workers on this machine, `most` at a time. With `together` one trains several `seeds` of an arm at once."""

    def __init__(self, most: int, seeds: int = 1, together: Together | None = None):
        self.most, self.seeds, self._together = most, seeds, together
        self._workers: list[Worker] = []

    def start(self, train: Train, runs: Mapping[Path, Config]) -> Job:
        for folder in runs:
            folder.parent.mkdir(parents=True, exist_ok=True)
        free = next((worker for worker in self._workers if worker.free), None)
        if free is None:
            self._workers = [worker for worker in self._workers if worker.process.is_alive()] + [free := Worker()]
        if len(runs) == 1 or self._together is None:
            return Job(free, _child, train, runs)
        return Job(free, _children, self._together, runs)

    def wait(self, started: Collection[Job], seconds: float) -> None:
        if all(job.is_alive() for job in started):  # a worker whose job is over may have the next one already
            connection.wait([job.worker.connection for job in started], seconds)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []


def start(train: Train, config: Config, folder: Path) -> BaseProcess:
    """A process of a run alone. It ends with the one that starts it, and saves and ends on SIGTERM."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_alone, args=(train, {folder: config}))
    process.start()
    return process


def _alone(train: Train, runs: Mapping[Path, Config]) -> None:
    _begin()
    _child(train, runs)


def _serve(jobs: connection.Connection) -> None:
    """The process of a worker. What a job raises ends it."""
    _begin()
    while True:
        try:
            child, train, runs = jobs.recv()
        except EOFError:
            return
        child(train, runs)
        del child, train, runs
        gc.collect()  # the arrays of a run are gone before the next one begins
        jobs.send(0)


def _begin() -> None:
    """Of a process of runs: Ctrl-C is for the study, which asks runs to stop; what they print goes to their logs."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    sys.stdout = sys.stderr = open(1, "a", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115


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
    files = [beside(folder, ".log") for folder in runs]
    logs = [file.open("a", encoding="utf-8", buffering=1) for file in files]
    with contextlib.ExitStack() as locks:
        for file in files:  # a study that was killed may have left a process behind, on its way out: this waits for it
            fcntl.flock(locks.enter_context(file.open("a")), fcntl.LOCK_EX)
        for stream in (1, 2):
            os.dup2(logs[0].fileno(), stream)
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
