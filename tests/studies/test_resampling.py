"""sentences.csv: created from the outputs of runs, used in the report, and read without the outputs."""

import dataclasses
import json

import numpy as np
import pytest
import test_runs
import written
from test_report import table

from transformer.errors import UserError
from transformer.inference import sums
from transformer.runtime.workdir import Workdir
from transformer.statistics import bootstrap
from transformer.studies import findings, report, resampling, results
from transformer.studies.results import Outcome
from transformer.studies.study import Claim, Metric

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


def kept(plan, root, without=(), true_lengths=False):
    """Outcomes of runs that have left their outputs in `root`, but for those `without`."""
    outcomes = {}
    for run in plan.runs({}):
        outputs, references = statistics(run.arm, run.seed)
        if (run.arm, run.seed) not in without:
            file = Workdir(run.folder(root)).outputs_file("test")
            file.parent.mkdir(parents=True)
            rows = [{"source": "ü", "prediction": o, "reference": r} for o, r in zip(outputs, references, strict=True)]
            if true_lengths:
                rows = [row | {"prediction@true_length": row["reference"]} for row in rows]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        outcomes[run] = Outcome("finished", {"validation/nll": 2.0 + run.seed, "test/bleu": 30.0 + int(run.arm) + run.seed})
    return outcomes


def test_rows_are_those_of_the_bootstrap(plan, tmp_path):
    resampling.write(plan, tmp_path, kept(plan, tmp_path, without=[("24", 0)]))
    rows = resampling.read(tmp_path / "sentences.csv", plan.study)
    assert [(row.metric, row.arm, row.against, row.seed) for row in rows] == [
        ("test/bleu", "16", "8", 0),
        ("test/bleu", "24", "8", 1),
    ]
    of = sums.SUMS["bleu"].score
    ours, theirs = (
        [bootstrap.resample(of, sums.of_sentences("bleu", *statistics(arm, seed), "13a")) for seed in range(3)]
        for arm in ("16", "8")
    )
    two, shared = bootstrap.checkpoints(ours[0], theirs[0]), bootstrap.shared_error(ours, theirs)
    expected = (shared, two.value, *two.interval, two.p)
    assert dataclasses.astuple(rows[0])[3:4] + dataclasses.astuple(rows[0])[5:] == pytest.approx(expected, rel=1e-3)


def test_neighbours_in_an_order_and_scores_of_some_lengths(tmp_path):
    """Sources are of one word here."""
    named = tuple(Metric(f"test/bleu{lengths}", "higher") for lengths in ("", "@1-4", "@5-9", "@true_length"))
    claims = (Claim("wider is better", "here", "order", ("24", "16", "8")),)
    plan = test_runs.plan(ARMS, metrics=METRICS, seeds=2, claims=claims)
    plan = dataclasses.replace(plan, study=dataclasses.replace(plan.study, metrics=named))
    resampling.write(plan, tmp_path, kept(plan, tmp_path))
    rows = resampling.read(tmp_path / "sentences.csv", plan.study)
    assert [(row.arm, row.against) for row in rows] == [("16", "8"), ("24", "8"), ("24", "16")] * 2
    assert [row.metric for row in rows] == ["test/bleu"] * 3 + ["test/bleu@1-4"] * 3
    assert dataclasses.replace(rows[5], metric="test/bleu") == rows[2]
    assert set(resampling.shared(rows, named[1])) == {("16", "8"), ("24", "8"), ("24", "16")}


def test_outputs_as_long_as_their_references(tmp_path):
    """They are other outputs than those of the model's own lengths: here they are all right, in all arms."""
    named = tuple(Metric(f"test/{score}", "higher") for score in ("word_accuracy@true_length", "word_accuracy"))
    plan = test_runs.plan(ARMS, metrics=METRICS, seeds=2)
    plan = dataclasses.replace(plan, study=dataclasses.replace(plan.study, metrics=named))
    resampling.write(plan, tmp_path, kept(plan, tmp_path, true_lengths=True))
    rows = resampling.read(tmp_path / "sentences.csv", plan.study)
    assert [(row.metric, row.difference == 0) for row in rows] == [(named[0].name, True)] * 2 + [(named[1].name, False)] * 2


