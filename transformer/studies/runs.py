"""Runs of a plan, several at a time; results.csv is kept as they end.

A run is an ordinary workdir, so it resumes by itself, and all that is known of it is read from there: nothing is lost with
the process that runs the study. Where it is executed, here or on a cluster, is a `Place` (processes.py).
"""

import contextlib
import dataclasses
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from transformer.config import Config
from transformer.data import sources
from transformer.data.sources.records import read_synthetic
from transformer.errors import UserError
from transformer.runtime.lock import only_run
from transformer.runtime.workdir import Workdir
from transformer.settings import replace
from transformer.studies import findings, outcomes, processes, results, reuse
from transformer.studies.outcomes import Outcome
from transformer.studies.plan import Pace, Plan, Run, record
from transformer.studies.processes import Place, Started, Train
from transformer.studies.progress import Progress
from transformer.studies.results import beside
from transformer.studies.study import Metric
from transformer.training.loop import Stop
from transformer.training.telemetry import read_metrics

MEASURED = 12  # updates of each arm in a dry run


@dataclasses.dataclass(frozen=True)
class Results:
    """Outcomes so far; `stopped`: some runs are not done, because the process was asked to stop."""

    outcomes: Mapping[Run, Outcome]
    stopped: bool


def run_all(plan: Plan, root: Path, train: Train, place: Place, stream: TextIO | None = None) -> Results:
    """Trains what is missing, and keeps `root`/results.csv.

    Finished runs are not repeated, and of those whose workdirs are gone the rows of results.csv are kept; stopped ones are
    resumed, failed ones are tried again. UserError: `root` cannot be written, or another process is at it.
    """
    study = plan.study
    found: dict[Run, Outcome] = {}
    with only_run(root), Stop() as stop, contextlib.closing(place):
        rows = results.kept(plan, root)
        same = {run: run for run in rows}  # with the hash by which its workdir is known
        progress = Progress(plan, stream or sys.stderr)

        def ended(run: Run, result: Outcome) -> None:
            found[run] = result
            results.write(plan, root, found, rows)
            progress.ended(run, result)

        def look(runs: Sequence[Run], metrics: Sequence[Metric]) -> None:
            """For what came of runs that have ended."""
            for run in runs:
                result = outcomes.read(run.folder(root), run.config, metrics, study.max_rise)
                if run in rows and (row := results.outcome(rows[run], metrics)):
                    result = dataclasses.replace(row, metrics={**(result.metrics if result else {}), **row.metrics})
                if result:
                    found[run] = result

        def all_of(runs: Sequence[Run], metrics: Sequence[Metric]) -> None:
            runs = [same.get(run, run) for run in runs]
            look([run for run in runs if run not in rows], metrics)
            progress.begin(found, runs)
            results.write(plan, root, found, rows)
            waiting = [run for run in runs if run not in found]
            _execute(waiting, root, train, place, metrics, stop, ended, progress.watch, study.max_rise)

        look(list(rows), results.columns(study))
        record(study, root, len(rows))
        with progress:
            tried = plan.search()
            while tried and not stop:
                all_of(tried, [*study.metrics, outcomes.chooser(study)])
                tried = [run for run in plan.search(outcomes.wider(study, found)) if run not in found]  # else one failed here
            rates = outcomes.choose(study, found)
            _check_rates(root, rows, rates if study.learning_rates else {})
            if not stop:
                all_of(plan.runs(rates), study.metrics)
            if not stop and (seeds := findings.seeds_needed(study, root)) > study.seeds:
                all_of(plan.runs(rates, seeds), study.metrics)
    return Results(found, bool(stop))


def _check_rates(root: Path, rows: Iterable[Run], rates: Mapping[str, float]) -> None:
    """UserError: finished runs of an arm were trained at another learning rate than the one that is chosen now."""
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
    """Runs all of `waiting`, as many at a time as `place` has room for; once `stop` is true, those under way are asked to save
    and end."""
    active: dict[Run, Started] = {}
    asked = False
    try:
        while active or (waiting and not stop):
            while len(_each(active)) < place.most and not stop and (chosen := reuse.next_of(waiting, active, place.seeds)):
                for run in chosen:
                    waiting.remove(run)
                    reuse.take(_placed(run.config, root), run.folder(root))
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
                found = outcomes.read(run.folder(root), run.config, metrics, max_rise)
                if found or not stop:
                    ended(run, found or _failed(run.folder(root), process.exitcode))
            watch({run: run.folder(root) for run in active})
    finally:
        for process in _each(active):  # there are some only if something of ours failed
            process.kill()


def _each(active: Mapping[Run, Started]) -> list[Started]:
    """Each process once: several runs may share one."""
    return list({id(process): process for process in active.values()}.values())


def _placed(config: Config, root: Path) -> Config:
    """With the data of a synthetic task in one place for all runs, that none but the first makes it."""
    synthetic = sources.SOURCES[config.data.source] is read_synthetic and config.data.directory is None
    data = dataclasses.replace(config.data, directory=str((root / "data").resolve())) if synthetic else config.data
    return dataclasses.replace(config, data=sources.resolve_paths(data))


def _failed(folder: Path, status: int | None) -> Outcome:
    """What to say of a process that ended before its run did."""
    if outcomes.diverged(read_metrics(Workdir(folder).metrics_file)):
        return Outcome("diverged")
    if status is not None and status < 0:
        memory = "; was there too little memory?" if -status == signal.SIGKILL else ""
        return Outcome("failed", error=f"ended by signal {signal.Signals(-status).name}{memory}")
    lines = beside(folder, ".log").read_text(encoding="utf-8", errors="replace").split("\n")
    return Outcome("failed", error=next((line.strip() for line in reversed(lines) if line.strip()), f"ended with {status}"))


# --- a dry run's measurement -------------------------------------------------------------------------------------------


def measure(config: Config, train: Train) -> Pace | str:
    """The pace of an arm, from a few updates in a folder that is gone afterwards; or the last line of its error."""
    updates = min(MEASURED, config.train.steps)
    changes = {"train.log_every": 1, "train.evaluate_every": max(1, updates // 2)}
    for name, value in changes.items():
        config = replace(config, name, value)
    with tempfile.TemporaryDirectory() as place:
        folder, begun = Path(place) / "run", time.monotonic()
        process = processes.start(train, _placed(config, Path(place)), folder)
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
    """From the times at which updates and validations were told, by step. What comes once (compiling) is in the start."""
    updates = max(trained)
    steady = [step for step in trained if step > updates // 2 + 1] if updates > 3 else [s for s in trained if s > 1]
    update = statistics.median(trained[step] - trained[step - 1] for step in steady) if steady else 0.0
    validation = validated[updates] - trained[updates] if validated else None
    once = seconds - updates * update - len(validated) * (validation or 0.0)
    return Pace(max(once, 0.0), update, validation)
