"""Studies through the command line: real runs, a real kill, their report, the dry run, and errors for wrong input."""

import csv
import functools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tasks
import test_registry
from trained import ROOT, command

from transformer.studies import results, runs, workers
from transformer.studies.plan import Pace
from transformer.studies.results import Outcome

STUDY = """
import pathlib
from transformer import effects, settings
from transformer.config import Config
from transformer.studies.study import Claim, Metric, Study

def get_study():
    base = effects.without_idle(settings.override(settings.from_file("tiny.py", Config), {
        "family": "encoder_only", "objective.kind": "classify", "data.source": "tsv", "train.steps": "6",
        "train.evaluate_every": "2", "checkpoint.every_steps": "2",
    }))
    return Study(
        question="Does the norm's place matter?",
        claims=(Claim("it does", "here", "better", ("pre",)),),
        base=base,
        arms={"post": {}, "pre": {"model.norm_order": "pre", "model.final_norm": "false"}},
        metrics=(Metric("validation/nll", "lower"), Metric("test/accuracy", "higher"), Metric("test/nll", "lower")),
        compare_with="post",
        seeds=1,
        checkpoint="last",
        fair=("steps", "flops", "parameters"),
    )
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "data").mkdir()
    tasks.TASKS["classify"].files(tmp_path / "data")
    (tmp_path / "tiny.py").write_text(tasks.EXPERIMENT)
    (tmp_path / "study.py").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ablate = functools.partial(command, "--mode=ablate", "--config=study.py")


def table(workdir: str) -> list[dict[str, str]]:
    with Path(workdir, "results.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_study_ends_as_one_that_was_not(folder):
    """And it finds the known result: an arm that cannot learn is worse."""
    still = '"false", "train.learning_rate": "1e-9", "model.initializer": "normal"}'  # it says one half and one half
    frozen = study('"false"}', still).replace("seeds=1", "seeds=3")
    frozen = frozen.replace('Claim("it does", "here", "better"', 'Claim("what stands still is worse", "here", "worse"')
    (folder / "study.py").write_text(
        frozen.replace('"6"', '"60"').replace('every": "2"', 'every": "10"').replace('steps": "2"', 'steps": "20"')
    )
    for split in ("train", "validation", "test"):  # a label that is there to be learned
        lines = [f"{'yes' if 'egg' in text else 'no'}\t{text}" for text in ("ann has egg", "ben has fan", "cat has hen", "egg")]
        (folder / "data" / f"{split}.tsv").write_text("\n".join(lines * 10) + "\n")

    whole = ablate("--workdir=whole", "--workers=2")
    assert whole.status == 0 and whole.out == "agrees: what stands still is worse (here)\n", whole.err
    assert whole.err.splitlines()[-1].startswith("report: whole/report.md")
    rows = table("whole")
    assert [(row["arm"], row["seed"], row["status"]) for row in rows] == [
        (arm, seed, "finished") for arm in ("post", "pre") for seed in "012"
    ]
    for row in rows:
        [run] = Path("whole/runs", row["arm"]).glob(f"{row['seed']}-*/")
        scores = json.loads((run / "evaluation" / "test.json").read_text())["scores"]
        assert float(row["test/nll"]) == scores["nll"] and float(row["test/accuracy"]) == scores["accuracy"]
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["step"] == 60 and float(row["validation/nll"]) == last["validation/nll"]
        assert row["curve of validation/nll"].split()[-1] == f"60:{last['validation/nll']:.5g}"
        assert int(row["parameters"]) > 1000 and float(row["flops"]) > 0 and "jax=" in row["versions"]
    assert len({row["validation/nll"] for row in rows}) == 6 and len({row["parameters"] for row in rows}) == 1
    report = Path("whole/report.md").read_text()
    assert "**Verdict: agrees.** The runs agree with the claim: in `validation/nll`, `pre` is worse than `post` by " in report
    assert "`model.final_norm=false` `model.initializer=normal` `model.norm_order=pre` `train.learning_rate=1e-09`" in report
    assert "/" not in report[report.index("data.directory=") :].splitlines()[0]

    shutil.copytree("whole", "killed", ignore=shutil.ignore_patterns("1-*", "results.csv", "report.*", "figure.*"))
    [first] = Path("whole/runs/post").glob("1-*/")
    shutil.copytree(first, Path("killed/runs/post", first.name))  # as before the last run
    process = subprocess.Popen(
        [sys.executable, ROOT / "launch.py", "--mode=ablate", "--config=study.py", "--workdir=killed"],
        stderr=subprocess.DEVNULL,
    )
    second = Path("killed/runs/pre")
    while not any(file.read_text().count("\n") > 1 for file in second.glob("1-*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    done = [row for row in rows if (row["arm"], row["seed"]) != ("pre", "1")]
    assert table("killed") == done and not list(second.glob("1-*/evaluation"))
    again = ablate("--workdir=killed")
    assert again.status == 0 and "\n5 of 6 runs are done already\n" in again.err
    assert "\n6/6 runs  pre, seed 1: validation/nll " in again.err
    assert table("killed") == rows

    Path("kept").mkdir()
    for name in ("results.csv", "sentences.csv", "plan.json"):
        shutil.copy(f"whole/{name}", "kept")
    alone = command("--mode=report", "--config=study.py", "--workdir=kept")
    assert alone.status == 0 and alone.err.startswith("report: kept/report.md"), alone.err
    for name in ("report.md", "report.html", "figure.svg"):
        assert Path("kept", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_dry_run_trains_nothing(folder, monkeypatch):
    measured = []
    monkeypatch.setattr(runs, "measure", lambda config, train: measured.append(config) or Pace(1.0, 2.0, 3.0))
    asked = "--workdir=run", "--config.base.train.steps=100", "--config.seeds=3"
    result = ablate(*asked, "--dry_run")
    assert result.status == 0 and not measured and not Path("run").exists()
    assert "6 runs: 6 of 2 arms x 3 seeds, " in result.out
    result = ablate(*asked, "--dry_run=measure")
    assert result.status == 0 and not Path("run").exists()
    assert [config.model.norm_order for config in measured] == ["post", "pre"]
    assert [config.train.steps for config in measured] == [100, 100]
    # A second to start, 100 updates of 2, 50 validations of 3.
    assert [line.split()[-1] for line in result.lines if line.startswith(("post", "pre"))] == ["0:05:51"] * 2
    assert "; expected 0:35:06 with 1 at a time" in result.out


def test_a_failed_arm_is_status_1(folder, monkeypatch):
    def run_all(plan, root, train, place):
        first, second = plan.runs({})
        found = {first: Outcome("finished", {"validation/nll": 1.0}), second: Outcome("failed", error="x")}
        results.write(plan, root, found)
        return runs.Results(found, False)

    monkeypatch.setattr(runs, "run_all", run_all)
    result = ablate("--workdir=run")
    failed = "failed: 1 run, of pre; the same command tries them again"
    assert result.status == 1 and failed in result.err.splitlines()
    assert "- `pre`, seed 0: failed, x" in Path("run/report.md").read_text()
    monkeypatch.setattr(
        runs, "run_all", lambda plan, *rest: runs.Results({plan.run("pre", 0, "search", 0.1): Outcome("failed")}, False)
    )
    result = ablate("--workdir=search", "--config.learning_rates=0.1,0.2")
    assert result.status == 1 and result.err.splitlines()[-1] == failed


def test_a_report_needs_results_of_its_study(folder):
    result = command("--mode=report", "--config=study.py", "--workdir=run")
    assert (result.status, result.err) == (2, "launch.py: run/results.csv: there is no such file; --mode=ablate makes it\n")


def study(old: str, new: str) -> str:
    assert old in STUDY
    return STUDY.replace(old, new)


# The study's text, more arguments, and a part of the line.
WRONG: dict[str, tuple[str, list[str], str]] = {
    "no study": ("x = 1", [], "--config=study.py: it has no get_study() that returns a Study"),
    "config": (tasks.EXPERIMENT, [], "has no get_study() that returns a Study; it is an experiment: add --arm or --grid"),
    "arms of a study": (STUDY, ["--grid=model.num_heads=1,2"], "it is a study: use --mode=ablate, without --arm and --grid"),
    "setting": (STUDY, ["--config.base.model.num_head=3"], "did you mean 'base.model.num_heads'?"),
    "not the base's": (STUDY, ["--config.train.steps=3"], "did you mean 'base.train.steps'?"),
    "base": (STUDY, ["--config.base=tinny.py"], "--config.base=tinny.py: there is no such file; did you mean 'tiny.py'?"),
    "seeds": (STUDY, ["--config.seeds=0"], "config.seeds is 0"),
    "workers": (STUDY, ["--workers=0"], "workers"),
    "arm": (study("norm_order", "norm_ordre"), [], "arm 'pre': --config.model.norm_ordre: there is no such setting"),
    "equal arms": (study('"pre", "model.final_norm": "false"', '"post"'), [], "'post' and 'pre' have the same settings"),
    "unfair": (study('"false"', '"false", "model.d_ff": "64"'), [], "arms must have equal flops, but 'pre' has"),
    "metric": (study("test/accuracy", "test/bleu"), [], "metric 'test/bleu': arm 'post' does not report it"),
    "score": (STUDY, ["--config.base.evaluate.scores=accuracy,blue"], "there is no score 'blue'"),
    "compare_with": (study('compare_with="post"', 'compare_with="prost"'), [], "did you mean 'post'?"),
    "claim": (study('("pre",)', '("per",)'), [], "claim 1 names the arm 'per', which does not exist; did you mean 'pre'?"),
    "workdir": (STUDY, ["--workdir=tiny.py/run"], "--workdir=tiny.py/run cannot be made or written"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_found_before_anything_is_trained(name, folder, monkeypatch):
    text, arguments, message = WRONG[name]
    monkeypatch.setattr(workers, "start", lambda *arguments: pytest.fail("a run was started"))
    (folder / "study.py").write_text(text)
    result = ablate("--workdir=run", *arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("launch.py: ") and result.err.count("\n") == 1 and len(result.err) < 600
    assert message in result.err
    assert not Path("run").exists()


@pytest.mark.slow
def test_seeds_by_one_program_come_out_as_alone(folder):
    (folder / "study.py").write_text(STUDY.replace("seeds=1", "seeds=3"))
    for name, more in (("alone", []), ("together", ["--vmap_seeds=2"])):
        result = ablate(f"--workdir={name}", "--config.base.data.buckets=1", *more)
        assert result.status == 0, result.err
    alone, together = table("alone"), table("together")
    assert len(alone) == 6
    for one, other in zip(alone, together, strict=True):
        assert (one["arm"], one["seed"], one["status"], one["hash"]) == tuple(
            other[n] for n in ("arm", "seed", "status", "hash")
        )
        for name in ("validation/nll", "test/nll"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4)
    [seconds] = Path("together/runs/post").glob("1-*.seconds")
    assert float(seconds.read_text()) > 0 and "examples: train" in seconds.with_suffix(".log").read_text()


@pytest.mark.slow
def test_arms_with_classes_in_files_are_trained_by_workers(folder):
    """As the model's attention and as that of a layer type; the workdir keeps a copy of the file."""
    (folder / "own.py").write_text(test_registry.SOFT_CAP)
    arms = {
        "whole": {"model.attention": "own.py:SoftCap", "model.attention.cap": "5"},
        "stack": {
            f"model.layer_types.encoder.attention{name}": value for name, value in (("", "own.py:SoftCap"), (".cap", "5"))
        },
    }
    text = STUDY.replace('"pre": {"model.norm_order": "pre", "model.final_norm": "false"}', f"**{arms}")
    (folder / "study.py").write_text(text.replace('("pre",)', '("stack",)'))
    result = ablate("--workdir=run", "--workers=2")
    assert result.status == 0, result.err
    rows = {row["arm"]: row for row in table("run")}
    assert {row["status"] for row in rows.values()} == {"finished"}
    assert rows["whole"]["validation/nll"] == rows["stack"]["validation/nll"] != rows["post"]["validation/nll"]
    for arm in arms:
        assert [file.read_text() for file in Path("run/runs", arm).glob("0-*/variants/own.py")] == [test_registry.SOFT_CAP]


