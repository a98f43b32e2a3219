"""The progress line, metrics.jsonl and TensorBoard events of a run. It computes no metrics.

A line of metrics.jsonl is one report: `step`, its metrics, and fields of `TIMED`. Without the latter, a run that was
stopped and resumed writes the same file as one that was not.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from transformer.errors import UserError, counted, readable
from transformer.files import new_file

# Fields that depend on the clock or the process, not on the training itself: leave them out of a comparison of two runs.
TIMED = ("tokens_per_second", "examples_per_second", "mfu", "input_share", "pause_share", "time", "train/compilations")
FIRST_ESTIMATE = (
    5.0  # seconds of training after which the expected time of the run is first printed where there is no progress bar
)
T = TypeVar("T")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; [] if there is no file. A half-written last line is left out; None stands for a number that
    was not finite. UserError: another line is broken."""
    return [row for _, row in _read(path)]


def _read(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Every line, as text and parsed."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        # A line that is cut inside a number or a word may still be JSON, but it is not a report.
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not a report in JSON; repair or remove the line")
        rows.append((line, row))
    return rows


def _drop_after(path: Path, step: int) -> None:
    """Drops the lines of later steps, and all lines before a first step: they will be written again."""
    kept = [line + b"\n" for line, row in _read(path) if row["step"] <= step and step > 0]
    with new_file(path) as whole, whole.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class Telemetry:
    """Reports on the updates `first_step` + 1 to `steps` of one run; a context manager.

    A terminal shows a live bar, any other stream gets a line for each report. Opening it removes the steps after `first_step`
    from metrics.jsonl and the TensorBoard events. UserError: a file cannot be written.

    Speed is measured from the end of the first `advance`, so that the first step, which compiles, is in neither the
    time nor the tokens of the first report. What runs under `paused()` is not counted either.

    Two fractions show how the time since the last report was spent. `pause_share`: under `paused()`, for validation and
    checkpoints. `input_share`: the host waited for a batch out of `awaited()`. Batches are read ahead, so it waits only if
    reading is slower than training; a device that still computes the update before hides some of that, so the device waits no
    longer than this. The rest is training: the device's work, and the host's around it.

    Args:
        metrics_path: the metrics.jsonl; a missing folder is made.
        tensorboard_folder: the folder of the events.
        first_step: updates done before.
        steps: updates at the end of the run.
        mfu_per_token: a token's training FLOPs / the devices' peak FLOP/s; reports then have `mfu`.
        settings: the settings by which TensorBoard's page HParams compares runs.
        follow: is called with every row that is written: its step and its finite numbers by name.
        stream: the stream for progress; None: stderr.
        clock: seconds, rising.
    """

    def __init__(
        self,
        metrics_path: Path,
        tensorboard_folder: Path,
        first_step: int,
        steps: int,
        *,
        mfu_per_token: float | None = None,
        settings: Mapping[str, bool | int | float | str] | None = None,
        follow: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._metrics_path, self._tensorboard_folder = metrics_path, tensorboard_folder
        self._first_step, self._steps, self._mfu_per_token = first_step, steps, mfu_per_token
        self._settings, self._follow = settings or {}, follow
        self._stream, self._clock = stream or sys.stderr, clock
        self._started = clock()
        self._warm: tuple[int, float] | None = None  # first step that was dispatched, and when
        self._measured = first_step, self._started  # step and time from which the next report's speed counts
        self._reported = first_step
        self._paused = self._awaited = 0.0  # seconds since the last report; those paused are left out of its speed
        self._not_finite: set[str] = set()
        self._estimated = False
        self._bar: Any = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            try:
                self._metrics_path.parent.mkdir(parents=True, exist_ok=True)
                _drop_after(self._metrics_path, self._first_step)
                self._file = stack.enter_context(self._metrics_path.open("a", encoding="utf-8", newline="\n", buffering=1))
                self._events = stack.enter_context(contextlib.closing(self._open_events()))
            except OSError as error:
                raise self._unwritable(error) from error
            if has_bar(self._stream):
                counted = "step {task.completed:.0f}/{task.total:.0f}", "{task.description}{task.fields[eta]}"
                self._bar = stack.enter_context(make_bar(self._stream, *counted))
                self._task = self._bar.add_task("compiling", total=self._steps, completed=self._first_step, eta="")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._stack.close()
        except OSError as full:  # try once more to write what could not be written before
            if error[0] is None:
                raise self._unwritable(full) from full

    def _unwritable(self, error: OSError) -> UserError:
        where = error.filename or self._metrics_path.parent
        return UserError(
            f"{where}: metrics cannot be written ({error.strerror}); choose another --workdir or make room in this one"
        )

    def advance(self, step: int) -> None:
        """Moves the bar: update `step` is dispatched. Cheap."""
        if self._warm is None:
            self._warm = self._measured = step, self._clock()
            self._paused = self._awaited = 0.0
            if self._bar:
                self._bar.update(self._task, description="")
        if self._bar:
            self._bar.update(self._task, completed=step, eta=self._eta(step))
        elif not self._estimated and self._clock() - self._warm[1] >= FIRST_ESTIMATE:
            self._estimated = True
            if self._reported == self._first_step:  # no earlier report
                self.note(f"step {step}/{self._steps}{self._eta(step)}")

    def awaited(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; counts the time that each is waited for."""
        begun = self._clock()
        for batch in batches:
            self._awaited += self._clock() - begun
            yield batch
            begun = self._clock()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what runs inside (validation, a checkpoint) out of the speed, not out of the ETA.

        Fetch the last step's metrics before; otherwise the device is still training inside the block.
        """
        begun = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begun

    def report(self, step: int, metrics: Mapping[str, float], tokens: int, examples: int) -> None:
        """`metrics` of update `step` get the prefix "train/"; `tokens` and `examples` are those since the last report.

        Speeds and fractions are absent if only the first step was made so far.
        """
        now = self._clock()
        row = {f"train/{name}": float(value) for name, value in metrics.items()}
        begun, since = self._measured
        seconds = now - since - self._paused
        if seconds > 0 and step > begun:
            share = (step - begun) / (step - self._reported)  # below 1 only in the first report, whose first step is left out
            row["tokens_per_second"] = share * tokens / seconds
            row["examples_per_second"] = share * examples / seconds
            if self._mfu_per_token is not None:
                row["mfu"] = row["tokens_per_second"] * self._mfu_per_token
            row |= {"input_share": self._awaited / (now - since), "pause_share": self._paused / (now - since)}
        self._measured, self._reported = (step, now), step
        self._paused = self._awaited = 0.0
        self._write(step, row)

        parts = [f"loss {row['train/loss']:.3f}"] if "train/loss" in row else []
        parts += [f"{row['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in row else []
        parts += [f"input {row['input_share']:.0%}"] if row.get("input_share", 0) >= 0.01 else []
        text = "  ".join(parts)
        if self._bar:
            self._bar.update(self._task, description=text, refresh=True)
        else:
            self.note(f"step {step}/{self._steps}  {text}{self._eta(step)}")

    def score(self, step: int, metrics: Mapping[str, float]) -> None:
        """Other numbers of that step, under their full names ("validation/loss"), and a line to the user, without those of
        a part ("init/gradient_norm@encoder/1")."""
        row = {name: float(value) for name, value in metrics.items()}
        self._write(step, row)
        shown = [f"{name} {readable(name, value, _number(value))}" for name, value in row.items() if "@" not in name]
        self.note("  ".join([f"step {step}/{self._steps}", *shown]))

    def skipped(self, step: int) -> None:
        """Prints a line: update `step` changed nothing, because its loss or gradient was not finite."""
        self._write(step, {"train/skipped": 1.0})
        self.note(f"step {step}/{self._steps}  skipped: its loss or gradient is not finite")

    def recompiled(self, step: int, times: int, shapes: int) -> None:
        """Prints a line: update `step` compiled, like `times` - 1 others, although batches have at most `shapes` shapes."""
        self.note(
            f"step {step}/{self._steps}  compiled again, {times} times so far, though batches have at most "
            f"{counted(shapes, 'shape')}: each costs seconds to minutes; what is new in the step must not change with the data "
            "(train/compilations counts)"
        )

    def note(self, text: str) -> None:
        """A line to the user, above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def _eta(self, step: int) -> str:
        if self._warm is None or step <= self._warm[0]:
            return ""
        pace = (self._clock() - self._warm[1]) / (step - self._warm[0])
        return f"  ETA {_duration(pace * (self._steps - step))}"

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if not math.isfinite(value) and name not in self._not_finite:
                self._not_finite.add(name)
                self.note(f"{name} is {value} at step {step}; metrics.jsonl says null where a number is not finite")
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        line = {"step": step} | finite | {"time": self._clock() - self._started}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            known = {name: value for name, value in finite.items() if value is not None}
            self._events.write_event(_event(step, known))
            self._events.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._follow(step, known)

    def _open_events(self) -> Any:
        events = _events(self._tensorboard_folder, self._first_step)
        for summary in _hparams(self._settings) if self._settings else ():
            events.write_event(summary)
        events.flush()
        return events


def has_bar(stream: TextIO) -> bool:
    """Whether a bar can be drawn there; otherwise progress is printed in lines."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def make_bar(stream: TextIO, before: str, behind: str) -> Any:
    """A progress bar of rich, between two texts."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn(before, markup=False),
        BarColumn(bar_width=None),
        TextColumn(behind, markup=False),
        console=Console(file=stream, force_terminal=True),
        expand=True,
        # Results go to stdout, which may be a pipe, so it is not redirected. Other output to stderr goes above the bar.
        redirect_stdout=False,
        redirect_stderr=stream is sys.stderr,
    )


def _events(folder: Path, first_step: int) -> Any:
    """A file for TensorBoard's events, which makes TensorBoard forget events of later steps, or all before a first step.

    This does not use the library's higher-level writer, whose thread dies if the disk is full, so that writing waits for ever.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    folder.mkdir(parents=True, exist_ok=True)
    # The suffix prevents a run that is resumed within a second from overwriting the previous file.
    events = EventsWriter(str(folder / "events"), f".{first_step}.{os.getpid()}")
    start = SessionLog(status=SessionLog.START)
    events.write_event(Event(wall_time=time.time(), step=first_step + 1 if first_step else 0, session_log=start))
    events.flush()
    return events


def _hparams(settings: Mapping[str, bool | int | float | str]) -> list[Any]:
    """The events that give a run its line in TensorBoard's page HParams, where a metric is chosen by its name."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import hparams

    experiment, begin, _ = hparams(dict(settings), dict.fromkeys(("validation/loss", "validation/nll", "train/loss"), 0.0))
    return [Event(wall_time=time.time(), summary=summary) for summary in (experiment, begin)]


def _event(step: int, values: Mapping[str, float]) -> Any:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
    return Event(wall_time=time.time(), step=step, summary=summary)
