"""Runs of a study: which are repeated and which are not, their outcomes, and results.csv; in processes that are
really killed."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import fakes
import pytest
import small
from test_study import STUDY

from transformer import settings
from transformer.errors import UserError
from transformer.runtime.lock import only_run
from transformer.runtime.workdir import Workdir, write_json
from transformer.studies import plan as plans
from transformer.studies import report, resampling, results, runs, study
from transformer.studies.plan import Pace
from transformer.studies.results import run_file
from transformer.studies.runs import next_runs
from transformer.studies.study import Metric
from transformer.studies.workers import Job, Place, Processes, programs

TINY = small.config(train__steps=4)
NAMES = ["validation/nll", "validation/bleu", "test/nll", "test/bleu", "test/perplexity", "init/jacobian_norm"]
TIMED = ("seconds",)


def plan(arms, **changes) -> plans.Plan:
    changes = {"base": TINY, "seeds": 2, "claims": (), "compare_with": next(iter(arms)), "fair": (), **changes}
    return plans.make(study.validate(dataclasses.replace(STUDY, arms=arms, **changes)), lambda config: NAMES)


def table(root: Path) -> list[dict[str, str]]:
    with (root / "results.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMED} for row in csv.DictReader(file)]


@dataclasses.dataclass(frozen=True)
class Done:
    """A run that is over."""

    exitcode: int

    def is_alive(self) -> bool:
        return False

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class InProcess:
    """Runs in this process, one after the other; what they raise goes where a process's last words go."""

    most = seeds = 1

    def has_compiled(self, config) -> bool:
        return False

    def start(self, train, runs) -> Done:
        ((folder, config),) = runs.items()
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            train(config, folder)
        except Exception as error:
            folder.with_name(folder.name + ".log").write_text(f"Traceback\n{type(error).__name__}: {error}\n\n")
            return Done(1)
        return Done(0)

    def wait(self, started, seconds: float) -> None: ...

    def close(self) -> None: ...


def run_all(made: plans.Plan, root: Path, place: Place | None = None) -> tuple[runs.Results, str]:
    output = io.StringIO()
    return runs.run_all(made, root, fakes.train, place or InProcess(), output), output.getvalue()


def does(what: str, **more: str) -> dict[str, str]:
    return {"data.source_language": what} | more


def test_a_row_for_every_run(tmp_path):
    made = plan({"b": {}, "a": {"model.d_model": "16"}})
    results, output = run_all(made, tmp_path)
    rows = table(tmp_path)
    assert not results.stopped and len(results.outcomes) == 4
    assert [(row["part"], row["arm"], row["seed"], row["status"]) for row in rows] == [
        ("study", arm, seed, "finished") for arm in ("b", "a") for seed in ("0", "1")
    ]
    by_hand = {"b": 1 / 8 + 1 / 9 + 1 / 10 + 1 / 11 + 0.28, "a": 1 / 16 + 1 / 17 + 1 / 18 + 1 / 19 + 0.28}
    for row in rows:
        end = by_hand[row["arm"]] + int(row["seed"])
        assert float(row["validation/nll"]) == pytest.approx(end) and float(row["test/bleu"]) == pytest.approx(100 - end)
    assert [row["hash"] for row in rows] == [
        run.hash for run in sorted(made.runs({}), key=lambda run: (run.arm != "b", run.seed))
    ]
    assert [line.split("  ")[0] for line in output.splitlines()] == [f"{n}/4 runs" for n in (1, 2, 3, 4)]
    assert "b, seed 0: validation/nll 0.7" in output.splitlines()[0] and "ETA" in output.splitlines()[0]


def test_only_what_is_missing_is_run(tmp_path):
    arms = {"a": {}, "b": {"model.d_model": "16"}}
    first, _ = run_all(plan(arms), tmp_path)
    before = (tmp_path / "results.csv").read_bytes()
    again, output = run_all(plan(arms), tmp_path)
    assert again == first and (tmp_path / "results.csv").read_bytes() == before
    assert output == "4 of 4 runs are done already\n"

    more, output = run_all(plan(arms | {"c": {"model.d_model": "24"}}, seeds=3), tmp_path)
    assert output.startswith("4 of 9 runs are done already\n")
    assert all(len(fakes.starts(run.folder(tmp_path))) == 1 for run in more.outcomes)
    assert [(row["arm"], row["seed"]) for row in table(tmp_path)] == [(arm, str(seed)) for arm in "abc" for seed in range(3)]


