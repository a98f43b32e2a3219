"""sentences.csv: made from the outputs of runs, told in the report, and read without them."""

import json

import numpy as np
import pytest
import test_runs
import written
from test_report import table

from transformer.errors import UserError
from transformer.inference import sums
from transformer.runtime.workdir import Workdir
from transformer.studies import bootstrap, report, resampled, results
from transformer.studies.outcomes import Outcome
from transformer.studies.study import Metric

ARMS = {"8": {}, "16": {"model.d_model": "16"}, "24": {"model.d_model": "24"}}
METRICS = (Metric("validation/nll", "lower"), Metric("test/bleu", "higher"))
SENTENCES = 80


@pytest.fixture
def plan():
    return test_runs.plan(ARMS, metrics=METRICS, seeds=3)


def statistics(arm: str, seed: int) -> tuple[list[str], list[str]]:
    """Outputs, of which the wider arms have more words right, and references."""
    draw, right = np.random.default_rng([int(arm), seed]), 0.6 + int(arm) / 100
    references = [" ".join(np.random.default_rng(n).choice(list("abcdefgh"), 12)) for n in range(SENTENCES)]
    return [" ".join(w if draw.random() < right else "x" for w in line.split()) for line in references], references


def kept(plan, root, without=()):
    """Outcomes of runs that have left their outputs in `root`, but for those `without`."""
    outcomes = {}
    for run in plan.runs({}):
        outputs, references = statistics(run.arm, run.seed)
        if (run.arm, run.seed) not in without:
            file = Workdir(run.folder(root)).outputs_file("test")
            file.parent.mkdir(parents=True)
            rows = [{"source": "ü", "output": o, "reference": r} for o, r in zip(outputs, references, strict=True)]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        outcomes[run] = Outcome("finished", {"validation/nll": 2.0 + run.seed, "test/bleu": 30.0 + int(run.arm) + run.seed})
    return outcomes


def test_rows_are_those_of_the_bootstrap(plan, tmp_path):
    resampled.write(plan, tmp_path, kept(plan, tmp_path, without=[("24", 0)]))
    rows = resampled.read(tmp_path / "sentences.csv", plan.study)
    assert [(row.metric, row.arm, row.about, row.seeds) for row in rows] == [
        ("test/bleu", "16", "these two checkpoints", 0),
        ("test/bleu", "16", "these two arms", 3),
        ("test/bleu", "24", "these two checkpoints", 1),
        ("test/bleu", "24", "these two arms", 2),
    ]
    of = sums.SUMS["bleu"].score
    ours, theirs = (
        np.stack([sums.of_sentences("bleu", *statistics(arm, seed), "13a") for seed in range(3)]) for arm in ("16", "8")
    )
    two = bootstrap.checkpoints(of, ours[0], theirs[0])
    both = bootstrap.arms(of, ours, theirs, level=1 - 0.05 / 2)  # two arms are compared with the third
    assert (rows[0].difference, rows[0].low, rows[0].high, rows[0].p) == pytest.approx(
        (two.value, *two.interval, two.p), rel=1e-4
    )
    expected = (both.value, *both.interval, min(2 * both.p, 1))
    assert (rows[1].difference, rows[1].low, rows[1].high, rows[1].p) == pytest.approx(expected, rel=1e-4)


def test_the_report_tells_them(plan, tmp_path):
    rows = written.all_of(plan.study, lambda arm, seed: {"validation/nll": 2 + seed, "test/bleu": 30 + int(arm) + seed / 9})
    written.write(tmp_path, plan.study, rows)
    report.write(plan.study, tmp_path)
    without = (tmp_path / "report.md").read_text()
    assert "other sentences of this kind" not in without and "from `results.csv`, a row a run." in without
    resampled.write(plan, tmp_path, kept(plan, tmp_path))
    report.write(plan.study, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "from `results.csv`, a row a run, and `sentences.csv`." in text
    assert "On other sentences of this kind too: sentences and 3 seeds resampled together" in text
    assert "of two checkpoints, of seed 0" in text and text.count("other sentences of this kind") == 1
    found = table(text[text.index("On other sentences") :], "On other sentences")
    read = {(row.arm, row.about): row for row in resampled.read(tmp_path / "sentences.csv", plan.study)}
    assert list(found) == ["16", "24"]
    assert float(found["16"]["minus 8"]) == pytest.approx(read["16", "these two arms"].difference, abs=0.05)
    assert float(found["24"]["these two checkpoints"]) == pytest.approx(read["24", bootstrap.TWO].difference, abs=0.05)


def test_without_outputs_there_is_no_file(plan, tmp_path):
    every = [(run.arm, run.seed) for run in plan.runs({})]
    (tmp_path / "sentences.csv").write_text("of arms that were others\n")
    resampled.write(plan, tmp_path, kept(plan, tmp_path, without=every))
    assert not (tmp_path / "sentences.csv").exists() and resampled.read(tmp_path / "sentences.csv", plan.study) == []
    counts = Metric("validation/bleu", "higher", take="updates", target=3.0)
    assert [resampled.summed(metric) for metric in (*METRICS, counts)] == [None, "bleu", None]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("test/bleu,16", "test/bleu,17", 2), ("these two arms,3,", "these two arms,x,", 3), ("test/bleu,24", "test/chrf,24", 4)],
)
def test_a_file_that_is_damaged_or_anothers(plan, tmp_path, old, new, line):
    resampled.write(plan, tmp_path, kept(plan, tmp_path))
    path = tmp_path / "sentences.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"sentences.csv, line {line}: "):
        resampled.read(path, plan.study)


def test_results_has_nothing_of_it(plan, tmp_path):
    """Each file is made from the runs alone."""
    outcomes = kept(plan, tmp_path)
    results.write(plan, tmp_path, outcomes)
    before = (tmp_path / "results.csv").read_bytes()
    resampled.write(plan, tmp_path, outcomes)
    assert (tmp_path / "results.csv").read_bytes() == before
