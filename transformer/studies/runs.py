"""Runs of a plan, several at a time; results.csv is updated as they end.

A run is an ordinary workdir, so it can be resumed, and its state is read only from there: nothing is lost if the process of the
study ends. A `Place` (workers.py) executes runs, here or on a cluster. Shared work is done once: one training for all runs that
differ only in how the model is scored, and one vocabulary and tokenization for all runs that read the same data.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformer import settings
from transformer.config import Config, Evaluate, Search
from transformer.data import sources
from transformer.data.sources.records import read_synthetic
from transformer.errors import UserError
from transformer.files import new_folder
from transformer.runtime.lock import only_run
from transformer.runtime.workdir import Workdir, write_json
from transformer.studies import findings, results, workers
from transformer.studies.plan import Pace, Plan, Run, duration, record
from transformer.studies.results import Outcome, run_file
from transformer.studies.study import Metric
from transformer.studies.workers import Place, StartedRun, Train
from transformer.training.loop import Stop
from transformer.training.telemetry import has_bar, make_bar, read_metrics

MEASURED = 12  # updates of each arm in a dry run


@dataclasses.dataclass(frozen=True)
class Results:
    """Outcomes so far. `stopped`: whether some runs are not done because the process was asked to stop."""

    outcomes: Mapping[Run, Outcome]
    stopped: bool


def run_all(plan: Plan, root: Path, train: Train, place: Place, stream: TextIO | None = None) -> Results:
    """Trains all missing runs, and keeps `root`/results.csv up to date.

    Finished runs are not repeated, and the rows of those whose workdirs are gone are kept. Stopped runs are resumed; failed
    runs are tried again. UserError: `root` cannot be written, or another process uses it.
    """
    study = plan.study
    found: dict[Run, Outcome] = {}
    with only_run(root), Stop() as stop, contextlib.closing(place):
        rows = results.kept(plan, root)
        same = {run: run for run in rows}  # with the hash in the name of its workdir
        progress = Progress(plan, stream or sys.stderr)

        def ended(run: Run, result: Outcome) -> None:
            found[run] = result
            results.write(plan, root, found, rows)
            progress.ended(run, result)

        def look(runs: Sequence[Run], metrics: Sequence[Metric]) -> None:
            """Reads the outcomes of runs that have ended."""
            for run in runs:
                result = results.read_workdir(run.folder(root), run.config, metrics, study.max_rise)
                if run in rows and (row := results.outcome(rows[run], metrics)):
                    result = dataclasses.replace(row, metrics={**(result.metrics if result else {}), **row.metrics})
                if result:
                    found[run] = result

        def all_of(runs: Sequence[Run], metrics: Sequence[Metric]) -> None:
            runs = [same.get(run, run) for run in runs]
            look([run for run in runs if run not in rows], metrics)
            progress.begin(found, runs)
            results.write(plan, root, found, rows)
            _execute(missing(runs), root, train, place, metrics, stop, ended, progress.watch, study.max_rise)

        def missing(runs: Sequence[Run]) -> list[Run]:
            """Those that have not ended: a study that was stopped may lack some seeds of a rate beyond the grid."""
            return [run for run in runs if run not in found]

        look(list(rows), results.columns(study))
        record(study, root, len(rows))
        with progress:
            tried = plan.search()
            while tried and not stop:
                all_of(tried, [*study.metrics, results.chooser(study)])
                ended_runs = results.tried(study, found)
                begun = plan.search(results.rates_tried(ended_runs))
                tried = missing(begun) or missing(plan.search(results.extended_grids(study, ended_runs)))
            rates = results.choose(study, results.tried(study, found))
            if not stop:
                _check_rates(root, rows, rates)
                all_of(plan.runs(rates), study.metrics)
            begun = any(run.part == "study" for run in found)  # not if all arms lost a run of their search
            if not stop and begun and (seeds := findings.seeds_needed(study, root)) > study.seeds:
                all_of(plan.runs(rates, seeds), study.metrics)
    return Results(found, bool(stop))


def _check_rates(root: Path, rows: Iterable[Run], rates: Mapping[str, float]) -> None:
    """UserError: finished runs of an arm have another learning rate than the one that the search chooses now."""
    for run in rows:
        if run.part == "study" and run.arm in rates and run.config.train.learning_rate != rates[run.arm]:
            raise UserError(
                f"{root / results.NAME}: finished runs of arm {run.arm!r} have the learning rate "
                f"{run.config.train.learning_rate:g}, and the search now chooses {rates[run.arm]:g}; set config.learning_rates "
                "back, or remove their rows, to train them again"
            )


def _execute(
    waiting: list[Run],
    root: Path,
    train: Train,
    place: Place,
    metrics: Sequence[Metric],
    stop: Stop,
    ended: Callable[[Run, Outcome], None],
    watch: Callable[[Mapping[Run, Path]], None],
    max_rise: float,
) -> None:
    """Executes all of `waiting`, as many at a time as `place` has room for. Once `stop` is true, active runs are asked to save
    and end."""

    def compiled(run: Run) -> bool:
        return place.has_compiled(_placed(run.config, root))

    active: dict[Run, StartedRun] = {}
    asked = False
    try:
        while active or (waiting and not stop):
            while (
                len(_each(active)) < place.most and not stop and (chosen := next_runs(waiting, active, place.seeds, compiled))
            ):
                for run in chosen:
                    waiting.remove(run)
                    copy_shared(_placed(run.config, root), run.folder(root))
                process = place.start(train, {run.folder(root): _placed(run.config, root) for run in chosen})
                active.update(dict.fromkeys(chosen, process))
            place.wait(_each(active), 0.5)
            if stop and not asked:
                asked = True
                for process in _each(active):
                    process.terminate()
            for run, process in list(active.items()):
                if process.is_alive():
                    continue
                del active[run]
                found = results.read_workdir(run.folder(root), run.config, metrics, max_rise)
                if found or not stop:
                    ended(run, found or _failed(run.folder(root), process.exitcode))
            watch({run: run.folder(root) for run in active})
    finally:
        for process in _each(active):  # some are left only after an error in this process
            process.kill()


def _each(active: Mapping[Run, StartedRun]) -> list[StartedRun]:
    """Each process once: several runs may share one."""
    return list({id(process): process for process in active.values()}.values())


def _placed(config: Config, root: Path) -> Config:
    """The run with the data of a synthetic task in a folder for all runs, so that only the first run generates it."""
    synthetic = sources.SOURCES[config.data.source] is read_synthetic and config.data.directory is None
    data = dataclasses.replace(config.data, directory=str((root / "data").resolve())) if synthetic else config.data
    return dataclasses.replace(config, data=sources.resolve_paths(data))


def _failed(folder: Path, status: int | None) -> Outcome:
    """The error of a process that ended before its run was finished. One that a signal ended says nothing about its loss: it is
    trained again even if the last update was skipped."""
    if status is not None and status < 0:
        memory = "; was there too little memory?" if -status == signal.SIGKILL else ""
        return Outcome("failed", error=f"ended by signal {signal.Signals(-status).name}{memory}")
    if results.diverged(read_metrics(Workdir(folder).metrics_file)):
        return Outcome("diverged")
    lines = run_file(folder, ".log").read_text(encoding="utf-8", errors="replace").split("\n")
    return Outcome("failed", error=next((line.strip() for line in reversed(lines) if line.strip()), f"ended with {status}"))


# --- a dry run's measurement -------------------------------------------------------------------------------------------


def measure(config: Config, train: Train) -> Pace | str:
    """The pace of an arm, measured in a few updates in a temporary folder, or the last line of its error."""
    updates = min(MEASURED, config.train.steps)
    changes = {"train.log_every": 1, "train.evaluate_every": max(1, updates // 2)}
    for name, value in changes.items():
        config = settings.replace(config, name, value)
    with tempfile.TemporaryDirectory() as place:
        folder, begun = Path(place) / "run", time.monotonic()
        process = workers.start(train, _placed(config, Path(place)), folder)
        try:
            while True:
                over = process.exitcode is not None
                rows = [row for row in read_metrics(Workdir(folder).metrics_file) if row["step"] <= updates]
                trained = {row["step"]: row["time"] for row in rows if "train/loss" in row}
                validated = {row["step"]: row["time"] for row in rows if "validation/loss" in row}
                if updates in trained and (updates in validated or config.data.validation is None):
                    return _pace(trained, validated, time.monotonic() - begun)
                if over:
                    return _failed(folder, process.exitcode).error or "its loss is not finite"
                process.join(0.1)
        finally:
            process.kill()
            process.join()


def _pace(trained: Mapping[int, float], validated: Mapping[int, float], seconds: float) -> Pace:
    """The pace, from the times at which updates and validations were reported, by step. Compilation counts as start."""
    updates = max(trained)
    steady = [step for step in trained if step > updates // 2 + 1] if updates > 3 else [s for s in trained if s > 1]
    update = statistics.median(trained[step] - trained[step - 1] for step in steady) if steady else 0.0
    validation = validated[updates] - trained[updates] if validated else None
    once = seconds - updates * update - len(validated) * (validation or 0.0)
    return Pace(max(once, 0.0), update, validation)


# --- work that runs share ----------------------------------------------------------------------------------------------


def next_runs(
    waiting: Sequence[Run], active: Collection[Run], seeds: int, compiled: Callable[[Run], bool] = lambda run: False
) -> list[Run]:
    """The first run that does not wait for the training of an active run, and others that differ from it only in their seeds,
    at most `seeds` in all; [] if there is none. A run with the first one's seed goes before it if it is `compiled`."""
    busy = [_training(other.config) for other in active]
    free = [run for run in waiting if _training(run.config) not in busy]
    if not free:
        return []
    first = next((run for run in free if run.seed == free[0].seed and compiled(run)), free[0])
    return [first, *(run for run in free if run != first and _without_seed(run.config) == _without_seed(first.config))][:seeds]