def test_the_expected_time_is_about_updates_of_now(tmp_path, monkeypatch):
    """By hand: a resumed run had 3 of its 4 updates already, which do not count for the pace."""
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, seeds=1, base=small.config(train__steps=4))
    (a, b), clock = made.runs({}), [0.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    progress = runs.Progress(made, io.StringIO())
    folders = {run: tmp_path / run.arm for run in (a, b)}

    def at(seconds: float, **steps: int) -> None:
        clock[0] = seconds
        for run, folder in folders.items():
            folder.mkdir(exist_ok=True)
            Workdir(folder).metrics_file.write_text("".join(f'{{"step": {step + 1}}}\n' for step in range(steps[run.arm])))

    at(0, a=3, b=0)
    progress.begin({}, [a, b])
    progress.watch(folders)
    at(100, a=3, b=2)
    progress.watch(folders)
    assert progress._eta() == "  ETA 0:02:30"  # 3 more, 50 seconds each
    at(120, a=4, b=2)
    progress.ended(a, results.Outcome("finished"))
    assert progress._eta() == "  ETA 0:01:20"  # 2 more, 40 seconds each; b still counts
    checked = made.run("a", study.SEARCH_SEED, "check", 0.3)
    progress.ended(checked, results.Outcome("finished", {"validation/nll": 1.0}))
    assert "at learning rate 0.3" in progress._stream.getvalue()


def test_what_differs_in_scores_alone_is_trained_once(tmp_path):
    """Two at a time, so the second of a seed waits for the first; a study of other scores in the same folder trains none."""
    arms = {"a": {}, "b": {"evaluate.lengths": "0,3"}, "other": {"model.d_ff": "9"}}
    made = plan(arms, seeds=1)
    run_all(made, tmp_path, Processes(2))
    trained = {run.arm: fakes.trained(run.folder(tmp_path)) for run in made.runs({})}
    assert trained == {arm: 0 if arm == "b" else TINY.train.steps for arm in arms}
    a, b = (run.folder(tmp_path) for run in made.runs({})[:2])
    assert Workdir(a).metrics_file.read_bytes() == Workdir(b).metrics_file.read_bytes()
    assert Workdir(b).config().evaluate.lengths == (0, 3) and Workdir(b).evaluation_file("test").exists()
    assert not Workdir(b).samples_file("test").exists()  # the outputs of the other run are not copied
    times = [[float(x) for x in run_file(folder, ".seconds").read_text().split()] for folder in (a, b)]
    assert times[1][:-1] == times[0] and len(times[0]) == 1  # its training's time is a part of its cost
    (tmp_path / "results.csv").unlink()  # its rows are another study's
    search = plan({"c": {"search.beam_size": "3"}, "d": {"search.beam_size": "5"}}, base=made.configs["other"], seeds=1)
    run_all(search, tmp_path)
    assert {fakes.trained(run.folder(tmp_path)) for run in search.runs({})} == {0}
    assert len({row["hash"] for row in table(tmp_path)}) == 2


def test_an_old_run_that_cannot_be_read_stops_nothing(tmp_path):
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, seeds=1)
    old = tmp_path / "runs" / "a" / "0-old"
    old.mkdir(parents=True)
    Workdir(old).config_file.write_text('{"model": 1}')
    assert len(run_all(made, tmp_path)[0].outcomes) == 2


def test_a_stopped_run_goes_on(tmp_path):
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, seeds=1)
    folder = made.runs({})[0].folder(tmp_path / "two")
    run_all(made, tmp_path / "one")
    folder.mkdir(parents=True)
    rows = Workdir(made.runs({})[0].folder(tmp_path / "one")).metrics_file.read_text().splitlines()
    Workdir(folder).metrics_file.write_text("\n".join(rows[:2]) + "\n")
    run_all(made, tmp_path / "two")
    assert Workdir(folder).metrics_file.read_text().splitlines() == rows
    assert table(tmp_path / "one") == table(tmp_path / "two")


def test_runs_with_nothing_to_score_end_with_their_last_update(tmp_path):
    base = small.config(train__steps=4, data__test=None, data__validation=None)
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, seeds=1, base=base, metrics=(Metric("init/jacobian_norm", "lower"),))
    run_all(made, tmp_path)
    assert [row["status"] for row in table(tmp_path)] == ["finished"] * 2
    first = Workdir(made.runs({})[0].folder(tmp_path))
    rows = first.metrics_file.read_text().splitlines()
    first.metrics_file.write_text("\n".join(rows[:-1]) + "\n")
    assert results.read_workdir(first.path, base, ()) is None


def test_failures_and_divergence_are_outcomes(tmp_path):
    made = plan({"a": {}, "f": does("fail"), "d": does("diverge")}, seeds=1)
    results, output = run_all(made, tmp_path)
    assert [(row["arm"], row["status"], row["error"]) for row in table(tmp_path)] == [
        ("a", "finished", ""),
        ("f", "failed", "divide by"),
        ("d", "diverged", ""),
    ]
    assert [row["validation/nll"] == "" for row in table(tmp_path)] == [False, True, True]  # absent, not 0
    assert "f, seed 0: failed divide by" in output and "d, seed 0: diverged" in output
    run_all(made, tmp_path)
    assert [len(fakes.starts(run.folder(tmp_path))) for run in made.runs({})] == [1, 2, 1]  # a failed one is tried again


def test_a_run_that_diverged_and_then_failed_has_diverged(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder.with_name("run.log")).write_text("no room left\n")
    well, lost, skipped = (
        '{"step": 1, "train/loss": 2}\n',
        '{"step": 1, "train/loss": null}\n',
        '{"step": 2, "train/skipped": 1.0}\n',
    )
    for rows, status in ((lost, "diverged"), (well + skipped, "diverged"), (well, "failed"), (lost + skipped + well, "failed")):
        (folder / "metrics.jsonl").write_text(rows)
        assert runs._failed(folder, 1).status == status
        assert runs._failed(folder, -signal.SIGKILL).status == "failed"  # for too little memory; it is tried again


