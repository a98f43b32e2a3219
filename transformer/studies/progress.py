"""How far a study is, told while its runs are trained."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformer.runtime.workdir import Workdir
from transformer.studies.outcomes import Outcome
from transformer.studies.plan import Plan, Run, duration
from transformer.training.telemetry import has_bar, make_bar, read_metrics

PERIOD = 60  # seconds between two lines where there is no bar
FIRST = 5  # seconds until the first one


class Progress:
    """How far a study is, in runs and updates: a bar on a terminal, elsewhere a line a minute and for each run that ends."""

    def __init__(self, plan: Plan, stream: TextIO):
        runs = [*plan.search(), *plan.runs(dict.fromkeys(plan.configs, 1.0))]
        self._runs, self._updates = len(runs), sum(run.config.train.steps for run in runs)
        self._known = {(run.part, run.arm, run.seed, self._rate(run)) for run in runs}
        self._first, self._stream = plan.study.metrics[0].label, stream
        self._ended: dict[Run, None] = {}
        self._under_way = self._before = 0  # updates: of runs that are not at their end; of those done before we began
        self._begun: float | None = None
        self._last = time.monotonic() - PERIOD + FIRST  # when a line was written
        self._bar: Any = None

    @staticmethod
    def _rate(run: Run) -> float | None:
        return None if run.part == "study" else run.config.train.learning_rate

    def __enter__(self) -> "Progress":
        if has_bar(self._stream):
            counted = "{task.description}", "{task.completed:.0f}/{task.total:.0f} updates{task.fields[eta]}"
            self._bar = make_bar(self._stream, *counted)
            self._task = self._bar.add_task("", total=self._updates, eta="")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, outcomes: Mapping[Run, Outcome], runs: Sequence[Run]) -> None:
        """What is done already; it does not count to the pace. `runs`: those that are to be done now, some of which may be more
        than were expected."""
        if more := [run for run in runs if (run.part, run.arm, run.seed, self._rate(run)) not in self._known]:
            self._runs, self._updates = self._runs + len(more), self._updates + sum(run.config.train.steps for run in more)
            self._known |= {(run.part, run.arm, run.seed, self._rate(run)) for run in more}
        new = [run for run in outcomes if run not in self._ended]
        self._ended |= dict.fromkeys(new)
        self._before += sum(run.config.train.steps for run in new)
        if self._begun is None:
            self._begun = time.monotonic()
        if new:
            self._say(f"{len(new)} of {self._runs} runs are done already")

    def ended(self, run: Run, result: Outcome) -> None:
        self._ended[run] = None
        self._under_way = 0
        value = result.metrics.get(self._first)
        what = f"{self._first} {value:.4g}" if value is not None else f"{result.status} {result.error}".rstrip()
        search = f" at learning rate {run.config.train.learning_rate:g}" if run.part == "search" else ""
        name = f"{run.arm}, seed {run.seed}{search}"
        self._say(f"{len(self._ended)}/{self._runs} runs  {name}: {what}{self._eta()}")

    def watch(self, active: Mapping[Run, Path]) -> None:
        """Looks how far runs are."""
        if not self._bar and time.monotonic() < self._last + PERIOD:
            return
        rows = [read_metrics(Workdir(folder).metrics_file) for folder in active.values()]
        self._under_way = sum(each[-1]["step"] for each in rows if each)
        done = f"{len(self._ended)}/{self._runs} runs"
        if not self._bar:
            at = ", ".join(f"{run.arm}, seed {run.seed}" for run in active)
            self._say(f"{done}, {self._done():,}/{self._updates:,} updates, now {at or 'between two runs'}{self._eta()}")
        else:
            self._bar.update(self._task, description=done, completed=self._done(), eta=self._eta())

    def _done(self) -> int:
        return sum(run.config.train.steps for run in self._ended) + self._under_way

    def _eta(self) -> str:
        done = self._done()
        if self._begun is None or done <= self._before or done >= self._updates:
            return ""
        return f"  ETA {duration((time.monotonic() - self._begun) / (done - self._before) * (self._updates - done))}"

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)
