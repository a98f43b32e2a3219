"""Scoring a split of a workdir, through the command line."""

import json

import pytest
import trained
from trained import command

from transformer.inference import scores


def test_evaluate_needs_the_workdir_alone(tmp_path, monkeypatch):
    """From another folder, though the data's folder was given relative to the first one; by a setting that may change."""
    run = trained.run()
    copy = run.copy(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = command("--mode=evaluate", "--workdir=run", "--split=validation", "--config.evaluate.average=1")
    assert result.status == 0
    assert result.lines[0] == "validation: 20 examples, checkpoint 150"
    found = json.loads((copy / "evaluation" / "validation.json").read_text())
    last = json.loads((copy / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["scores"]["nll"] == pytest.approx(last["validation/nll"], rel=1e-5)
    assert found["scores"]["loss"] == pytest.approx(last["validation/loss"], rel=1e-5)
    assert (copy / "evaluation" / "test.json").exists()


def test_scores_that_are_not_finite_are_told(tmp_path, monkeypatch, loaded):
    copy = trained.run().copy(tmp_path)
    monkeypatch.setattr(scores, "token_scores", lambda *arguments: {"perplexity": float("inf"), "nll": float("nan")})
    result = command("--mode=evaluate", f"--workdir={copy}", "--config.evaluate.scores=exact_match")
    assert result.status == 0 and "perplexity" in result.out and "inf" in result.out
    found = json.loads((copy / "evaluation" / "test.json").read_text())["scores"]
    assert found["perplexity"] is None and found["nll"] is None