def test_numbers_come_from_the_workdir(tmp_path):
    workdir = Workdir(tmp_path)
    assert results.read_workdir(tmp_path, TINY, ()) is None
    (tmp_path / "evaluation").mkdir()
    workdir.evaluation_file("test").write_text('{"scores": {"nll": 9.0, "bleu": 30.0, "perplexity": null}}')
    values = [0.5, 0.25, 0.75]
    workdir.metrics_file.write_text("".join(f'{{"step": {n}, "validation/nll": {v}}}\n' for n, v in enumerate(values, 1)))
    metrics = [Metric("validation/nll", "lower"), Metric("validation/nll", "lower", "best")]
    metrics += [Metric("validation/nll", "higher", "best"), Metric("test/bleu", "higher"), Metric("test/perplexity", "lower")]
    metrics += [
        Metric("validation/nll", better, "updates", x) for better, x in (("lower", 0.3), ("higher", 0.5), ("lower", 0.2))
    ]
    metrics += [Metric("validation/bleu", "higher", "updates", 1.0)]
    found = [results.read_workdir(tmp_path, TINY, [metric]) for metric in metrics]
    assert [list(each.metrics.values()) for each in found if each] == [
        [0.75],
        [0.25],
        [0.75],
        [30.0],
        [],
        [2],
        [1],
        [math.inf],
        [],
    ]
    assert [metric.label for metric in metrics[:2]] == ["validation/nll", "validation/nll (best)"]
    assert metrics[5].label == "updates until validation/nll <= 0.3" and metrics[6].label.endswith("nll >= 0.5")
    assert not metrics[6].higher_is_better and metrics[3].higher_is_better


def test_learning_rates_are_chosen_on_validation(tmp_path):
    """The fake's best is 0.3; what diverges throughout has the smallest, down to which the grid was extended; what fails
    none."""
    arms = {"a": {}, "b": {"model.d_model": "16"}, "d": does("diverge"), "f": does("fail")}
    metrics = (Metric("test/nll", "lower"),)
    made = plan(arms, seeds=1, learning_rates=(0.6, 0.3, 0.15), metrics=metrics)
    ran, _ = run_all(made, tmp_path)
    rows = table(tmp_path)
    search = [row for row in rows if row["part"] == "search"]
    assert [row["validation/nll"] != "" for row in search if row["arm"] in "ad"] == [True] * 6 + [False] * 10
    tried = {arm: sorted({float(row["learning_rate"]) for row in search if row["arm"] == arm}) for arm in arms}
    assert tried["a"] == tried["b"] == tried["f"] == [0.15, 0.3, 0.6] and tried["d"] == [0.0375, 0.075, 0.15, 0.3, 0.6]
    assert {row["test/nll"] for row in search} == {""}
    assert {int(row["seed"]) for row in search} == {study.SEARCH_SEED, study.SEARCH_SEED + 1}
    assert [(row["arm"], row["learning_rate"], row["status"]) for row in rows if row["part"] == "study"] == [
        ("a", "0.3", "finished"),
        ("b", "0.3", "finished"),
        ("d", "0.0375", "diverged"),
    ]
    assert results.chooser(made.study).name == "validation/nll"
    long = dataclasses.replace(made.study, metrics=(Metric("test/exact_match@20-40", "higher"), Metric("test/bleu", "higher")))
    assert results.chooser(long).name == "validation/bleu"  # validation may have no such lengths
    higher = plan({"a": {}, "b": {"model.d_ff": "9"}}, learning_rates=(0.2, 0.1), metrics=(Metric("test/bleu", "higher"),))
    found = {
        run: results.Outcome("finished", {"validation/bleu": run.config.train.learning_rate or 0}) for run in higher.search()
    }
    found = results.tried(higher.study, found)
    assert results.choose(higher.study, found) == {"a": 0.2, "b": 0.2}
    assert results.extended_grids(higher.study, found) == {"a": [0.4], "b": [0.4]}


def test_an_arm_whose_search_is_incomplete_has_no_rate(tmp_path):
    """Neither from the rates that are complete, nor from the runs that finished at a rate; and so it has no runs."""
    changes = {"learning_rates": (0.15, 0.3, 0.6), "search_fraction": 0.5, "search_check": "b"}
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, **changes)
    done = {run: results.Outcome("finished", {"validation/nll": run.config.train.learning_rate}) for run in made.search()}
    failed = results.Outcome("failed")

    def chosen(outcomes) -> tuple[dict[str, float], dict[str, list[float]]]:
        known = results.tried(made.study, outcomes)
        return results.choose(made.study, known), results.extended_grids(made.study, known)

    assert chosen(done) == ({"a": 0.15, "b": 0.15}, {"a": [0.075], "b": [0.075]})
    for run in made.search():
        others = {other: found for other, found in done.items() if other != run}
        left = {"a", "b"} - {run.arm}
        assert set(chosen(others)[0]) == set(chosen(others)[1]) == set(chosen(others | {run: failed})[0]) == left
    no_search = {run: failed if (run.arm, run.part) == ("b", "search") else found for run, found in done.items()}
    assert chosen(no_search) == ({"a": 0.15}, {"a": [0.075]})
    diverged = {run: results.Outcome("diverged") if run.config.train.learning_rate != 0.6 else done[run] for run in done}
    assert chosen(diverged)[0] == {"a": 0.6, "b": 0.6}


