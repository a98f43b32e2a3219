"""Where runs are executed: by workers on this machine, or on a Ray cluster.

A worker is a process that trains one run after the other and keeps compiled programs, so that equal programs are compiled once.
If a run fails, its worker ends too, and the next run gets a new one. So no state of a failure is left, and a crash or a kill
for lack of memory ends only one run.

On a cluster, a run is a task of Ray, an optional dependency that is imported when it is used. The task starts the same process
on its node as a study on one machine does, waits for it, and forwards a stop. A run whose node is lost is submitted again and
resumes from its last checkpoint on another node. This needs a workdir that all nodes share, with file locks that work between
nodes: if the lost node still has a process of the run, the new one waits until that process has ended.
"""

import contextlib
import dataclasses
import fcntl
import gc
import importlib
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TextIO

from transformer import families
from transformer.config import Config
from transformer.errors import UserError, first_line, say
from transformer.parent import end_with_parent
from transformer.runtime.devices import processors
from transformer.studies import results
from transformer.studies.results import run_file
from transformer.training.loop import Stop

Train = Callable[[Config, Path], None]  # trains, or resumes, in a workdir, and scores; a function of a module
# The same for runs that differ only in their seeds, each with its own log; returns whether all succeeded.
Together = Callable[[Mapping[Path, Config], Mapping[Path, TextIO]], bool]


class StartedRun(Protocol):
    """A run that was started, with the interface of a process of `multiprocessing`."""

    @property
    def exitcode(self) -> int | None:
        """The exit code of its process once that has ended; negative: the signal that ended it."""
        ...

    def is_alive(self) -> bool: ...

    def terminate(self) -> None:
        """Asks it to save and end."""

    def kill(self) -> None: ...


class Place(Protocol):
    """Where runs are executed."""

    @property
    def most(self) -> float:
        """How many runs may be active at a time."""
        ...

    @property
    def seeds(self) -> int:
        """How many seeds of an arm are started as one process."""
        ...

    def has_compiled(self, config: Config) -> bool:
        """Whether a worker that is free has trained a run with the same programs."""
        ...

    def start(self, train: Train, runs: Mapping[Path, Config]) -> StartedRun:
        """Starts runs that differ only in their seeds, given by their workdirs; at most `seeds`."""
        ...

    def wait(self, started: Collection[Any], seconds: float) -> None:
        """Waits until a run that was started here may have ended, at most `seconds`."""

    def close(self) -> None:
        """Ends all runs that were started."""


class Worker:
    """A process that trains runs; see the head of this file. `threads`: how many XLA starts for computing on a CPU."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, threads))
        self.process.start()
        other.close()
        self.job: Job | None = None
        self.compiled: set[Config] = set()

    @property
    def free(self) -> bool:
        """Whether it can take a job."""
        return (self.job is None or self.job.exitcode == 0) and self.process.is_alive()

    def close(self) -> None:
        """Ends the worker; its current job is lost."""
        self.connection.close()
        self.process.kill()
        self.process.join()


class Job:
    """A job of a worker."""

    def __init__(self, worker: Worker, child: Callable[..., None], train: Train | Together, runs: Mapping[Path, Config]):
        self.worker, self._exitcode = worker, None
        worker.job = self
        worker.compiled |= {programs(config) for config in runs.values()}
        worker.connection.send((child, train, runs))

    @property
    def exitcode(self) -> int | None:
        """0 once the job is done; the exit status of the worker if that ended before; None while it runs."""
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


def programs(config: Config) -> Config:
    """The settings on which compiled programs may depend, with those of the data and of scoring."""
    return dataclasses.replace(config, train=families.of_programs(config).train)


class Processes:
    """Workers on this machine, `most` at a time, which share its processors. With `together` one trains several `seeds` of an
    arm at once."""

    def __init__(self, most: int, seeds: int = 1, together: Together | None = None):
        self.most, self.seeds, self._together = most, seeds, together
        self._threads = max(processors() // most, 1)
        self._workers: list[Worker] = []

    def has_compiled(self, config: Config) -> bool:
        return any(worker.free and programs(config) in worker.compiled for worker in self._workers)

    def start(self, train: Train, runs: Mapping[Path, Config]) -> Job:
        for folder in runs:
            folder.parent.mkdir(parents=True, exist_ok=True)
        idle, known = [worker for worker in self._workers if worker.free], {programs(config) for config in runs.values()}
        free = next((worker for worker in idle if known <= worker.compiled), idle[0] if idle else None)
        if free is None:
            self._workers = [worker for worker in self._workers if worker.process.is_alive()] + [free := Worker(self._threads)]
        if len(runs) == 1 or self._together is None:
            return Job(free, _child, train, runs)
        return Job(free, _children, self._together, runs)

    def wait(self, started: Collection[Job], seconds: float) -> None:
        if all(job.is_alive() for job in started):  # a worker whose job has ended may already have the next one
            connection.wait([job.worker.connection for job in started], seconds)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []


def start(train: Train, config: Config, folder: Path) -> BaseProcess:
    """A process for one run. It ends with its parent process, and on SIGTERM it saves and ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_alone, args=(train, {folder: config}))
    process.start()
    return process


