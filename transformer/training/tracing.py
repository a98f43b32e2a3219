"""A trace of some updates, for Perfetto or TensorBoard, with the work of device and host over time."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from transformer.errors import UserError
from transformer.training.telemetry import Telemetry

Step = Callable[[Any, Any], tuple[Any, Any]]


def updates(text: str, steps: int) -> range:
    """The updates of `--profile=text`, FIRST:LAST, both included, numbered within the whole run. UserError: the run does not
    have them."""
    found = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    if found is None or not 1 <= (first := int(found[1])) <= (last := int(found[2])):
        raise UserError(f"--profile={text}: expected FIRST:LAST, the numbers of two updates, such as 100:105")
    if last > steps:
        raise UserError(f"--profile={text}: the run ends with update {steps:,}; name earlier ones or raise config.train.steps")
    return range(first, last + 1)


@contextlib.contextmanager
def traced(step: Step, done: int, wanted: range, folder: Path, telemetry: Telemetry) -> Iterator[Step]:
    """`step` of a run with `done` finished updates, wrapped so that it writes a trace of the updates `wanted` into `folder`.

    It waits for everything that was dispatched before, and for these updates, so the trace has exactly these updates. If the
    run ends early, the trace has the updates up to that point. Writing takes seconds, which are not counted as training.
    """
    number, begun = done, 0
    if wanted[-1] <= done:
        telemetry.note(f"no trace: update {wanted[-1]:,} is done already")

    def end() -> None:
        nonlocal begun
        first, begun = begun, 0
        with telemetry.paused():
            jax.profiler.stop_trace()
        [*_, trace] = sorted(folder.glob("plugins/profile/*/perfetto_trace.json.gz"))
        telemetry.note(
            f"trace of updates {first:,} to {number:,}: open {trace} at https://ui.perfetto.dev, "
            f"or see tensorboard --logdir={folder} (pip install tensorboard xprof)"
        )

    def call(state: Any, batch: Any) -> tuple[Any, Any]:
        nonlocal number, begun
        number += 1
        if number in wanted and not begun:
            jax.block_until_ready(state)
            with telemetry.paused():
                jax.profiler.start_trace(folder, create_perfetto_trace=True)
            begun = number
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            state, metrics = step(state, batch)
        if begun and number == wanted[-1]:
            jax.block_until_ready((state, metrics))
            end()
        return state, metrics

    try:
        yield call
    finally:
        if begun:
            end()
