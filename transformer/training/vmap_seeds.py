"""Seeds of one arm side by side: each is a run with its own data, reports and checkpoints; one program makes their updates.

Results are those of the run alone, up to rounding.
"""

import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from transformer.errors import UserError
from transformer.runtime import compilations
from transformer.runtime.vmap_seeds import VmapSeeds
from transformer.training.loop import Run, Update


def train(runs: Mapping[int, Run], told: Mapping[int, Callable[[], AbstractContextManager[Any]]]) -> list[int]:
    """Each run, by its seed, to its end; returns the seeds of those that failed, which do not end the others. `told`: what is
    entered whenever a run goes on, so that what it says goes where it should."""
    waiting: dict[int, Update] = {}
    failed: list[int] = []
    stack: VmapSeeds | None = None

    def go_on(seed: int, how: Callable[[], Update]) -> None:
        waiting.pop(seed, None)
        with told[seed]():
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
        go_on(seed, lambda run=run: next(run))
    while waiting:
        stack = stack or VmapSeeds(next(iter(waiting.values())).step)
        before = compilations.count()
        try:
            made = stack.update({seed: (update.state, update.batch) for seed, update in waiting.items()})
        except Exception as error:  # all of them have met it
            for seed in list(waiting):
                go_on(seed, lambda seed=seed, error=error: runs[seed].throw(error))
            continue
        waited = compilations.count() > before
        for seed, (state, metrics) in made.items():
            result = (state, metrics, waited)
            go_on(seed, lambda seed=seed, result=result: runs[seed].send(result))
    return failed
