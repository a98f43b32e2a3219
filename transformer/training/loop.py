"""The training loop: fetch, dispatch, log, save, stop. Callbacks of the run score and save.

Metrics of step n are fetched after step n + 1 is dispatched, so that the device never waits for the host. The loop is a
generator that asks for each of its updates, so that one program can make the updates of several runs (vmap_seeds.py).
"""

import dataclasses
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple, Self, TypeVar

import jax
import numpy as np

from transformer.config import Config
from transformer.errors import UserError, counted
from transformer.models import penalties
from transformer.runtime import compilations, hosts
from transformer.training.monitor import Monitor
from transformer.training.telemetry import Telemetry

SPARE = 3  # updates that may compile in addition to one for each batch shape: the first states of a run differ slightly
Metrics = dict[str, float]
Batch = Mapping[str, np.ndarray]
T = TypeVar("T")


class Update(NamedTuple):
    """A request of a run for the result of `step(state, batch)`."""

    step: Callable[[Any, Any], tuple[Any, Any]]
    state: Any
    batch: Any


# Yields the updates that it requests, and is sent their results: state, metrics, whether the call waited for the compiler.
Run = Generator[Update, tuple[Any, Any, bool], T]


def alone(run: Run[T]) -> T:
    """Computes each update that the run requests, one by one; returns the result of the run."""
    try:
        asked = next(run)
        while True:
            before = compilations.count()
            try:
                state, metrics = asked.step(asked.state, asked.batch)
            except BaseException as error:
                asked = run.throw(error)
            else:
                asked = run.send((state, metrics, compilations.count() > before))
    except StopIteration as end:
        return end.value


def means(sums: Mapping[str, float]) -> Metrics:
    """The metrics of a report from a loss's sums: means per unit of weight."""
    weight = max(sums["weight_sum"], 1e-9)
    names = {"loss": "loss_sum", "nll": "nll_sum", "accuracy": "correct_sum"}  # a fused loss has no `correct_sum`
    shown = {name: sums[each] / weight for name, each in names.items() if each in sums}
    return shown | penalties.means(sums, weight) | {name: value for name, value in sums.items() if not name.endswith("_sum")}


