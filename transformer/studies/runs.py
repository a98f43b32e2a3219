"""Runs of a plan: each in a process of its own, several at a time; what came of it; results.csv.

A run is an ordinary workdir, so it resumes by itself, and all that is known of it is read from there: nothing is lost with
the process that runs the study. A process costs a second or two to start, compilation is paid by each run anyway, and a
crash, or the system taking its memory back, ends one run alone.
"""

import csv
import dataclasses
import fcntl
import functools
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TextIO

from transformer import families
from transformer.config import Config, Facts
from transformer.data import sources
from transformer.data.sources.records import read_embedded
from transformer.errors import UserError
from transformer.files import new_file
from transformer.runtime.lock import only_run
from transformer.runtime.workdir import Workdir, read_json
from transformer.settings import replace
from transformer.studies.plan import Pace, Plan, Run, duration
from transformer.studies.study import Metric
from transformer.training.loop import Stop
from transformer.training.telemetry import has_bar, make_bar, read_metrics

Train = Callable[[Config, Path], None]  # trains, or goes on, in a workdir, and scores; a function of a module
MEASURED = 12  # updates of each arm in a dry run
LOSSES = ("train/loss", "validation/loss")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run. `metrics`: by their labels; what a run does not tell is absent."""

    status: Literal["finished", "diverged", "failed"]
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Results:
    """Outcomes so far; `stopped`: some runs are not done, because the process was asked to stop."""

    outcomes: Mapping[Run, Outcome]
    stopped: bool


def run_all(plan: Plan, root: Path, train: Train, workers: int, stream: TextIO | None = None) -> Results:
    """Trains what is missing, and keeps `root`/results.csv.

    Finished runs are not repeated, stopped ones go on, failed ones are tried again. UserError: `root` cannot be written, or
    another process is at it.
    """
    outcomes: dict[Run, Outcome] = {}
    with only_run(root), Stop() as stop, Progress(plan, stream or sys.stderr) as progress:

        def ended(run: Run, result: Outcome) -> None:
            outcomes[run] = result
            write_results(root / "results.csv", plan, root, outcomes)
            progress.ended(run, result)

        def all_of(runs: Sequence[Run], metrics: Sequence[Metric]) -> None:
            found = {run: outcome(run.folder(root), metrics) for run in runs}
            outcomes.update({run: result for run, result in found.items() if result})
            progress.begin(outcomes)
            write_results(root / "results.csv", plan, root, outcomes)
            _execute([run for run in runs if not found[run]], root, train, workers, metrics, stop, ended, progress.watch)

        search = plan.search()
        all_of(search, [*plan.study.metrics, chooser(plan)])
        if not stop:
            all_of(plan.runs(choose(plan, outcomes)), plan.study.metrics)
    return Results(outcomes, bool(stop))


# --- what came of a run ------------------------------------------------------------------------------------------------


def outcome(folder: Path, metrics: Sequence[Metric]) -> Outcome | None:
    """What came of the run in a workdir; None: it is not at its end."""
    workdir = Workdir(folder)
    if not any(workdir.evaluation_file(split).exists() for split in ("test", "validation")):
        return None
    rows = read_metrics(workdir.metrics_file)
    if _diverged(rows):
        return Outcome("diverged")
    found = {metric.label: _value(metric, rows, workdir) for metric in metrics}
    return Outcome("finished", {label: value for label, value in found.items() if value is not None})


def _diverged(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a loss was not finite in the end, which is null in a metrics.jsonl, or the last update was skipped for that."""
    last = [values[-1] for name in LOSSES if (values := [row[name] for row in rows if name in row])]
    return None in last or bool(rows and rows[-1].get("train/skipped"))


def _value(metric: Metric, rows: Sequence[Mapping[str, Any]], workdir: Workdir) -> float | None:
    """Of the rows of training, if they have it, else of the scores at the end."""
    values = [row[metric.name] for row in rows if metric.name in row]
    if not values:
        split, _, name = metric.name.partition("/")
        file = workdir.evaluation_file(split)
        return read_json(file)["scores"].get(name) if file.exists() else None
    if metric.take == "last":
        return values[-1]
    best = min if metric.better == "lower" else max
    return best((value for value in values if value is not None), default=None)


