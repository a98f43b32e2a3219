"""Contenders take turns, each in its own process, so that threads and memory of one do not disturb the times of another.

A contender is a module-level function that sets up and returns a function for one turn; it imports its library itself. A
process that waits for its turn uses no CPU.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Turn = Callable[[], Any]
PACKAGES = ("jax", "flax", "tokamax", "torch", "transformers", "ctranslate2")


@dataclasses.dataclass(frozen=True)
class Contender:
    """`make(*arguments)` returns the function for one turn. `work`: units of work in a turn (tokens, FLOPs), by name."""

    make: Callable[..., Turn]
    arguments: tuple[Any, ...] = ()
    work: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each turn after the first `warm_up` ones; `left_out`: why there are none; `output`: that of the last turn."""

    seconds: tuple[float, ...] = ()
    left_out: str = ""
    output: Any = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def arguments(description: str | None, rounds: int = 7) -> argparse.ArgumentParser:
    """The arguments of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each contender that are timed")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPUs that all may use")
    parser.add_argument("--output", help="JSON file to write")
    return parser


def take_turns(contenders: Mapping[str, Contender], rounds: int, warm_up: int, threads: int) -> dict[str, Times]:
    """Runs all contenders in turn, `rounds` times, on the first `threads` CPUs. The result of a turn must be small."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    pipes, processes, left_out = {}, [], {}
    for name, contender in contenders.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, contender.make, contender.arguments), daemon=True)
        process.start()
        processes.append(process)
        theirs.close()
        pipes[name] = ours
        if problem := _receive(ours):  # one after the other, because setting up uses all threads
            left_out[name] = problem
            print(f"left out: {name}: {problem}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in contenders if name not in left_out}
    output: dict[str, Any] = {}
    for turn in range(-warm_up, rounds):
        for name in list(times):
            pipes[name].send(True)
            answer = _receive(pipes[name])
            if isinstance(answer, str):
                left_out[name] = answer
                print(f"left out: {name}: {answer}", file=sys.stderr)
                del times[name]
                continue
            seconds, output[name] = answer
            if turn >= 0:
                times[name].append(seconds)
    for process in processes:
        process.kill()
    return {
        name: Times(left_out=left_out[name]) if name in left_out else Times(tuple(times[name]), output=output[name])
        for name in contenders
    }


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return "its process died"


def _serve(pipe: Connection, make: Callable[..., Turn], arguments: Sequence[Any]) -> None:
    """Sends "" once set up, or the reason of a failure; then, for each message, the seconds of a turn and its result."""
    try:
        turn = make(*arguments)
        pipe.send("")
        while pipe.recv():
            begin = time.perf_counter()
            output = turn()
            pipe.send((time.perf_counter() - begin, output))
    except ImportError as error:
        pipe.send(f"{error.name} is not installed")
    except Exception as error:  # sent to the waiting process
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {error}")


def peak() -> Turn:
    """A turn for the machine's peak: products of square fp32 matrices with `PEAK_FLOPS` FLOPs."""
    import jax

    x = jax.numpy.ones((PEAK_SIZE, PEAK_SIZE), jax.numpy.float32)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()

    def turn() -> None:
        for _ in range(PEAK_TIMES):
            product(x).block_until_ready()

    return turn


PEAK_SIZE, PEAK_TIMES = 2048, 4
PEAK = "matrix product (XLA)"
PEAK_FLOPS = 2.0 * PEAK_SIZE**3 * PEAK_TIMES


def report(
    title: str,
    times: Mapping[str, Times],
    contenders: Mapping[str, Contender],
    threads: int,
    path: str | None,
    peak_rate: float | None = None,
) -> None:
    """Prints a table (first contender = 1), the machine and the versions; writes all of it as JSON to `path`.

    `peak_rate`: the peak FLOP/s; none: that of the contender `PEAK`, if there is one.
    """
    first = next(iter(contenders))
    table = Table("", "median", "spread", f"times {first}", title=title, title_justify="left")
    units = list(dict.fromkeys(unit for contender in contenders.values() for unit in contender.work))
    for unit in units:
        table.add_column(unit, justify="right")
    if PEAK in times and times[PEAK].seconds:
        peak_rate = PEAK_FLOPS / times[PEAK].median
    rows = []
    for name, contender in contenders.items():
        found = times[name]
        if not found.seconds:
            continue
        rates = {unit: amount / found.median for unit, amount in contender.work.items()}
        shown = []
        for unit in units:
            rate = rates.get(unit)
            if rate is None:
                shown.append("")
            elif unit == "FLOP/s":
                share = "" if peak_rate is None or name == PEAK else f", {rate / peak_rate:.0%} of the peak"
                shown.append(f"{rate / 1e9:,.0f} G{share}")
            else:
                shown.append(f"{rate:,.0f}")
        ratio = f"{found.median / times[first].median:.2f}" if times[first].seconds and name != PEAK else ""
        table.add_row(
            name,
            f"{found.median * 1e3:,.1f} ms",
            f"{min(found.seconds) * 1e3:,.1f} to {max(found.seconds) * 1e3:,.1f}",
            ratio,
            *shown,
        )
        rows.append({"name": name, "seconds": found.seconds, "median": found.median, "rates": rates, "output": found.output})
    Console(width=140).print(table)
    machine = {"threads": threads, "machine": processor(), "python": platform.python_version(), "versions": versions()}
    print(", ".join(f"{name} {value}" for name, value in machine["versions"].items()))
    print(f"{machine['machine']}, {threads} threads, {len(rows[0]['seconds'])} turns each, alternating")
    if path is not None:
        left_out = {name: found.left_out for name, found in times.items() if found.left_out}
        Path(path).write_text(
            json.dumps({"title": title, **machine, "contenders": rows, "left_out": left_out}, indent=1) + "\n"
        )


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
