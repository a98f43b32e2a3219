"""Several processes, often on several hosts, as one run: how they find each other, wait, exchange values, and end.

Process 0 prints and writes files; the others do the same work silently. A single process is process 0 of one. All processes
must call these functions in the same order.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import importlib.util
import io
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer.errors import UserError, first_line, program

T = TypeVar("T")
SILENCE = 60  # seconds without a heartbeat after which a process counts as lost; the end of a process is noticed immediately
MEETING = 300  # seconds that a process waits for all others to start
PATIENCE = 7 * 24 * 3600 * 1000  # milliseconds: how long the others wait while process 0 prepares data
GRACE = 10  # seconds that a failed process has to clean up
LEAVING = 30  # seconds that a refused process waits for the others, most of which are refused too

METADATA = 10  # seconds to wait for the metadata server of a virtual machine

_turns = itertools.count()


# --- for runs -------------------------------------------------------------------------------------------------------


def is_first() -> bool:
    """Whether this process is the one that prints and writes files."""
    return jax.process_index() == 0


def in_turn(action: Callable[[], T]) -> T:
    """Runs `action()` in process 0, then in the others, which find its files. UserError: that of any `action`."""
    if jax.process_count() == 1:
        return action()
    turn = f"turn {next(_turns)}"
    if not is_first():
        with exchange():
            refused = _client().blocking_key_value_get(turn, PATIENCE)[1:]
        if refused:
            raise UserError(refused)
        return action()
    try:
        result = action()
    except UserError as error:
        _client().key_value_set(turn, f"-{error}")
        raise
    _client().key_value_set(turn, "+")
    return result


def by_first(action: Callable[[], Any]) -> None:
    """Runs `action()` in process 0 while the others wait. UserError: that of process 0."""
    in_turn(lambda: action() if is_first() else None)


def spread(say: Callable[[Sequence[Any]], list[str]], items: Sequence[Any]) -> list[str]:
    """`say(items)`, a text for each item, in order; each process computes its part."""
    count, number = jax.process_count(), jax.process_index()
    if count == 1:
        return say(items)
    first, last = (len(items) * n // count for n in (number, number + 1))
    return list(itertools.chain.from_iterable(_gather(say(items[first:last]) if first < last else [])))


def every(values: Sequence[Any]) -> list[Any]:
    """The values of all processes in order; they must fit into JSON."""
    return list(values) if jax.process_count() == 1 else list(itertools.chain.from_iterable(_gather(list(values))))


def total(counts: Mapping[str, int]) -> dict[str, int]:
    """The sums of all processes' counts."""
    if jax.process_count() == 1:
        return dict(counts)
    sums = sum(np.frombuffer(part, np.int64) for part in _exchange(np.array(list(counts.values()), np.int64).tobytes()))
    return dict(zip(counts, np.asarray(sums).tolist(), strict=True))


def check_same(values: Mapping[str, Any]) -> None:
    """UserError in all processes: they do not all have these values, which must fit into JSON."""
    if jax.process_count() == 1:
        return
    every = _gather(dict(values))
    for number, others in enumerate(every):
        for name in [*every[0], *others]:
            ours, theirs = (each.get(name, "nothing") for each in (every[0], others))
            if ours != theirs:
                raise UserError(
                    f"process {number} has {name} {theirs}, process 0 has {ours}; "
                    "start all processes by the same command, with a --workdir that all share"
                )


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    """A context for work that needs all processes. If another process is lost, this one reports it and ends with status 1."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # the backend decides which of the two
        if jax.process_count() > 1 and re.search("gloo|nccl|connection|socket|peer|heartbeat|unavailable", str(error), re.I):
            _lost()
        raise


# --- joining and leaving ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(coordinator: str | None, count: int | None, number: int | None) -> Iterator[None]:
    """Joins this process to the others of the run. Enter it before anything uses JAX's devices.

    The flags `--coordinator`, `--num_processes` and `--process_id` describe the run. Without these flags, SLURM, a TPU pod or
    Kubernetes describe it, or the process is alone. UserError: the flags do not fit together, or no coordinator answers.
    """
    _check(coordinator, count, number)
    if coordinator is None and not (in_cluster(os.environ) or _on_tpu_vm()):
        yield
        return
    _native_output.catch()
    jax.config.update(
        "jax_enable_preemption_service", False
    )  # it would catch SIGTERM instead of the loop, which asks all processes
    try:
        jax.distributed.initialize(
            coordinator, count, number, initialization_timeout=MEETING, heartbeat_timeout_seconds=SILENCE
        )
    except (RuntimeError, ValueError) as error:
        _leave_alone(2)
        raise UserError(
            f"--coordinator={coordinator or 'found by the cluster'}: this process could not join a run "
            f"({first_line(error)}); start every process, process 0 at that address, at a port that is free"
        ) from error
    _native_output.met = True
    try:
        with contextlib.ExitStack() as stack:
            if not is_first():
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            with exchange():
                yield
    except UserError:
        _native_output.status = 2
        with contextlib.suppress(RuntimeError, ValueError):  # some have ended, or continue
            _client().wait_at_barrier(
                "refused", LEAVING * 1000
            )  # a process that left would be missing for those that come later
        _leave_alone(2)
        raise
    except BaseException:
        _leave_alone(1)
        raise


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this is one of several processes that were started by a cluster that JAX knows."""
    slurm = "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1
    kubernetes = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    return slurm or kubernetes or "," in workers or "MEGASCALE_COORDINATOR_ADDRESS" in environment