class Stop:
    """True once the process was asked to stop (SIGTERM, Ctrl-C), or after `minutes`; a second signal ends the
    process immediately. A context manager that several runs may enter."""

    def __init__(self, minutes: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.asked, self._clock, self._inside = False, clock, 0
        self._end = math.inf if minutes is None else clock() + 60 * minutes

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._end

    def __bool__(self) -> bool:
        return self.asked or self.late

    def __enter__(self) -> Self:
        if self._inside == 0:
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        self._inside += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._inside -= 1
        if self._inside == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True


def _until_stopped(batches: Iterable[Batch], stop: Stop) -> Iterator[Batch]:
    """The batches. If reading them fails after a stop was asked for, such as by a signal to all processes, they end."""
    try:
        yield from batches
    except Exception:
        if not stop:
            raise


class Callbacks:
    """The callbacks of a run. `state` and `batch` are as the runtime places them."""

    def begin(self, state: Any, batch: Any) -> Metrics:
        """Metrics, by their full names, of the state before update 1 and the batch of that update."""
        return {}

    def count(self, batch: Batch) -> Mapping[str, int]:
        """The counts of a batch: `examples`, `tokens`, `filled` and `slots`."""
        raise NotImplementedError

    def evaluate(self, state: Any) -> Metrics:
        """Validation metrics, by their full names."""
        return {}

    def save(self, step: int, state: Any, metrics: Metrics, periodic: bool) -> None:
        """Saves the state after `step` updates. `periodic`: the checkpoint is one of `config.checkpoint.every_steps`."""

    def keep_batch(self, step: int, batch: Batch) -> str:
        """Writes the batch of an update that was not finite; returns the name of the file."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, for the loop. `step(state, batch) -> state, metrics`. `runtime` has `place_batch`, `fetch` and `asked`."""

    config: Config
    runtime: Any
    step: Callable[[Any, Any], tuple[Any, Any]]
    callbacks: Callbacks
    telemetry: Telemetry
    monitor: Monitor
    stop: Stop


class _Skipped:
    """Detects updates that were skipped because they were not finite. It checks one update late, so that it does not wait."""

    def __init__(self, job: Job) -> None:
        self._job, self._last, self._in_a_row = job, None, 0

    def add(self, step: int, batch: Batch, flag: Any) -> None:
        """Checks the previous update, and remembers this one, whose `flag` is known later."""
        self.look()
        self._last = step, batch, flag

    def look(self) -> None:
        """UserError: more than `config.train.max_skipped` updates in a row were skipped."""
        if self._last is None:
            return
        (step, batch, flag), self._last = self._last, None
        if not self._job.runtime.fetch({"skipped": flag})["skipped"]:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self._job.telemetry.skipped(step)
        most = self._job.config.train.max_skipped
        if self._in_a_row > most:
            raise UserError(
                f"loss or gradient was not finite in {counted(self._in_a_row, 'update')} in a row, the last {step} "
                f"(config.train.max_skipped {most}); its batch is {self._job.callbacks.keep_batch(step, batch)}; the last "
                "checkpoint is good: --config.train.debug_nans=true names the operation, a lower learning rate may avoid it"
            )


def train(
    job: Job, state: Any, first_step: int, batches: Iterable[Batch], held_before: Mapping[str, int] | None = None
) -> Run[tuple[Any, int]]:
    """Updates `first_step` to `config.train.steps`; returns the state and the number of updates done.

    After each update `job.stop` is read; once it is true the state is saved and the loop ends early. The same holds once
    `job.monitor`, which also says which validations are among the best, is exhausted. `held_before`: `filled` and `slots` of
    the updates between the last report and `first_step`, so that a resumed run reports the same padding as an unbroken one.
    With several processes, each runs this loop. UserError: too many updates in a row were skipped.
    """
    config, settings, runtime, callbacks = job.config, job.config.train, job.runtime, job.callbacks
    telemetry, monitor, skipped = job.telemetry, job.monitor, _Skipped(job)
    waiting, done, saved = None, first_step, first_step
    counts: Counter[str] = Counter(held_before or {})  # of the batches since the last report

    # How many processes read each row: several if a layout splits parameters over them.
    copies = hosts.total({"rows": len(runtime.share[0])})["rows"] // runtime.share[1] if jax.process_count() > 1 else 1

    def report() -> None:
        if waiting is not None:
            number, metrics, held = waiting
            held = hosts.total(held)
            padding = {"padding_share": 1 - held["filled"] / held["slots"]}
            tokens, examples = (held[name] // copies for name in ("tokens", "examples"))
            telemetry.report(number, means(runtime.fetch(metrics) | padding), tokens=tokens, examples=examples)

    # Updates that had to wait for the compiler, and how many are due: one for each shape of batches.
    compiled, shapes = 0, config.data.buckets if config.data.batching == "bucketed" else 1
    for number, batch in enumerate(telemetry.awaited(_until_stopped(batches, job.stop)), first_step):
        placed = runtime.place_batch(batch)
        if number == 0 and (found := callbacks.begin(state, placed)):
            telemetry.score(0, found)
        state, metrics, waited = yield Update(job.step, state, placed)
        done = number + 1
        telemetry.advance(done)
        if waited:
            compiled += 1
            if compiled == shapes + SPARE:
                telemetry.recompiled(done, compiled, shapes)
        report()
        skipped.add(done, batch, metrics.pop("skipped"))
        waiting = None
        counts.update(callbacks.count(batch))
        # Read once for each update: a signal may arrive between saving and leaving.
        last, stopping = done == settings.steps, runtime.asked(bool(job.stop))
        if done % settings.log_every == 0 or last:
            waiting, counts = (done, metrics | {"compilations": compiled}, counts), Counter()
        scoring = done % settings.evaluate_every == 0 or last
        periodic = done % config.checkpoint.every_steps == 0
        if scoring or periodic or stopping:
            report()
            skipped.look()
            waiting = None
            with telemetry.paused():
                scores = callbacks.evaluate(state) if scoring else {}
                if scores:
                    telemetry.score(done, scores)
                among_best = monitor.see(done, scores)
                if among_best or periodic or last or stopping or monitor.exhausted:
                    callbacks.save(done, state, scores, periodic)
                    saved = done
        if stopping or last or monitor.exhausted:
            break
    report()
    skipped.look()
    if saved < done:  # the reader failed after a stop was asked for
        with telemetry.paused():
            callbacks.save(done, state, {}, False)
    return state, done
