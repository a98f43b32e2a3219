"""The training loop: fetch, dispatch, log, save, stop. What is scored, and how, is a function it is handed.

Metrics of step n are fetched after step n + 1 is dispatched, so the device never waits for the host.
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, Self

import numpy as np

from transformer.config import Config
from transformer.training.telemetry import Telemetry

Metrics = dict[str, float]
Batch = Mapping[str, np.ndarray]


def means(sums: Mapping[str, float]) -> Metrics:
    """What a report shows of a loss's sums: per unit of weight."""
    weight = max(sums["weight_sum"], 1e-9)
    shown = {"loss": sums["loss_sum"] / weight, "nll": sums["nll_sum"] / weight, "accuracy": sums["correct_sum"] / weight}
    return shown | {name: value for name, value in sums.items() if not name.endswith("_sum")}


class Stop:
    """True once the process was asked to stop (SIGTERM, Ctrl-C). A second time it ends at once. A context manager."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
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
    save: Callable[[int, Any, Metrics], None],
    stop: Stop,
) -> tuple[Any, int]:
    """Updates `first_step` to `config.train.steps`; returns the state and the number of updates done.

    `stop` is looked at after each update; once it is true the state is saved and the loop ends early. `evaluate` gives
    metrics by their full names; `count` what a batch holds: `examples`, `tokens`, `filled`, `slots`.
    """
    settings, waiting, done = config.train, None, first_step
    counts: Counter[str] = Counter()

    def report() -> None:
        if waiting is not None:
            number, metrics, held = waiting
            telemetry.report(number, means(fetch(metrics)), **held)

    for number, batch in enumerate(batches, first_step):
        state, metrics = step(state, place(batch))
        done = number + 1
        telemetry.advance(done)
        report()
        waiting, held = None, count(batch)
        counts.update(examples=held["examples"], tokens=held["tokens"])
        last, stopping = done == settings.steps, bool(stop)  # asked once: a signal may come between saving and leaving
        if done % settings.log_every == 0 or last:
            padding = {"padding_share": 1 - held["filled"] / held["slots"]}
            waiting, counts = (done, metrics | padding, dict(counts)), Counter()
        scoring = done % settings.evaluate_every == 0 or last
        saving = done % config.checkpoint.every_steps == 0 or last or stopping
        if scoring or saving:
            report()
            waiting = None
            with telemetry.paused():
                scores = evaluate(state) if scoring else {}
                if scores:
                    telemetry.score(done, scores)
                if saving:
                    save(done, state, scores)
        if stopping or last:
            break
    report()
    return state, done