def chooser(plan: Plan) -> Metric:
    """What learning rates are chosen by: the study's first metric, on validation."""
    first = plan.study.metrics[0]
    return dataclasses.replace(first, name=f"validation/{first.name.partition('/')[2]}")


def choose(plan: Plan, outcomes: Mapping[Run, Outcome]) -> dict[str, float]:
    """The best learning rate of each arm; where all diverged, the smallest. An arm whose search failed throughout has none."""
    metric, result = chooser(plan), {}
    sign = 1 if metric.better == "lower" else -1
    for run, found in sorted(outcomes.items(), key=lambda item: item[0].config.train.learning_rate or 0.0):
        if run.part == "search" and found.status != "failed":
            value = found.metrics.get(metric.label)
            score = float("inf") if value is None else sign * value
            if run.arm not in result or score < result[run.arm][0]:
                result[run.arm] = (score, run.config.train.learning_rate)
    return {arm: rate for arm, (_, rate) in result.items()}


def write_results(path: Path, plan: Plan, root: Path, outcomes: Mapping[Run, Outcome]) -> None:
    """A row for every run with an outcome, in the order of the study's arms and seeds; the whole file at once."""
    arms = list(plan.configs)
    ordered = sorted(outcomes, key=lambda run: (run.part, arms.index(run.arm), run.seed, run.config.train.learning_rate or 0))
    labels = [metric.label for metric in plan.study.metrics]
    head = ["part", "arm", "seed", "status", *labels, "learning_rate", "parameters", "flops", "seconds"]
    head += ["commit", "versions", "machine", "hash", "error"]
    with new_file(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, head, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(run, outcomes[run], run.folder(root)) for run in ordered)


def _row(run: Run, found: Outcome, folder: Path) -> dict[str, Any]:
    workdir, row = Workdir(folder), {"part": run.part, "arm": run.arm, "seed": run.seed, "status": found.status}
    row |= {**found.metrics, "learning_rate": run.config.train.learning_rate, "hash": run.hash, "error": found.error}
    if workdir.facts_file.exists():
        parameters, flops = _cost(replace(run.config, "train.seed", 0), workdir.facts())
        row |= {"parameters": parameters, "flops": flops}
    if (times := _beside(folder, ".seconds")).exists():
        row["seconds"] = round(sum(map(float, times.read_text().split())), 1)
    if workdir.record_file.exists():
        record = read_json(workdir.record_file)[-1]
        versions = " ".join(f"{name}={version}" for name, version in record["versions"].items())
        devices = " ".join(f"{count}x {name}" for name, count in record["devices"].items())
        changed = " and changes" if record.get("dirty") else ""
        row |= {"versions": versions, "machine": f"{record['platform']}; {record['cpus']} cores; {devices}"}
        row |= {"commit": record["commit"] + changed} if "commit" in record else {}
    return row


@functools.cache
def _cost(config: Config, facts: Facts) -> tuple[int, float]:
    """Parameters, and FLOPs of the whole training, with vocabularies as they came out."""
    account = families.FAMILIES[config.family].account(config, facts, ())
    return account.size, account.total_flops


# --- processes ---------------------------------------------------------------------------------------------------------


def _execute(
    waiting: list[Run],
    root: Path,
    train: Train,
    workers: int,
    metrics: Sequence[Metric],
    stop: Stop,
    ended: Callable[[Run, Outcome], None],
    watch: Callable[[Mapping[Run, Path]], None],
) -> None:
    """Runs all of `waiting`, so many at a time; once `stop` is true, those under way are asked to save and end."""
    active: dict[Run, BaseProcess] = {}
    asked = False
    try:
        while active or (waiting and not stop):
            while waiting and len(active) < workers and not stop:
                run = waiting.pop(0)
                active[run] = _start(train, _placed(run.config, root), run.folder(root))
            connection.wait([process.sentinel for process in active.values()], timeout=0.5)
            if stop and not asked:
                asked = True
                for process in active.values():
                    process.terminate()
            for run, process in list(active.items()):
                if process.is_alive():
                    continue
                process.join()
                del active[run]
                found = outcome(run.folder(root), metrics)
                if found or not stop:
                    ended(run, found or _failed(run.folder(root), process.exitcode))
            watch({run: run.folder(root) for run in active})
    finally:
        for process in active.values():  # there are some only if something of ours failed
            process.kill()