def test_the_report_tells_them(plan, tmp_path):
    rows = written.all_of(plan.study, lambda arm, seed: {"validation/nll": 2 + seed, "test/bleu": 30 + int(arm) + seed / 9})
    written.write(tmp_path, plan.study, rows)
    report.write(plan.study, tmp_path)
    without = (tmp_path / "report.md").read_text()
    assert "other test sentences" not in without and "from `results.csv`, which has a row for each run." in without
    resampling.write(plan, tmp_path, kept(plan, tmp_path))
    report.write(plan.study, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "from `results.csv`, which has a row for each run, and `sentences.csv`." in text
    begin = "The intervals above also cover other test sentences. Two checkpoints each, of seed 0,"
    assert text.count(begin) == 1  # validation's loss is no such score
    assert text.count("the variance from resampling the test sentences") == 1
    found = table(text[text.index(begin) :], begin)
    read = {row.arm: row for row in resampling.read(tmp_path / "sentences.csv", plan.study)}
    assert list(found) == ["16", "24"]
    assert float(found["24"]["these two checkpoints: minus 8"]) == pytest.approx(read["24"].difference, abs=0.05)


@pytest.mark.parametrize(("error", "word"), [(0.1, "agrees"), (20.0, "cannot tell"), (None, "agrees")])
def test_verdicts_are_about_other_sentences_too(tmp_path, error, word):
    """8 and 16 parted by 8 points, with little noise of seeds: by the test's sentences alone it can be chance."""
    claims = (Claim("wider is better", "here", "better", ("16", "24")),)
    study = test_runs.plan(ARMS, metrics=METRICS[::-1], seeds=3, claims=claims).study
    noise = {"8": (0, 0.5, 0.1), "16": (0.3, 0, 0.2), "24": (0.2, 0.1, 0.6)}
    rows = written.all_of(study, lambda arm, seed: {"validation/nll": 2.0, "test/bleu": 30 + int(arm) + noise[arm][seed]})
    written.write(tmp_path, study, rows)
    sentences = [resampling.Row("test/bleu", arm, "8", error, 0, 8.0, 7.0, 9.0, 0.01) for arm in ("16", "24")]
    found = findings.find(study, results.read(tmp_path / "results.csv", study), sentences)
    assert found.judged[0].verdict.word == word
    # With nothing but sentences' noise, a difference of 2.8 standard errors or more is found in four of five studies.


def test_verdicts_about_more_than_two_arms_are_about_seeds_alone(tmp_path):
    claims = (
        Claim("wider is better", "here", "better", ("16",)),
        Claim("more so", "here", "better", ("24",), beyond=("16", "8")),
        Claim("it rises", "here", "rises", ("8", "16", "24"), sizes=(8.0, 16.0, 24.0)),
        Claim("less is lost", "here", "better", ("16",), minus="validation/nll"),
        Claim("of no sentences", "here", "better", ("24",), metric="validation/nll"),
    )
    study = test_runs.plan(ARMS, metrics=METRICS[::-1], seeds=3, claims=claims, compare_with="8").study
    rows = written.all_of(study, lambda arm, seed: {"validation/nll": 2.0 + seed, "test/bleu": 30 + int(arm) + seed / 9})
    written.write(tmp_path, study, rows)
    sentences = [resampling.Row("test/bleu", arm, "8", 0.1, 0, 8.0, 7.0, 9.0, 0.01) for arm in ("16", "24")]
    for known, wanted in ((sentences, [False, True, True, True, False]), ([], [False] * 5)):
        found = findings.find(study, results.read(tmp_path / "results.csv", study), known)
        lines = [line for line in report.markdown(found).splitlines() if line.startswith("**Verdict")]
        assert ["not about other test sentences" in line for line in lines] == wanted


def test_without_outputs_there_is_no_file(plan, tmp_path):
    every = [(run.arm, run.seed) for run in plan.runs({})]
    (tmp_path / "sentences.csv").write_text("of arms that were others\n")
    resampling.write(plan, tmp_path, kept(plan, tmp_path, without=every))
    assert not (tmp_path / "sentences.csv").exists() and resampling.read(tmp_path / "sentences.csv", plan.study) == []
    counts = Metric("validation/bleu", "higher", take="updates", target=3.0)
    assert [resampling.summed(metric) for metric in (*METRICS, counts)] == [False, True, False]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("test/bleu,16", "test/bleu,17", 2), ("bleu,16,8,", "bleu,16,8,x", 2), ("test/bleu,24", "test/chrf,24", 3)],
)
def test_a_file_that_is_damaged_or_anothers(plan, tmp_path, old, new, line):
    resampling.write(plan, tmp_path, kept(plan, tmp_path))
    path = tmp_path / "sentences.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"sentences.csv, line {line}: "):
        resampling.read(path, plan.study)


def test_results_has_nothing_of_it(plan, tmp_path):
    """Each file is made from the runs alone."""
    outcomes = kept(plan, tmp_path)
    results.write(plan, tmp_path, outcomes)
    before = (tmp_path / "results.csv").read_bytes()
    resampling.write(plan, tmp_path, outcomes)
    assert (tmp_path / "results.csv").read_bytes() == before


def test_outputs_that_are_elsewhere_are_not_needed_again(plan, tmp_path):
    """On another machine, with the files alone and one more seed, the rows are those of all outputs in one place."""
    outcomes = kept(plan, tmp_path / "whole")
    resampling.write(plan, tmp_path / "whole", outcomes)
    early = [run for run in outcomes if run.seed < 2]
    kept(plan, tmp_path / "first", without=[(run.arm, run.seed) for run in outcomes if run not in early])
    resampling.write(plan, tmp_path / "first", {run: outcomes[run] for run in early})
    kept(plan, tmp_path / "second", without=[(run.arm, run.seed) for run in early])
    for name in ("sentences.csv", "resamples.csv"):
        (tmp_path / "second" / name).write_bytes((tmp_path / "first" / name).read_bytes())
    resampling.write(plan, tmp_path / "second", outcomes)
    for name in ("sentences.csv", "resamples.csv"):
        assert (tmp_path / "second" / name).read_text() == (tmp_path / "whole" / name).read_text()
    (tmp_path / "second" / "resamples.csv").unlink()
    rows = (tmp_path / "second" / "sentences.csv").read_text()
    resampling.write(plan, tmp_path / "second", outcomes)  # as an older version has left it: rows of all seeds stay
    assert (tmp_path / "second" / "sentences.csv").read_text() == rows