def test_rates_are_chosen_by_counts_of_updates_as_they_are_reported():
    """By hand: 1 and all 4 updates are 2.5 in the mean, less than 3."""
    metric = Metric("validation/nll", "lower", "updates", 0.5)
    made = plan({"a": {}, "b": {"model.d_ff": "9"}}, learning_rates=(0.2, 0.1), metrics=(metric,))
    never = {(0.2, study.SEARCH_SEED): 1, (0.2, study.SEARCH_SEED + 1): math.inf}
    found = {
        run: results.Outcome("finished", {metric.label: never.get((run.config.train.learning_rate, run.seed), 3)})
        for run in made.search()
    }
    assert results.choose(made.study, results.tried(made.study, found)) == {"a": 0.2, "b": 0.2}


def test_a_search_that_is_stopped_is_not_compared_with_the_rates_of_finished_runs(tmp_path):
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, learning_rates=(0.6, 1.2), seeds=1)
    run_all(made, tmp_path)
    lines = (tmp_path / "results.csv").read_text().splitlines(keepends=True)
    for run in made.search({arm: [0.3, 0.15] for arm in "ab"}):
        shutil.rmtree(run.folder(tmp_path), ignore_errors=True)
        lines = [line for line in lines if run.hash not in line]
    (tmp_path / "results.csv").write_text("".join(lines))
    found, _ = run_all(made, tmp_path, Stopping(1))
    assert found.stopped and {row["learning_rate"] for row in table(tmp_path) if row["part"] == "study"} == {"0.3"}


def test_a_grid_of_learning_rates_grows_twice_at_most(tmp_path):
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, seeds=1, learning_rates=(2.4, 4.8), search_seeds=1)
    run_all(made, tmp_path)
    search = [row for row in table(tmp_path) if row["part"] == "search"]
    assert [float(row["learning_rate"]) for row in search if row["arm"] == "a"] == [0.6, 1.2, 2.4, 4.8]
    before = len(fakes.starts(made.search()[0].folder(tmp_path)))
    _, output = run_all(made, tmp_path)
    assert len(fakes.starts(made.search()[0].folder(tmp_path))) == before
    assert output == f"{len(search) + 2} of {len(search) + 2} runs are done already\n"


def test_a_study_that_was_stopped_trains_the_missing_seeds_of_a_rate_beyond_the_grid(tmp_path):
    changes = {"search_fraction": 0.5, "search_check": "b", "search_seeds": 2, "seeds": 1}
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, learning_rates=(0.6, 1.2), **changes)
    run_all(made, tmp_path)
    whole, text = table(tmp_path), (tmp_path / "results.csv").read_text()
    first, *others = made.search({"b": [0.3]})
    assert (first.part, first.seed, len(others)) == ("search", study.SEARCH_SEED, 3)
    for run in others:
        shutil.rmtree(run.folder(tmp_path))
    lines = [line for line in text.splitlines(keepends=True) if not any(run.hash in line for run in others)]
    assert len(lines) == len(whole) + 1 - len(others)
    (tmp_path / "results.csv").write_text("".join(lines))
    run_all(made, tmp_path)
    assert table(tmp_path) == whole