def copy_shared(config: Config, folder: Path) -> None:
    """Fills `folder`, the workdir of a run that has not begun, from other runs of the study. If one of them has the same
    training, it is copied without scores, and its time is counted for this run too. Otherwise, if one has the same data, they
    are copied."""
    if folder.exists():
        return
    prepared = None
    for file in sorted(folder.parents[1].glob(f"*/*/{Workdir(folder).config_file.name}")):
        other = Workdir(file.parent)
        try:
            made = other.config()
        except UserError:  # of a variant's file that has changed since
            continue
        if (other.checkpoints / str(config.train.steps)).is_dir() and _training(made) == _training(config):
            scores = (other.evaluation_file("test").parent, other.pictures)
            with new_folder(folder) as new:
                shutil.copytree(other.path, new, ignore=shutil.ignore_patterns(*(p.name for p in scores)), dirs_exist_ok=True)
                write_json(Workdir(new).config_file, settings.to_dict(config))
                Workdir(new).keep_variants(config)
            if (seconds := run_file(other.path, ".seconds")).exists():
                shutil.copy(seconds, run_file(folder, ".seconds"))
            return
        if other.data_info_file.exists() and other.tokens.is_dir() and _data(made) == _data(config):
            prepared = other
    if prepared is not None and config.train.init_from is config.train.branch_from is None:
        with new_folder(folder) as new:
            begun = Workdir(new)
            shutil.copytree(prepared.vocabulary, begun.vocabulary)
            shutil.copytree(prepared.tokens, begun.tokens, copy_function=_link)
            if prepared.config().data == config.data:  # otherwise the longest output may differ
                shutil.copy(prepared.data_info_file, begun.data_info_file)
            begun.keep_variants(config)
            write_json(begun.config_file, settings.to_dict(config))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copy(source, target)