def _alone(train: Train, runs: Mapping[Path, Config]) -> None:
    _begin()
    _child(train, runs)


def _serve(jobs: connection.Connection, threads: int) -> None:
    """The process of a worker. An exception in a job ends it."""
    _begin()
    os.environ.setdefault("NPROC", str(threads))  # XLA reads it when JAX first computes
    while True:
        try:
            child, train, runs = jobs.recv()
        except EOFError:
            return
        child(train, runs)
        del child, train, runs
        gc.collect()  # free the arrays of a run before the next one begins
        jobs.send(0)


def _begin() -> None:
    """Set-up of a process of runs: Ctrl-C is for the study, which asks runs to stop; output goes to the logs of runs."""
    os.setpgid(0, 0)
    end_with_parent()
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
    """Log files of runs next to their workdirs; output that belongs to no single run goes to the first. Other files get the
    seconds of the process, divided equally among its runs."""
    files = [run_file(folder, ".log") for folder in runs]
    logs = [file.open("a", encoding="utf-8", buffering=1) for file in files]
    with contextlib.ExitStack() as locks:
        for file in files:  # a killed study may have left a process that is still ending: wait for it
            fcntl.flock(locks.enter_context(file.open("a")), fcntl.LOCK_EX)
        for stream in (1, 2):
            os.dup2(logs[0].fileno(), stream)
        begun = time.monotonic()
        try:
            yield dict(zip(runs, logs, strict=True))
        finally:
            for folder in runs:
                with run_file(folder, ".seconds").open("a") as times:
                    times.write(f"{(time.monotonic() - begun) / len(runs):.1f}\n")


# --- a Ray cluster -----------------------------------------------------------------------------------------------------


INSTALL = 'pip install "ray>=2.60,<3"'
ADDRESS = re.compile(r"auto|(?P<host>[^/\s]+):(?P<port>\d{1,5})")
ANSWER = 5.0  # seconds that a head node has to answer in
LOSSES = 5  # how often a run may lose its node, so that a run that always crashes its node ends
SEEN = 60.0  # seconds until other nodes see a node's files: NFS may cache for that long that a file does not exist (acdirmax)
PASSED = (
    "JAX_",
    "XLA_",
)  # prefixes of environment variables that runs inherit from the study; all others are those of the node