def test_a_search_may_take_fewer_updates_if_one_arm_is_checked(tmp_path):
    changes = {"learning_rates": (0.15, 0.3, 0.6), "search_fraction": 0.5, "search_check": "b", "search_seeds": 1, "seeds": 1}
    made = plan({"a": {}, "b": {"model.d_model": "16"}}, **changes)
    run_all(made, tmp_path)
    steps = {(run.part, run.arm): run.config.train.steps for run in made.search()}
    whole = made.configs["a"].train.steps
    assert steps == {("search", "a"): whole // 2, ("search", "b"): whole // 2, ("check", "b"): whole}
    parts = [(row["part"], row["arm"]) for row in table(tmp_path)]
    assert parts.count(("check", "b")) == parts.count(("search", "a")) == 3


def test_a_target_that_is_added_later_keeps_runs_that_never_reached_it(tmp_path):
    """They count with all of their updates, as if the metric had been there from the start."""
    arms, far = {"a": {}, "b": {"model.d_model": "16"}}, Metric("validation/nll", "lower", "updates", -99.0)
    before, never = Metric("validation/nll", "lower"), Metric("validation/nll", "higher", "updates", 99.0)
    run_all(plan(arms, metrics=(before, far)), tmp_path / "later")
    (tmp_path / "later" / "plan.json").unlink()
    for root in ("later", "once"):
        run_all(plan(arms, metrics=(before, far, never)), tmp_path / root)
    assert table(tmp_path / "later") == table(tmp_path / "once")
    for row in table(tmp_path / "later"):
        assert (row[never.label], row["not_reached"]) == ("4", f"{far.label}; {never.label}")


@pytest.mark.parametrize("away", [False, True])
def test_a_table_keeps_what_the_study_no_longer_asks_for(tmp_path, away):
    """The scores of a metric that was left out, and a curve for the metric that is now the first on validation: from the
    workdirs, or from curves.csv."""
    arms, nll, bleu = {"a": {}, "b": {"model.d_ff": "9"}}, Metric("validation/nll", "lower"), Metric("test/bleu", "higher")
    run_all(plan(arms, metrics=(Metric("validation/bleu", "higher"), nll, bleu)), tmp_path / "first")
    before, root = table(tmp_path / "first"), tmp_path / "first"
    if away:
        root = elsewhere(root, tmp_path / "second")
    else:
        (root / "curves.csv").unlink()
    run_all(plan(arms, metrics=(nll,)), root)
    for now, row in zip(table(root), before, strict=True):
        assert now.items() >= row.items() and now["test/bleu"] and not row["curve of validation/bleu"]
        assert [point.split(":")[0] for point in now["curve of validation/nll"].split()] == (["4"] if away else ["4", "4"])


@pytest.mark.parametrize("max_seeds", [0, 5])
def test_a_search_that_failed_for_all_arms_has_no_runs(tmp_path, max_seeds):
    arms = {"f": does("fail"), "g": does("fail") | {"model.d_ff": "9"}}
    found, _ = run_all(plan(arms, learning_rates=(0.1, 0.2), max_seeds=max_seeds), tmp_path)
    assert {(run.part, each.status) for run, each in found.outcomes.items()} == {("search", "failed")}


COMMITTED = ("plan.json", "results.csv", "curves.csv", "sentences.csv", "resamples.csv")


def elsewhere(root: Path, place: Path) -> Path:
    """A folder with the files of a study that are committed, and no workdir: another machine."""
    place.mkdir()
    for name in COMMITTED:
        if (root / name).exists():
            shutil.copy(root / name, place)
    return place


def finished(made: plans.Plan, root: Path) -> dict[str, str]:
    """The report of a study that has run to its end, and the tables beside it."""
    found, _ = run_all(made, root)
    resampling.write(made, root, found.outcomes)
    report.write(made.study, root)
    return {name: (root / name).read_text() for name in ("report.md", "summary.csv", "curves.csv") if (root / name).exists()}


class Stopping(InProcess):
    """Asks the study to stop once so many runs have ended."""

    def __init__(self, runs: int):
        self.left = runs

    def start(self, train, runs) -> Done:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)
        return super().start(train, runs)


@pytest.mark.parametrize("ended", [3, 12])
def test_a_study_resumes_from_what_is_committed(tmp_path, monkeypatch, ended):
    """Half-way through the search, and through the runs: on another machine only missing runs are trained, and the report is
    that of a study without a break."""
    monkeypatch.setattr(results, "run_file", lambda folder, ending: Path("/none"))  # times differ
    made = plan(
        {"a": {}, "b": {"model.d_model": "16"}}, learning_rates=(0.15, 0.3, 0.6), metrics=(Metric("test/nll", "lower"),)
    )
    whole = finished(made, tmp_path / "whole")
    first, _ = run_all(made, tmp_path / "first", Stopping(ended))
    assert first.stopped and len(table(tmp_path / "first")) == ended
    place = elsewhere(tmp_path / "first", tmp_path / "second")
    assert finished(made, place) == whole
    trained = [folder for folder in (place / "runs").glob("*/*-*") if folder.is_dir()]
    assert len(trained) == 2 * (3 * 2 + 2) - ended
    assert table(place) == table(tmp_path / "whole")


