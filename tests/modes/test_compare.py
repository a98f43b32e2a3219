"""Comparison of runs: differences, their size, and a page that shows them."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import trained
from trained import command

from transformer import settings
from transformer.config import Config
from transformer.modes import comparison


def made(name: str, predictions: list[str], references: list[str]) -> comparison.Compared:
    pairs = enumerate(zip(predictions, references, strict=True))
    rows = [{"source": f"s{n}", "reference": reference, "prediction": text} for n, (text, reference) in pairs]
    return comparison.Compared(name, Config(), {}, rows, [])


def test_an_interval_is_that_of_the_paired_difference():
    """For exact match, a sentence's difference is 0 or 1, and the bootstrap distribution of the mean is nearly normal."""
    draw, references = np.random.default_rng(1), [str(n) for n in range(400)]
    right, better = draw.random(400) < 0.5, draw.random(400) < 0.2
    base = made("a", [r if ok else "x" for r, ok in zip(references, right, strict=True)], references)
    other = made("b", [r if ok else "x" for r, ok in zip(references, right | better, strict=True)], references)
    differences = 100 * (~right & better)
    half = 1.96 * differences.std() / 20
    low, high = comparison.interval("exact_match", other, base, []) or (0, 0)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.8) and low > 0
    notes: list[str] = []
    assert comparison.interval("exact_match", other, made("c", ["x"], ["y"]), notes) is None and len(notes) == 1
    assert comparison.interval("chrf", other, base, notes) is None and len(notes) == 1


def test_labels_keep_their_case():
    """A lowercase classifier with capitals in its labels; the other run has half of them right."""
    references = ["Positive", "Negative"] * 50
    base, other = made("a", ["Positive"] * 100, references), made("b", references, references)
    lowercase = settings.replace(Config(), "data.lowercase", True)
    base, other = (dataclasses.replace(each, config=lowercase) for each in (base, other))
    low, high = comparison.interval("accuracy", other, base, []) or (0, 0)
    assert 35 < low < 50 < high < 65


def test_two_runs_are_compared(tmp_path):
    """The second run is a copy with another search and one damaged output."""
    first = trained.run().workdir
    second = Path(shutil.copytree(first, tmp_path / "other"))
    config = json.loads((second / "config.json").read_text())
    config["search"]["beam_size"] = 1
    (second / "config.json").write_text(json.dumps(config))
    outputs = second / "evaluation" / "test.jsonl"
    rows = [json.loads(line) for line in outputs.read_text().splitlines()]
    rows[3]["prediction"] = "<b>*NO* | never"
    outputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = command("--mode=compare", f"--workdir={first},{second}", f"--output={tmp_path}/page.html")
    assert (result.status, result.err) == (0, "") and result.lines[-1] == f"{tmp_path}/page.html"
    assert [line.split() for line in result.lines if line.startswith("search.")] == [["search.beam_size", "2", "1"]]
    [scored] = [line for line in result.lines if line.startswith("exact_match ")]
    assert [line.split()[1:] for line in result.lines if line.startswith("checkpoint ")] == [["100,", "150"] * 2]
    assert re.search(r"\+0\.0000 \([-+]\d+\.\d\d to \+0\.00\)", scored)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<strong>&lt;b&gt;*NO*</strong>" in page and "<svg" in page and "1 of 12" in page and "<script" not in page


@pytest.mark.parametrize("value", ["", "{0}", "{0},{0}", "{0},{0}/", "{0},", "{0},nowhere"])
def test_what_cannot_be_compared_is_one_line(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    result = command("--mode=compare", *([f"--workdir={value.format(trained.run().workdir)}"] if value else []))
    assert result.status == 2 and "--workdir" in result.err and result.err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert "--workdir= " not in result.err
