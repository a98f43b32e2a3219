"""The training loop: fetch, dispatch, log, save, stop. What is scored, and how, is a function it is handed.

Metrics of step n are fetched after step n + 1 is dispatched, so the device never waits for the host.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from transformer.config import Config

Metrics = dict[str, float]


def means(sums: Mapping[str, float]) -> Metrics:
    """What a report shows of a loss's sums: per unit of weight."""
    weight = max(sums["weight_sum"], 1e-9)
    shown = {"loss": sums["loss_sum"] / weight, "nll": sums["nll_sum"] / weight, "accuracy": sums["correct_sum"] / weight}
    return shown | {name: value for name, value in sums.items() if not name.endswith("_sum")}


def train(
    config: Config,
    state: Any,
    first_step: int,
    batches: Iterator[Mapping[str, np.ndarray]],
    *,
    step: Callable[[Any, Any], tuple[Any, Any]],
    place: Callable[[Mapping[str, np.ndarray]], Any],
    fetch: Callable[[Any], Metrics],
    report: Callable[[int, Metrics, Mapping[str, np.ndarray]], None],
    evaluate: Callable[[Any], Metrics],
    save: Callable[[int, Any, Metrics | None], None],
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Any, int]:
    """Updates `first_step` to `config.train.steps`; returns the state and the number of updates done.

    `stop` is asked after each update; when it says so, the state is saved and the loop ends early.
    """
    train, waiting, done = config.train, None, first_step
    for number, batch in enumerate(batches, first_step):
        state, metrics = step(state, place(batch))
        done = number + 1
        if waiting is not None:
            report(waiting[0], means(fetch(waiting[1])), waiting[2])
        last = done == train.steps
        waiting = (done, metrics, batch) if done % train.log_every == 0 or last else None
        stopping = stop()
        scored = None
        if done % train.evaluate_every == 0 or last:
            scored = evaluate(state)
        if done % config.checkpoint.every_steps == 0 or last or stopping:
            save(done, state, scored)
        if stopping or last:
            break
    if waiting is not None:
        report(waiting[0], means(fetch(waiting[1])), waiting[2])
    return state, done
