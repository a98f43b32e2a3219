"""Measurements in a given time: their tables, what was left out and why, and contenders in processes of their own."""

import dataclasses
import gc
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from transformer.errors import first_line, say


@dataclasses.dataclass
class Session:
    """What was asked for, the time that is left, and what was found so far: rows by the title of their table."""

    small: bool
    end: float
    output: Path | None
    studies: Path
    machine: Mapping[str, Any]
    tables: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def part(self, title: str, what: str, least: float, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Adds a row, which `what` names; leaves it out with less than `least` seconds, or where it fails."""
        if self.left < (0 if self.small else least):
            return self.leave_out(f"{title}: {what}", "no time")
        try:
            self.row(title, **measure())
        except Exception as error:  # such as a device that does not hold it; the others say something all the same
            self.leave_out(f"{title}: {what}", f"{type(error).__name__}: {first_line(error)}")
        free()

    def row(self, title: str, **values: Any) -> None:
        """Adds a row to a table, and writes the file."""
        self.tables.setdefault(title, []).append(values)
        say(f"[{self.left:,.0f} s left] {title}: {', '.join(f'{name} {_shown(value)}' for name, value in values.items())}")
        self._write()

    def leave_out(self, what: str, why: str) -> None:
        self.left_out[what] = why
        say(f"left out: {what}: {why}")
        self._write()

    def show(self, title: str) -> None:
        """Prints a table."""
        rows = self.tables.get(title, [])
        names = list(dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, list)))
        table = Table(*names, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(_shown(row.get(name, "")) for name in names))
        Console(width=160).print(table)

    def _write(self) -> None:
        if self.output is not None:
            found = {"machine": self.machine, "small": self.small, "tables": self.tables, "left_out": self.left_out}
            new = self.output.with_suffix(".new")
            new.write_text(json.dumps(found, indent=1) + "\n")
            new.replace(self.output)


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def timed(turn: Callable[[], Any], seconds: float = 6.0) -> list[float]:
    """Seconds of each turn after two: at least three, and as many as fit in `seconds`, ten at most."""
    found: list[float] = []
    for number in range(12):
        begin = time.perf_counter()
        turn()
        if number > 1:
            found.append(time.perf_counter() - begin)
        if len(found) >= 3 and sum(found) > seconds:
            break
    return found


def free() -> None:
    """Gives back what a contender held."""
    import jax

    gc.collect()
    jax.clear_caches()


def aside(make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], seconds: float) -> list[float] | str:
    """`timed(make(*arguments))` in a process of its own; or why not: it fails, or takes longer than `seconds`."""
    if seconds <= 0:
        return "no time"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_aside, args=(theirs, make, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else f"not done in {seconds:.0f} s"
    except EOFError:
        return "its process died"
    finally:
        process.kill()
        process.join()


def _aside(pipe: Any, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send(timed(make(*arguments)))
    except ImportError as error:
        pipe.send(f"{error.name} is not installed")
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {first_line(error)}")