def _placed(config: Config, root: Path) -> Config:
    """With the data of an embedded task in one place for all runs, that none but the first makes it."""
    embedded = sources.SOURCES[config.data.source] is read_embedded and config.data.directory is None
    return replace(config, "data.directory", str((root / "data").resolve())) if embedded else config


def _start(train: Train, config: Config, folder: Path) -> BaseProcess:
    folder.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(train, config, folder))
    process.start()
    return process


def _child(train: Train, config: Config, folder: Path) -> None:
    """A run's process. What it says goes to a file beside its workdir, as do the seconds that it took."""
    os.setpgid(0, 0)  # Ctrl-C is for the study, which asks runs to stop
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    log = _beside(folder, ".log").open("a", encoding="utf-8", buffering=1)  # noqa: SIM115  (a traceback comes after us)
    # A study that was killed may have left a process behind, on its way out: this waits for it.
    with _beside(folder, ".log").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        sys.stdout = sys.stderr = log
        begun = time.monotonic()
        try:
            train(config, folder)
        except UserError as error:
            print(error)
            sys.exit(2)
        finally:
            with _beside(folder, ".seconds").open("a") as times:
                times.write(f"{time.monotonic() - begun:.1f}\n")


def _end_with_the_study() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _failed(folder: Path, status: int | None) -> Outcome:
    """What to say of a process that ended before its run did."""
    if _diverged(read_metrics(Workdir(folder).metrics_file)):
        return Outcome("diverged")
    if status is not None and status < 0:
        memory = "; was there too little memory?" if -status == signal.SIGKILL else ""
        return Outcome("failed", error=f"ended by signal {signal.Signals(-status).name}{memory}")
    lines = _beside(folder, ".log").read_text(encoding="utf-8", errors="replace").split("\n")
    return Outcome("failed", error=next((line.strip() for line in reversed(lines) if line.strip()), f"ended with {status}"))


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


# --- a dry run's measurement -------------------------------------------------------------------------------------------


def measure(config: Config, train: Train) -> Pace | str:
    """The pace of an arm, from a few updates in a folder that is gone afterwards; or the last line of its error."""
    updates = min(MEASURED, config.train.steps)
    changes = {"train.log_every": 1, "train.evaluate_every": max(1, updates // 2)}
    for name, value in changes.items():
        config = replace(config, name, value)
    with tempfile.TemporaryDirectory() as place:
        folder, begun = Path(place) / "run", time.monotonic()
        process = _start(train, _placed(config, Path(place)), folder)
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


# --- progress ----------------------------------------------------------------------------------------------------------


class Progress:
    """How far a study is, in runs and updates: a bar on a terminal, elsewhere a line for each run that ends."""

    def __init__(self, plan: Plan, stream: TextIO):
        runs = [*plan.search(), *plan.runs(dict.fromkeys(plan.configs, 1.0))]
        self._runs, self._updates = len(runs), sum(run.config.train.steps for run in runs)
        self._first, self._stream = plan.study.metrics[0].label, stream
        self._ended: dict[Run, None] = {}
        self._under_way = self._before = 0  # updates: of runs that are not at their end; of those done before we began
        self._begun: float | None = None
        self._bar: Any = None

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

    def begin(self, outcomes: Mapping[Run, Outcome]) -> None:
        """What is done already; it does not count to the pace."""
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
        if self._bar:
            rows = [read_metrics(Workdir(folder).metrics_file) for folder in active.values()]
            self._under_way = sum(each[-1]["step"] for each in rows if each)
            done = f"{len(self._ended)}/{self._runs} runs"
            self._bar.update(self._task, description=done, completed=self._done(), eta=self._eta())

    def _done(self) -> int:
        return sum(run.config.train.steps for run in self._ended) + self._under_way

    def _eta(self) -> str:
        done = self._done()
        if self._begun is None or done <= self._before or done >= self._updates:
            return ""
        return f"  ETA {duration((time.monotonic() - self._begun) / (done - self._before) * (self._updates - done))}"

    def _say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)