def _data(config: Config) -> tuple[object, ...]:
    """The settings that determine the vocabulary and the tokens. The search for a learning rate has no test split."""
    return config.family, config.objective, config.train.init_from, dataclasses.replace(config.data, test=None)


def _without_seed(config: Config) -> Config:
    """The settings that all seeds of an arm share."""
    return settings.replace(config, "train.seed", 0)


def _training(config: Config) -> Config:
    """The settings that determine the training of a run; all others have their defaults."""
    return dataclasses.replace(config, evaluate=Evaluate(), search=Search())


# --- progress ----------------------------------------------------------------------------------------------------------


PERIOD = 60  # seconds between two lines where there is no bar
FIRST = 5  # seconds until the first one


class Progress:
    """Progress of a study in runs and updates: a bar on a terminal, otherwise a line every minute and for each run that
    ends."""

    def __init__(self, plan: Plan, stream: TextIO):
        runs = [*plan.search(), *plan.runs(dict.fromkeys(plan.configs, 1.0))]
        self._runs, self._updates = len(runs), sum(run.config.train.steps for run in runs)
        self._known = {(run.part, run.arm, run.seed, self._rate(run)) for run in runs}
        self._first, self._stream = plan.study.metrics[0].label, stream
        self._ended: dict[Run, None] = {}
        self._under_way: dict[Run, int] = {}  # updates of active runs
        self._found: dict[Run, int] = {}  # updates of each run that were done when it was started
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
        """Sets what is done already, which does not count for the pace. `runs`: the next runs. Some of either may not be
        expected, because a grid of learning rates was extended."""
        for run in (*outcomes, *runs):
            if (key := (run.part, run.arm, run.seed, self._rate(run))) not in self._known:
                self._known.add(key)
                self._runs, self._updates = self._runs + 1, self._updates + run.config.train.steps
        new = [run for run in outcomes if run not in self._ended]
        self._ended |= dict.fromkeys(new)
        self._found |= {run: run.config.train.steps for run in new}
        if self._begun is None:
            self._begun = time.monotonic()
        if new:
            self._say(f"{len(new)} of {self._runs} runs are done already")

    def ended(self, run: Run, result: Outcome) -> None:
        self._ended[run] = None
        self._under_way.pop(run, None)
        value = result.metrics.get(self._first)
        what = f"{self._first} {value:.4g}" if value is not None else f"{result.status} {result.error}".rstrip()
        search = (
            f" at learning rate {run.config.train.learning_rate:g}"
            if run.part != "study" and run.config.train.learning_rate
            else ""
        )
        name = f"{run.arm}, seed {run.seed}{search}"
        self._say(f"{len(self._ended)}/{self._runs} runs  {name}: {what}{self._eta()}")

    def watch(self, active: Mapping[Run, Path]) -> None:
        """Reads the progress of runs."""
        for run in active:
            if run not in self._found:  # a resumed run has some updates already
                self._found[run] = _step(active[run])
        if not self._bar and time.monotonic() < self._last + PERIOD:
            return
        self._under_way = {run: _step(folder) for run, folder in active.items()}
        done = f"{len(self._ended)}/{self._runs} runs"
        if not self._bar:
            at = ", ".join(f"{run.arm}, seed {run.seed}" for run in active)
            self._say(f"{done}, {self._done():,}/{self._updates:,} updates, now {at or 'between two runs'}{self._eta()}")
        else:
            self._bar.update(self._task, description=done, completed=self._done(), eta=self._eta())

    def _done(self) -> int:
        return sum(run.config.train.steps for run in self._ended) + sum(self._under_way.values())

    def _eta(self) -> str:
        done = self._done()
        new = done - sum(self._found.get(run, 0) for run in (*self._ended, *self._under_way))
        if self._begun is None or new <= 0 or done >= self._updates:
            return ""
        return f"  ETA {duration((time.monotonic() - self._begun) / new * (self._updates - done))}"

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)


def _step(folder: Path) -> int:
    """The last update that a run has reported."""
    rows = read_metrics(Workdir(folder).metrics_file)
    return rows[-1]["step"] if rows else 0
