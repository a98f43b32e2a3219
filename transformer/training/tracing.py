"""A trace of some updates, for Perfetto or TensorBoard: what device and host did, and when."""

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
    """The updates of `--profile=text`, FIRST:LAST, both included, numbered in the whole run. UserError: it has no such ones."""
    found = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    if found is None or not 1 <= (first := int(found[1])) <= (last := int(found[2])):
        raise UserError(f"--profile={text}: wants FIRST:LAST, the numbers of two updates, such as 100:105")
    if last > steps:
        raise UserError(f"--profile={text}: the run ends with update {steps:,}; name earlier ones or raise config.train.steps")
    return range(first, last + 1)


@contextlib.contextmanager
def traced(step: Step, done: int, wanted: range, folder: Path, telemetry: Telemetry) -> Iterator[Step]:
    """`step` of a run of which `done` updates are done, which writes a trace of the updates `wanted` into `folder`.

    Whatever was dispatched before is waited for, and so are these updates: the trace has all of them and nothing else. A run
    that ends between has a trace of those that it came to. Writing takes seconds, which are not counted as training.
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
