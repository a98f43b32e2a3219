"""Trains several seeds of one arm at once: one vmapped program updates them all.

Each seed is a run with its own data, logs and checkpoints, and has the results of a run alone, up to rounding.
"""

import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from transformer.errors import UserError
from transformer.runtime import compilations
from transformer.runtime.devices import Runtime
from transformer.runtime.vmap_seeds import VmapSeeds
from transformer.training.loop import Run, Update


class OnHost:
    """A runtime whose batches stay on the host, where those of all seeds are stacked."""

    def __init__(self, runtime: Runtime) -> None:
        self.place_batch, self.fetch, self.asked = dict, runtime.fetch, runtime.asked


def train(runs: Mapping[int, Run], redirect: Mapping[int, Callable[[], AbstractContextManager[Any]]]) -> list[int]:
    """Trains every run, by its seed, to its end; returns the seeds that failed. A failure does not end the other runs.

    `redirect`: returns a context that is entered whenever a run continues, so that its output goes to its own log.
    """
    waiting: dict[int, Update] = {}
    failed: list[int] = []
    stack: VmapSeeds | None = None

    def resume(seed: int, how: Callable[[], Update]) -> None:
        waiting.pop(seed, None)
        with redirect[seed]():
            try:
                waiting[seed] = how()
            except StopIteration:
                return
            except UserError as error:
                print(error)
                failed.append(seed)
            except Exception:
                traceback.print_exc()
                failed.append(seed)

    for seed, run in runs.items():
        resume(seed, lambda run=run: next(run))
    while waiting:
        stack = stack or VmapSeeds(next(iter(waiting.values())).step)
        before = compilations.count()
        try:
            made = stack.update({seed: (update.state, update.batch) for seed, update in waiting.items()})
        except Exception as error:  # raised in every run
            for seed in list(waiting):
                resume(seed, lambda seed=seed, error=error: runs[seed].throw(error))
            continue
        waited = compilations.count() > before
        for seed, (state, metrics) in made.items():
            result = (state, metrics, waited)
            resume(seed, lambda seed=seed, result=result: runs[seed].send(result))
    return failed
