"""Scoring a split of a workdir, through the command line."""

import json

import pytest
import trained
from trained import command

from transformer import settings
from transformer.inference import scores
from transformer.modes.scoring import reported


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


def test_scores_by_length(tmp_path, monkeypatch, loaded):
    """Of one word, which all sources have, and of two. What a study may ask for is what is written, or absent."""
    run = trained.run().copy(tmp_path)
    used = trained.translator()
    asked = {"evaluate.scores": "exact_match,chrf", "evaluate.lengths": "1,2,3", "evaluate.places": "1,2,30,31"}
    monkeypatch.setattr(used, "config", settings.override(used.config, asked))
    result = command("--mode=evaluate", f"--workdir={run}")
    found = json.loads((run / "evaluation" / "test.json").read_text())["scores"]
    assert found["exact_match@1-1"] == found["exact_match"] and found["chrf@1-1"] == found["chrf"] > 0
    assert 0 <= found["place_accuracy@1-1"] <= 100
    assert [line.split()[0] for line in result.lines[6:10]] == ["exact_match", "exact_match@1-1", "chrf", "chrf@1-1"]
    named = {name.removeprefix("test/") for name in reported(used.config) if name.startswith("test/")}
    assert named == set(found) | {"exact_match@2-2", "chrf@2-2"} | {f"place_accuracy@{a}" for a in ("2-29", "30-30")}
    labels = settings.override(used.config, {"family": "encoder_only", "objective.kind": "classify", "evaluate.scores": ""})
    assert not any("@" in name for name in reported(labels))