def older(root: Path, change: Callable[[str], str]) -> None:
    """Makes the settings in results.csv and plan.json those of another version of the library."""
    with (root / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (root / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "sources"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row | {"settings": change(row["settings"]), "hash": "older"} for row in rows)
    known = json.loads((root / "plan.json").read_text())
    plan = {name: value for name, value in known["plan"].items() if name != "max_seeds"}
    plan["base"] = {change(name + "=")[:-1].split("=")[0]: text for name, text in plan["base"].items()}
    del known["defaults"]
    (root / "plan.json").write_text(json.dumps(known | {"plan": plan, "hash": plans.digest(plan)}))


def test_rows_of_an_older_version_are_kept(tmp_path):
    """Settings that have another name, are new, or are no more; and a folder of data that is elsewhere. Failed runs are tried
    again; the rows of the others stay as they are, to the letter, whatever becomes of the rest."""
    arms = {"a": {}, "b": {"model.d_model": "16"}, "d": does("diverge"), "f": does("fail")}
    run_all(plan(arms), tmp_path / "first")
    place = elsewhere(tmp_path / "first", tmp_path / "second")
    older(place, lambda text: text.replace("train.steps=", "train.updates=") + " data.directory=there model.gone=3")
    kept = [row for row in table(place) if row["status"] != "failed"]
    more = plan(
        arms | {"n": does("fail") | {"model.d_ff": "9"}}, base=settings.replace(TINY, "data.directory", "/here"), seeds=3
    )
    run_all(more, place)
    after = table(place)
    assert all({name: now[name] for name in row} == row for row in kept for now in after if key(now) == key(row))
    assert {key(row) for row in kept} < {key(row) for row in after} and len(after) == 15
    started = {(folder.parent.name, folder.name[0]) for folder in (place / "runs").glob("*/*-*") if folder.is_dir()}
    assert started == {("f", "0"), ("f", "1"), *((arm, "2") for arm in "abdf"), *(("n", seed) for seed in "012")}


def key(row: dict[str, str]) -> tuple[str, ...]:
    return row["part"], row["arm"], row["seed"]


@pytest.mark.parametrize(
    ("now", "output"),
    [
        ({"base": small.config(train__steps=4, train__batch_tokens=64)}, "config.base.train.batch_tokens was .* and is 64"),
        ({"base": small.config(train__steps=5)}, "config.base.train.steps was 4 and is 5"),
        (
            {"arms": {"a": {}, "b": {"model.d_model": "24"}}},
            "arm 'b' .*: config.base.model.d_model was 16 and is 24",
        ),
        ({"arms": {"a": {}, "c": {"model.d_model": "16"}}}, "arm 'b', which the study does not have"),
    ],
)
def test_finished_runs_of_other_settings_are_not_lost(tmp_path, now, output):
    """One line names the setting; nothing is trained, and no file is touched."""
    arms = {"a": {}, "b": {"model.d_model": "16"}}
    run_all(plan(arms), tmp_path / "first")
    place = elsewhere(tmp_path / "first", tmp_path / "second")
    before = (place / "results.csv").read_bytes()
    with pytest.raises(UserError, match=output):
        run_all(plan(**{"arms": arms, **now}), place)
    assert (place / "results.csv").read_bytes() == before and not (place / "runs").exists()


def test_a_row_that_belongs_to_no_arm_is_named_by_its_line(tmp_path):
    """Also if rows of failed runs, which are not kept, stand before it."""
    arms = {"f": does("fail"), "a": {}, "b": {"model.d_model": "16"}}
    run_all(plan(arms, seeds=1), tmp_path / "first")
    place = elsewhere(tmp_path / "first", tmp_path / "second")
    assert [row["arm"] for row in table(place)].index("b") == 2
    with pytest.raises(UserError, match=r"results.csv, line 4: .*arm 'b', which the study does not have"):
        run_all(plan(dict(list(arms.items())[:2]), seeds=1), place)


def test_a_variant_that_has_changed_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "sources", lambda config: {"soft_cap.py": "1"})
    made = plan({"a": {}, "b": {"model.d_model": "16"}})
    run_all(made, tmp_path)
    monkeypatch.setattr(plans, "sources", lambda config: {"soft_cap.py": "2"})
    with pytest.raises(UserError, match=r"the file soft_cap\.py has changed"):
        run_all(made, tmp_path)


def test_the_plan_is_written_before_the_first_run(tmp_path):
    made = plan({"a": {}, "b": {"model.d_model": "16"}})
    assert plans.followed(made.study, tmp_path) == plans.Followed(False, "No plan was recorded before the first run.")
    run_all(made, tmp_path)
    found = plans.followed(made.study, tmp_path)
    assert found.kept and "before the first run" in found.text and "and was followed." in found.text
    other = dataclasses.replace(made.study, seeds=4, claims=(study.Claim("x", "y", "worse", ("b",)),))
    found = plans.followed(other, tmp_path)
    assert not found.kept and "**not followed**: claims, seeds" in found.text
    before = (tmp_path / "plan.json").read_text()
    run_all(dataclasses.replace(made, study=other), tmp_path)
    assert (tmp_path / "plan.json").read_text() == before
    (tmp_path / "plan.json").unlink()
    run_all(made, tmp_path)
    found = plans.followed(made.study, tmp_path)
    assert not found.kept and "after 8 runs" in found.text
    (tmp_path / "plan.json").write_text((tmp_path / "plan.json").read_text().replace('"seeds": 2', '"seeds": 3'))
    with pytest.raises(UserError, match=r"plan\.json"):
        plans.followed(made.study, tmp_path)


def test_a_study_can_begin_with_another_seed(tmp_path):
    made = plan({"a": {}, "b": {"model.d_model": "16"}})
    later = dataclasses.replace(made, study=dataclasses.replace(made.study, first_seed=7))
    assert [(run.arm, run.seed) for run in later.runs({})] == [("a", 7), ("b", 7), ("a", 8), ("b", 8)]
    run_all(later, tmp_path)
    assert {row["seed"] for row in table(tmp_path)} == {"7", "8"}


def test_a_plan_is_followed_if_each_arm_has_its_settings_by_name(tmp_path):
    """A renamed setting is the same one only if its old name is gone."""
    arms = {"a": {"model.d_model": "16", "model.num_heads": "2"}, "b": {"model.d_model": "8", "model.num_heads": "4"}}
    made = plan(arms, base=small.config())
    plans.record(made.study, tmp_path, 0)

    def of(arms) -> str:
        return plans.followed(dataclasses.replace(made.study, arms=arms), tmp_path).text

    assert "and was followed" in of(arms) and "and was followed" in of(dict(reversed(arms.items())))
    swapped = {"a": {"model.d_model": "2", "model.num_heads": "16"}, "b": arms["b"]}
    exchanged = {"a": arms["b"], "b": arms["a"]}
    other = {"a": {"model.d_model": "16", "model.num_kv_heads": "2"}, "b": arms["b"]}
    for changed in (exchanged, other, {"a": arms["a"], "b": {}}, {"a": arms["a"]}):
        assert "**not followed**: arms" in of(changed)
    assert not plans._same_arms(made.study.arms, swapped, ())
    older = {"a": {"model.width": "16", "model.num_heads": "2"}, "b": {"model.width": "8", "model.num_heads": "4"}}
    assert plans._same_arms(older, arms, ["model.d_model", "model.num_heads"])
    assert not plans._same_arms(older, arms, ["model.d_model", "model.num_heads", "model.width"])


