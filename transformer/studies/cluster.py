"""Runs of a study on a Ray cluster: the only file that knows Ray, which is an extra and imported when it is asked for.

A run is a task of Ray, which starts the same process on its node as a study on one machine does, waits for it, and hands a
stop on. A run whose node is lost is submitted again: it goes on from its last checkpoint elsewhere. That needs a workdir
which all nodes see, and locks there that hold between nodes: a process that a lost node may still have keeps its successor
waiting until it is gone.
"""

import contextlib
import importlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformer.config import Config
from transformer.errors import UserError, first_line, say
from transformer.studies import outcomes, processes
from transformer.studies.processes import Place, Started, Train
from transformer.studies.results import beside
from transformer.training.loop import Stop

INSTALL = 'pip install "ray>=2.60,<3"'
ADDRESS = re.compile(r"auto|(?P<host>[^/\s]+):(?P<port>\d{1,5})")
ANSWER = 5.0  # seconds that a head node has to answer
LOSSES = 5  # a run may lose its node so often; what takes its node away each time is not to go on for ever
SEEN = 60.0  # seconds until a node's files are seen elsewhere: NFS may keep for so long that a file is not there (acdirmax)
PASSED = ("JAX_", "XLA_")  # the beginnings of variables that runs have from the study's environment; all else is their node's


@contextlib.contextmanager
def joined(address: str, most: int | None) -> Iterator[Place]:
    """The nodes of the cluster at `address`, "auto" or "HOST:PORT", for `most` runs at a time (None: as many as have room).

    A run takes a GPU where the cluster has some, else a CPU. UserError: Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # at 40 seconds each, where something else answers; else 20
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(f"--ray={address}: Ray, an extra, cannot be imported ({error}); {INSTALL}") from error
    _check(address)
    before = signal.getsignal(signal.SIGTERM)  # Ray takes it
    with contextlib.redirect_stdout(sys.stderr):  # what Ray tells of its nodes is no result
        try:
            _join(ray, address)
            kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
            say(f"--ray={address}: {ray.cluster_resources().get(kind, 0):.0f} {kind}s now, one for each run")
            yield Cluster(ray, {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}, most)
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, before)


def _check(address: str) -> None:
    """Ray would wait for minutes."""
    if not (found := ADDRESS.fullmatch(address)):
        raise UserError(
            f"--ray={address}: wants HOST:PORT, as `ray start --head` says it, or auto, for the cluster of this machine"
        )
    if found["host"]:
        try:
            socket.create_connection((found["host"].strip("[]"), int(found["port"])), ANSWER).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--ray={address}: nothing answers there ({first_line(error)}); is it what `ray start --head` says?"
            ) from error


def _join(ray: Any, address: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address, runtime_env={"env_vars": variables}, **quiet)
    except Exception as error:
        raise UserError(
            f"--ray={address}: {first_line(error).rstrip('.')}; a study is started on a machine of its cluster"
        ) from error


class Cluster:
    """Nodes of a Ray cluster. `options`: what a task asks of one."""

    seeds = 1

    def __init__(self, ray: Any, options: dict[str, int], most: int | None):
        self.most = float("inf") if most is None else most
        self._ray = ray
        # Spread, because a run uses all of a node's processors. Ray's own retries do not end where a run takes too much memory.
        self._task = ray.remote(max_retries=0, scheduling_strategy="SPREAD", **options)(on_node)

    def start(self, train: Train, runs: Mapping[Path, Config]) -> Started:
        ((folder, config),) = runs.items()
        folder = folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Task(self._ray, self._task, (train, config, folder, os.getcwd()))

    def wait(self, started: Collection["Task"], seconds: float) -> None:
        if under_way := [task.reference for task in started if task.exitcode is None]:
            self._ray.wait(under_way, timeout=seconds)
        else:  # some are not seen yet
            time.sleep(seconds)

    def close(self) -> None:
        """Each task ends with its run."""


class Task:
    """A run on some node, then on another if that is lost."""

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
        self._ray.cancel(self.reference)  # before it begins, it does not; else `on_node` is interrupted

    def kill(self) -> None:
        self._ray.cancel(self.reference, force=True)

    def _result(self) -> int | None:
        """The status of a task that is over; None: it is under way again. What Ray says goes to the run's log, where
        errors are looked for."""
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
        with beside(self._folder, ".log").open("a", encoding="utf-8") as log:
            log.write(f"{text.rstrip()}\n")

    def _unseen(self) -> bool:
        return time.monotonic() < self._ended + SEEN and outcomes.read(self._folder, self._config, ()) is None


def on_node(train: Train, config: Config, folder: Path, current: str) -> int:
    """The task: the exit status of a run's process on this node. A stop of the study comes as an interrupt from Ray."""
    for place in (current, folder.parent):
        if not Path(place).is_dir():
            raise UserError(
                f"{place}: {socket.gethostname()} has no such folder; the repository and --workdir are to be shared"
            )
    os.chdir(current)  # settings name files from there
    with Stop() as stop:
        process = processes.start(train, config, folder)
        while process.is_alive() and not stop:
            process.join(0.5)
        if stop:
            process.terminate()
        process.join()
    assert process.exitcode is not None
    return process.exitcode