@contextlib.contextmanager
def joined(address: str, most: int | None) -> Iterator[Place]:
    """The cluster at `address`, "auto" or "HOST:PORT", for at most `most` runs at a time (None: as many as there is room for).

    A run takes a GPU where the cluster has some, else a CPU. UserError: Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # at 40 seconds each, where something else answers; else 20
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(f"--ray={address}: Ray, an extra, cannot be imported ({error}); {INSTALL}") from error
    _check(address)
    before = signal.getsignal(signal.SIGTERM)  # Ray needs it
    with contextlib.redirect_stdout(sys.stderr):  # what Ray prints about its nodes is not a result
        try:
            _join(ray, address)
            kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
            say(f"--ray={address}: {ray.cluster_resources().get(kind, 0):.0f} {kind}s now, one for each run")
            yield Cluster(ray, {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}, most)
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, before)


def _check(address: str) -> None:
    """Checks the address first, because Ray would wait for minutes."""
    if not (found := ADDRESS.fullmatch(address)):
        raise UserError(
            f"--ray={address}: expected HOST:PORT, as `ray start --head` prints it, or auto for the cluster of this machine"
        )
    if found["host"]:
        try:
            socket.create_connection((found["host"].strip("[]"), int(found["port"])), ANSWER).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--ray={address}: nothing answers there ({first_line(error)}); is it the address of `ray start --head`?"
            ) from error


def _join(ray: Any, address: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address, runtime_env={"env_vars": variables}, **quiet)
    except Exception as error:
        raise UserError(
            f"--ray={address}: {first_line(error).rstrip('.')}; start the study on a machine of the cluster"
        ) from error


class Cluster:
    """Nodes of a Ray cluster. `options`: the resources that a task needs."""

    seeds = 1

    def __init__(self, ray: Any, options: dict[str, int], most: int | None):
        self.most = float("inf") if most is None else most
        self._ray = ray
        # Spread, because a run uses all of a node's processors. Ray's own retries do not end where a run takes too much memory.
        self._task = ray.remote(max_retries=0, scheduling_strategy="SPREAD", **options)(on_node)

    def has_compiled(self, config: Config) -> bool:
        return False  # each task is a process of its own

    def start(self, train: Train, runs: Mapping[Path, Config]) -> StartedRun:
        ((folder, config),) = runs.items()
        folder = folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Task(self._ray, self._task, (train, config, folder, os.getcwd()))

    def wait(self, started: Collection["Task"], seconds: float) -> None:
        if under_way := [task.reference for task in started if task.exitcode is None]:
            self._ray.wait(under_way, timeout=seconds)
        else:  # the files of some are not visible yet
            time.sleep(seconds)

    def close(self) -> None:
        """Nothing to do: each task ends with its run."""


class Task:
    """A run on a node, and on another one if that is lost."""

    def __init__(self, ray: Any, task: Any, arguments: tuple[Train, Config, Path, str]):
        self._ray, self._task, self._arguments = ray, task, arguments
        _, self._config, self._folder, _ = arguments
        self._losses, self._asked, self._ended = 0, False, 0.0
        self.exitcode: int | None = None
        self.reference = task.remote(*arguments)

    def is_alive(self) -> bool:
        if self.exitcode is None and self._ray.wait([self.reference], timeout=0)[0]:
            self.exitcode = self._result()
            self._ended = time.monotonic()
        return self.exitcode is None or (self.exitcode == 0 and not self._asked and self._unseen())

    def terminate(self) -> None:
        self._asked = True
        self._ray.cancel(self.reference)  # a task that has not begun is cancelled; otherwise `on_node` is interrupted

    def kill(self) -> None:
        self._ray.cancel(self.reference, force=True)

    def _result(self) -> int | None:
        """The status of a task that has ended, or None if it was submitted again. Ray's message goes to the run's log, where
        the study looks for errors."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(self.reference)
        except (errors.NodeDiedError, errors.WorkerCrashedError, errors.LocalRayletDiedError) as error:
            self._losses += 1
            self._log(f"{first_line(error)} ({self._losses} of {LOSSES} times)")
            if self._asked or self._losses == LOSSES:
                return 1
            self.reference = self._task.remote(*self._arguments)
            return None
        except errors.RayTaskError as error:  # a traceback
            self._log(str(error))
        except errors.RayError as error:
            self._log(first_line(error))
        return 1

    def _log(self, text: str) -> None:
        with run_file(self._folder, ".log").open("a", encoding="utf-8") as log:
            log.write(f"{text.rstrip()}\n")

    def _unseen(self) -> bool:
        return time.monotonic() < self._ended + SEEN and results.read_workdir(self._folder, self._config, ()) is None


def on_node(train: Train, config: Config, folder: Path, current: str) -> int:
    """The task: returns the exit status of a run's process on this node. A stop of the study arrives as an interrupt of Ray."""
    for place in (current, folder.parent):
        if not Path(place).is_dir():
            raise UserError(
                f"{place}: {socket.gethostname()} has no such folder; all nodes must share the repository and --workdir"
            )
    os.chdir(current)  # settings name files relative to it
    with Stop() as stop:
        process = start(train, config, folder)
        while process.is_alive() and not stop:
            process.join(0.5)
        if stop:
            process.terminate()
        process.join()
    assert process.exitcode is not None
    return process.exitcode