def test_rows_are_about_the_defaults_that_the_plan_records(tmp_path):
    """The default of a setting changes after the plan is written: later rows state the setting, and can be read."""
    made = plan({"a": {}, "b": {"model.d_model": "16"}})
    (tmp_path / "first").mkdir()
    plans.record(made.study, tmp_path / "first", 0)
    known = json.loads((tmp_path / "first" / "plan.json").read_text())
    assert known["defaults"]["model.norm_order"] == "post"
    known["defaults"]["model.norm_order"] = "pre"
    (tmp_path / "first" / "plan.json").write_text(json.dumps(known))
    run_all(made, tmp_path / "first")
    assert all("model.norm_order=post" in row["settings"].split() for row in table(tmp_path / "first"))
    _, output = run_all(made, elsewhere(tmp_path / "first", tmp_path / "second"))
    assert output == "4 of 4 runs are done already\n"


def test_a_run_that_ends_far_above_its_best_has_diverged(tmp_path):
    workdir = Workdir(tmp_path)
    rows = [{"step": step, "train/loss": 1.0, "validation/loss": loss} for step, loss in ((1, 2.0), (2, 1.0), (3, 1.4))]
    workdir.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workdir.evaluation_file("test").parent.mkdir()
    workdir.evaluation_file("test").write_text('{"scores": {}}')
    found = [results.read_workdir(tmp_path, TINY, (), rise) for rise in (0.0, 0.3, 0.5)]
    assert [each.status for each in found if each] == ["finished", "diverged", "finished"]
    assert found[1] and "0.4" in found[1].error


def test_synthetic_data_is_made_once(tmp_path):
    synthetic = small.config(data__source="number_words")
    assert runs._placed(synthetic, tmp_path).data.directory == str(tmp_path / "data")
    for given, wanted in (("text", None), os.getcwd()), (("number_words", "x"), os.path.abspath("x")), (("tfds", None), None):
        config = small.config(data__source=given[0], data__directory=given[1])
        assert runs._placed(config, tmp_path).data.directory == wanted