def _on_tpu_vm() -> bool:
    """Whether this is a host of a Cloud TPU slice, whose metadata tell JAX about the others."""
    chips = "TPU_SKIP_MDS_QUERY" not in os.environ  # JAX sets it if it finds no chip
    return chips and importlib.util.find_spec("libtpu") is not None and _in_slice()


def _in_slice() -> bool:
    """Whether the metadata server of this virtual machine, if there is one, knows it as a worker of a slice."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/agent-worker-number"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"}), timeout=METADATA):  # noqa: S310
            return True
    except OSError:
        return False


def _check(coordinator: str | None, count: int | None, number: int | None) -> None:
    given = {"coordinator": coordinator, "num_processes": count, "process_id": number}
    if missing := [f"--{name}" for name, value in given.items() if value is None]:
        if len(missing) < len(given):
            shown = next(f"--{name}={value}" for name, value in given.items() if value is not None)
            raise UserError(f"{shown} needs {' and '.join(missing)}; SLURM, TPU pods and Kubernetes need none of the three")
        return
    assert coordinator is not None and count is not None and number is not None
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT of process 0, such as 10.0.0.1:1234")
    if not 0 <= number < count:
        raise UserError(f"--process_id={number}: expected a number from 0 to {count - 1}, one below --num_processes={count}")


class _NativeOutput:
    """Captures what native libraries write to stdout and stderr, and shows it only if they end the process for an unknown
    reason. Python's own output is not redirected."""

    def __init__(self) -> None:
        self.leaving = threading.Lock()
        self.status: int | None = None  # the status with which this process ends by itself
        self.met = False  # whether all processes have joined
        self.stderr: Any = sys.stderr
        self.kept: Any = io.BytesIO()

    def catch(self) -> None:
        self.kept = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        for name, number in (("stdout", 1), ("stderr", 2)):
            getattr(sys, name).flush()
            setattr(sys, name, open(os.dup(number), "w", encoding="utf-8", buffering=1))  # noqa: SIM115
            os.dup2(self.kept.fileno(), number)
        self.stderr = sys.stderr
        faulthandler.enable(sys.stderr)
        # The coordination service aborts when a process is lost, and Python's handlers would not run.
        ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)

    def read(self) -> str:
        self.kept.seek(0)
        return self.kept.read().decode(errors="replace")


_native_output = _NativeOutput()


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    if _native_output.status is not None:  # this process fails too, and will report why
        time.sleep(GRACE)
        os._exit(_native_output.status)
    text = _native_output.read()
    if "distributed service" not in text:
        print(text, file=_native_output.stderr, flush=True)
        os._exit(1)
    _lost()


def _lost() -> NoReturn:
    """Ends this process with one line: it can neither continue nor end together with the others."""
    if not _native_output.leaving.acquire(blocking=False):
        time.sleep(GRACE)  # another thread is doing it
    gone = "another process of this run ended, and so this one ends; once all are started again by the same command, the run "
    never = f"not all processes were there within {MEETING} seconds; start every one, --process_id=0 where --coordinator says"
    print(
        f"{program()}: {gone}resumes from the last checkpoint" if _native_output.met else f"{program()}: {never}",
        file=_native_output.stderr,
    )
    _native_output.stderr.flush()
    os._exit(1)


def _leave_alone(status: int) -> None:
    """Makes this process end without the others, for which JAX would wait: when Python ends, or after a while."""
    _native_output.status = status

    def leave() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)

    atexit.register(leave)  # before JAX's own, which was registered before
    late = threading.Timer(GRACE, os._exit, [status])
    late.daemon = True
    late.start()


# --- values of all processes -------------------------------------------------------------------------------------------


def _client() -> Any:
    """The client of the coordination service, which, unlike devices, has no limit on waiting times."""
    from jax._src import distributed

    return distributed.global_state.client


def _gather(value: Any) -> list[Any]:
    """The values of each process in order, through JSON."""
    data = json.dumps(value).encode()
    with exchange():
        _client().wait_at_barrier(f"turn {next(_turns)}", PATIENCE)  # until the slowest process arrives
    sizes = [int(np.frombuffer(size, np.int64)[0]) for size in _exchange(np.array([len(data)], np.int64).tobytes())]
    parts = _exchange(data.ljust(max(sizes), b"\0"))
    return [json.loads(part[:size]) for part, size in zip(parts, sizes, strict=True)]


def _exchange(data: bytes) -> list[bytes]:
    """The bytes of each process, all of one length, in order."""
    with exchange():
        rows = multihost_utils.process_allgather(np.frombuffer(data, np.uint8))
    return [row.tobytes() for row in np.asarray(rows)]
