"""The training loop: fetch, dispatch, log, save, stop. What is scored, and how, is a function it is handed.

Metrics of step n are fetched after step n + 1 is dispatched, so the device never waits for the host.
"""

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from types import FrameType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from transformer.config import Config
from transformer.errors import UserError, counted
from transformer.models import penalties
from transformer.runtime import compilations
from transformer.training.monitor import Monitor
from transformer.training.telemetry import Telemetry

SPARE = 3  # updates that may compile beyond one for each shape of batches; the first states of a run differ in small ways
Metrics = dict[str, float]
Batch = Mapping[str, np.ndarray]
T = TypeVar("T")


class Update(NamedTuple):
    """What a run asks for: `step(state, batch)`."""

    step: Callable[[Any, Any], tuple[Any, Any]]
    state: Any
    batch: Any


# Training that asks for its updates, and is sent what came of each: state, metrics, whether it waited for the compiler.
Run = Generator[Update, tuple[Any, Any, bool], T]


def alone(run: Run[T]) -> T:
    """What the run returns, each of its updates made when it asks."""
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
    """What a report shows of a loss's sums: per unit of weight."""
    weight = max(sums["weight_sum"], 1e-9)
    shown = {"loss": sums["loss_sum"] / weight, "nll": sums["nll_sum"] / weight, "accuracy": sums["correct_sum"] / weight}
    return shown | penalties.means(sums, weight) | {name: value for name, value in sums.items() if not name.endswith("_sum")}


class Stop:
    """True once the process was asked to stop (SIGTERM, Ctrl-C), or `minutes` after it was made. Asked a second time, it ends
    at once. A context manager, which several runs may be in."""

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


def train(
    config: Config,
    state: Any,
    first_step: int,
    batches: Iterable[Batch],
    telemetry: Telemetry,
    *,
    step: Callable[[Any, Any], tuple[Any, Any]],
    place: Callable[[Batch], Any],
    fetch: Callable[[Any], Metrics],
    count: Callable[[Batch], Mapping[str, int]],
    evaluate: Callable[[Any], Metrics],
    save: Callable[[int, Any, Metrics, bool], None],
    keep: Callable[[int, Batch], str],
    stop: Stop,
    monitor: Monitor,
    agree: Callable[[bool], bool] = bool,
    total: Callable[[Mapping[str, int]], Mapping[str, int]] = dict,
    begin: Callable[[Any, Any], Metrics] | None = None,
    held_before: Mapping[str, int] | None = None,
) -> Run[tuple[Any, int]]:
    """Updates `first_step` to `config.train.steps`; returns the state and the number of updates done.

    `stop` is looked at after each update; once it is true the state is saved and the loop ends early. The same holds once
    the `monitor` of validations is exhausted; it also says which validations are saved because they are among the best.
    `save` is given the step, the state, its scores, and whether the checkpoint is a periodic one. `evaluate` gives metrics by
    their full names, and so does `begin`, of the state before update 1 and that update's placed batch; `count` what a batch
    holds: `examples`, `tokens`, `filled`, `slots`. `held_before`: `filled` and `slots` of the updates between the last report
    and `first_step`, so that a resumed run reports the same padding as an unbroken one. Of several processes each runs this
    loop: `agree` makes one answer of theirs whether to stop, `total` one sum of their counts. UserError: more updates than
    `config.train.max_skipped` in a row were skipped; `keep` writes the last one's batch and says where.
    """
    settings, waiting, done = config.train, None, first_step
    counts: Counter[str] = Counter(held_before or {})  # of the batches since the last report
    looked_at: tuple[int, Batch, Any] | None = None  # the last update, of which is not known yet whether it was skipped
    in_a_row = 0

    def look() -> None:
        """At whether the last update was skipped."""
        nonlocal in_a_row, looked_at
        if looked_at is None:
            return
        (number, batch, flag), looked_at = looked_at, None
        if not fetch({"skipped": flag})["skipped"]:
            in_a_row = 0
            return
        in_a_row += 1
        telemetry.skipped(number)
        if in_a_row > settings.max_skipped:
            raise UserError(
                f"loss or gradient was not finite in {counted(in_a_row, 'update')} in a row, the last {number} "
                f"(config.train.max_skipped {settings.max_skipped}); its batch is {keep(number, batch)}; the last checkpoint "
                "is good: --config.train.debug_nans=true names the operation, a lower learning rate may avoid it"
            )

    def report() -> None:
        if waiting is not None:
            number, metrics, held = waiting
            held = total(held)
            padding = {"padding_share": 1 - held["filled"] / held["slots"]}
            telemetry.report(number, means(fetch(metrics) | padding), tokens=held["tokens"], examples=held["examples"])

    # Updates that had to wait for the compiler, and how many are due: one for each shape of batches.
    compiled, shapes = 0, config.data.buckets if config.data.batching == "bucketed" else 1
    for number, batch in enumerate(telemetry.awaited(batches), first_step):
        placed = place(batch)
        if begin is not None and number == 0:
            telemetry.score(0, begin(state, placed))
        state, metrics, waited = yield Update(step, state, placed)
        done = number + 1
        telemetry.advance(done)
        if waited:
            compiled += 1
            if compiled == shapes + SPARE:
                telemetry.recompiled(done, compiled, shapes)
        report()
        look()
        looked_at = done, batch, metrics.pop("skipped")
        waiting = None
        counts.update(count(batch))
        last, stopping = done == settings.steps, agree(bool(stop))  # asked once: a signal may come between saving and leaving
        if done % settings.log_every == 0 or last:
            waiting, counts = (done, metrics | {"compilations": compiled}, counts), Counter()
        scoring = done % settings.evaluate_every == 0 or last
        periodic = done % config.checkpoint.every_steps == 0
        if scoring or periodic or stopping:
            report()
            look()
            waiting = None
            with telemetry.paused():
                scores = evaluate(state) if scoring else {}
                if scores:
                    telemetry.score(done, scores)
                among_best = monitor.see(done, scores)
                if among_best or periodic or last or stopping or monitor.exhausted:
                    save(done, state, scores, periodic)
        if stopping or last or monitor.exhausted:
            break
    report()
    look()
    return state, done