def test_two_processes_are_not_at_one_study(tmp_path):
    with only_run(tmp_path), pytest.raises(UserError, match="it is in use by a run"):
        run_all(plan({"a": {}, "b": {"model.d_ff": "9"}}), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made or written"):
        run_all(plan({"a": {}, "b": {"model.d_ff": "9"}}), tmp_path / "file")


# --- processes of their own --------------------------------------------------------------------------------------------


def test_a_job_that_is_over_may_be_waited_for_with_the_next_one_of_its_worker():
    ours, theirs = multiprocessing.Pipe()
    worker = types.SimpleNamespace(connection=ours, job=None, compiled=set())
    first = Job(worker, print, print, {})
    theirs.send(0)
    assert first.exitcode == 0
    Processes(1).wait([first, Job(worker, print, print, {})], 0)


def test_a_run_goes_to_a_worker_that_has_compiled_its_programs(tmp_path):
    """Of the runs with one seed that are next, one whose programs a free worker has is the first; other seeds still wait."""
    made = plan({"a": {}, "b": {"model.d_ff": "9"}, "rate": {"train.learning_rate": "0.5"}}, seeds=2)
    a0, b0, rate0, a1, b1, rate1 = made.runs({})
    place = Processes(2)
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    place._workers = [types.SimpleNamespace(connection=ours, job=None, compiled=set(), free=True) for ours, _ in pipes]
    of_a, of_b = (place.start(print, {tmp_path / run.arm: run.config}).worker for run in (a0, b0))
    assert of_a is of_b  # nothing was compiled anywhere
    of_a.compiled, of_a.free = {programs(b0.config)}, False
    other = place._workers[1]
    other.compiled = {programs(a0.config)}
    compiled = [run for run in (a0, b0, rate0, a1, b1, rate1) if place.has_compiled(run.config)]
    assert compiled == [a0, rate0, a1, rate1]  # the learning rate is an argument of the programs
    assert next_runs([b0, rate0, a1], [], 1, lambda run: place.has_compiled(run.config)) == [rate0]
    assert next_runs([b0, a1, rate1], [], 1, lambda run: place.has_compiled(run.config)) == [b0]
    of_a.free = True
    assert place.start(print, {tmp_path / "a1": a1.config}).worker is other


def test_a_worker_trains_many_runs_and_ends_with_one_that_fails(tmp_path):
    """Runs that fail, or that the system kills, are lost alone."""
    made = plan({"a": {}, "f": does("fail"), "b": {"model.d_ff": "9"}, "k": does("killed"), "c": {"model.d_ff": "16"}}, seeds=1)
    place = Processes(1)
    run_all(made, tmp_path, place)
    assert [(row["arm"], row["status"], row["error"]) for row in table(tmp_path)] == [
        ("a", "finished", ""),
        ("f", "failed", "divide by"),
        ("b", "finished", ""),
        ("k", "failed", "ended by signal SIGKILL; was there too little memory?"),
        ("c", "finished", ""),
    ]
    first, failed, second, killed, third = (fakes.starts(run.folder(tmp_path)) for run in made.runs({}))
    assert first == failed and second == killed and len({first[0], second[0], third[0], os.getpid()}) == 4
    logs = [run.folder(tmp_path).with_name(run.folder(tmp_path).name + ".log") for run in made.runs({})]
    assert "ZeroDivisionError" in logs[1].read_text() and "Traceback" in logs[1].read_text()
    assert logs[2].read_text() == "" and not alive(third[0])  # all end with the study


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_workers_share_the_processors(tmp_path):
    for most in (1, 2):
        place, file = Processes(most), tmp_path / f"{most}"
        job = place.start(fakes.count_threads, {file: small.config()})
        while job.is_alive():
            place.wait([job], 1)
        place.close()
        assert int(file.read_text()) == max(len(os.sched_getaffinity(0)) // most, 1)


def test_data_is_prepared_once(tmp_path):
    """A run begins with the vocabulary, the tokens and the `DataInfo` of one that reads the same data."""
    base = small.config(data__test="test")
    made = Workdir(tmp_path / "a" / "0")
    for folder in (made.vocabulary, made.tokens / "train"):
        folder.mkdir(parents=True)
        (folder / "x").write_text("1")
    made.data_info_file.write_text("{}")
    write_json(made.config_file, settings.to_dict(base))
    changes = ({"train__seed": 5}, {"data__test": None}, {"data__vocabulary_size": 99}, {"train__init_from": "other"})
    found = []
    for number, each in enumerate(changes):
        config, new = small.config(**{"data__test": "test"} | each), Workdir(tmp_path / "b" / str(number))
        runs.copy_shared(config, new.path)
        found.append([(new.tokens / "train" / "x").exists() and (new.vocabulary / "x").exists(), new.data_info_file.exists()])
        assert not new.path.exists() or new.config() == config
    assert found == [[True, True], [True, False], [False, False], [False, False]]


STOPPED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import fakes
if __name__ == "__main__":
    import test_runs
    from transformer.studies import runs, workers
    print(runs.run_all(test_runs.slow(), Path(sys.argv[1]), fakes.train, workers.Processes(1)).stopped, flush=True)
"""


def slow() -> plans.Plan:
    return plan({"a": {}, "s": does("slow")}, seeds=1, base=small.config(train__steps=200))


def alive(process: int) -> bool:
    """Whether it runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", small.some([signal.SIGKILL, signal.SIGINT], signal.SIGINT), ids=lambda number: number.name)
def test_a_study_that_is_stopped_goes_on(tmp_path, number):
    made, root = slow(), tmp_path / "two"
    run_all(made, tmp_path / "one")
    script = tmp_path / "script.py"
    script.write_text(STOPPED.format(paths=[str(Path(__file__).parent), str(Path(__file__).parents[1]), os.getcwd()]))
    slowly = os.environ | {"PAUSE": "0.05"}
    process = subprocess.Popen([sys.executable, script, root], stdout=subprocess.PIPE, text=True, env=slowly)
    rows = Workdir(made.runs({})[1].folder(root)).metrics_file
    while not (rows.exists() and rows.read_text().count("\n") > 1):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    out, _ = process.communicate()
    assert (process.returncode, out) == ((-9, "") if number == signal.SIGKILL else (0, "True\n"))
    [child] = fakes.starts(rows.parent)
    while alive(child):  # for ever, if it does not end with the study
        time.sleep(0.02)
    assert [row["arm"] for row in table(root)] == ["a"] and 1 < rows.read_text().count("\n") < 200
    run_all(made, root)
    assert table(root) == table(tmp_path / "one")
    assert [len(fakes.starts(run.folder(root))) for run in made.runs({})] == [1, 2]


# --- what a dry run measures -------------------------------------------------------------------------------------------


def test_pace_leaves_out_what_comes_once():
    """12 updates of 2 seconds, two validations of 3, the first update and the first validation 50 and 20 seconds longer."""
    trained = {step: 52 + 2 * (step - 1) + (23 if step > 6 else 0) for step in range(1, 13)}
    validated = {6: trained[6] + 23, 12: trained[12] + 3}
    pace = runs._pace(trained, validated, seconds=10 + validated[12])
    assert pace == Pace(start=10 + 50 + 20, update=2, validation=3)
    assert runs._pace({1: 9.0}, {}, seconds=12.0) == Pace(12.0, 0.0, None)


def test_what_is_measured_is_gone_and_so_is_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PAUSE", "0.001")
    assert runs.measure(small.config(data__source_language="fail"), fakes.train) == "divide by"
    measured = runs.measure(small.config(data__validation=None, data__source_language="slow", train__steps=10**6), fakes.train)
    assert isinstance(measured, Pace) and measured.update == 1.0 and measured.validation is None  # by the fake's own clock
    assert list(tmp_path.iterdir()) == []