def test_seeds_by_one_program_want_batches_of_one_shape(folder):
    result = ablate("--workdir=run", "--vmap_seeds=2", "--config.base.data.buckets=2")
    assert (result.status, result.out) == (2, "") and not Path("run").exists()
    assert result.err.startswith("launch.py: --vmap_seeds: batches of arm 'post' have 2 shapes") and result.err.count("\n") == 1
    result = ablate("--workdir=run", "--vmap_seeds=2", "--ray=10.0.0.1:6379")
    assert (result.status, result.err.count("\n")) == (2, 1) and "leave one of them out" in result.err


def test_without_ray_the_error_names_the_remedy(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = ablate("--workdir=run", "--ray=10.0.0.1:6379")
    assert (result.status, result.out) == (2, "") and not Path("run").exists()
    assert result.err.startswith("launch.py: --ray=10.0.0.1:6379: Ray, an extra, cannot be imported (")
    assert result.err.endswith('); pip install "ray>=2.60,<3"\n') and result.err.count("\n") == 1


def test_help_says_what_a_study_has():
    lines = command("--help=study").lines
    for name in ("compare_with", "seeds", "fair", "learning_rates", "checkpoint"):
        assert [line for line in lines if line.startswith(f"  {name}=")], name
    assert [line for line in lines if line.startswith("  seeds=5 ")]
    lines = command("--help").lines
    assert {"  --dry_run", "  --ray", "  --workers"} <= {line.split("=")[0] for line in lines}
