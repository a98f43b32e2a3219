"""Training, from a folder of text to a workdir, through the command line."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import trained
from sacrebleu.metrics.chrf import CHRF
from trained import command, translator


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_training_leaves_a_whole_workdir():
    run = trained.run()
    assert run.result.status == 0
    assert {path.name for path in run.workdir.iterdir()} == {
        "checkpoints",
        "config.json",
        "cuts.json",
        "evaluation",
        "data_info.json",
        "metrics.jsonl",
        "pictures",
        "record.json",
        "tensorboard",
        "tokens",
        "vocabulary",
    }
    assert {path.name for path in (run.workdir / "checkpoints").iterdir()} == {"100", "150"}
    pictures = list((run.workdir / "pictures").iterdir())
    assert {"learning_curve.png", "cross_attention.png", "attention.html"} <= {path.name for path in pictures}
    assert all(is_png(path) for path in pictures if path.suffix != ".html")
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [50, 100, 150]
    assert [row["step"] for row in rows if "validation/loss" in row] == [50, 100, 150]


def test_training_prints_its_steps_in_order():
    stderr, place = trained.run().result.err, 0
    for part in (
        "examples: train 200, validation 20, test 12; vocabulary: 16",
        "updates an epoch, padding ",
        "parameters; 1 cpu device",
        "step 50/150  loss ",
        "step 50/150  validation/loss ",
        "step 150/150  validation/loss ",
        "decoding 12 sentences of test",
        "samples: run/evaluation/test.txt",
        "learning_curve.png",
        "next:",
        "| python launch.py --mode=translate --workdir=run",
    ):
        place = stderr.find(part, place)
        assert place >= 0, part
    assert "resumes" not in stderr


def test_stdout_agrees_with_the_files():
    run = trained.run()
    found = json.loads((run.workdir / "evaluation" / "test.json").read_text())
    assert found["examples"] == 12 and found["checkpoints"] == [100, 150]
    lines = run.result.lines
    assert lines[0] == "test: 12 examples, mean of checkpoints 100, 150"
    rows = [line.split() for line in lines[1 : 1 + len(found["scores"])]]
    shown = {row[0]: float(row[1].replace(",", "")) for row in rows if row[1] != ">1,000,000"}  # a perplexity
    assert shown == pytest.approx({name: found["scores"][name] for name in shown}, rel=1e-4, abs=1e-4)
    assert [row[0] for row in rows] == [
        "loss",
        "nll",
        "token_accuracy",
        "perplexity",
        "perplexity_per_word",
        "exact_match",
        "chrf",
    ]
    assert found["signatures"]["chrf"] in run.result.out
    assert run.result.out.endswith((run.workdir / "evaluation" / "test.txt").read_text())


def test_scores_are_right():
    """Against sacrebleu itself, and against log probabilities of the model for one pair at a time."""
    run = trained.run()
    found = json.loads((run.workdir / "evaluation" / "test.json").read_text())
    pairs = [(run.folder / "data" / f"test.{language}").read_text().splitlines() for language in ("en", "de")]
    samples = found["samples"]
    assert sorted((s["source"], s["reference"]) for s in samples) == sorted(zip(*pairs, strict=True))
    predictions, wanted = [s["prediction"] for s in samples], [s["reference"] for s in samples]
    assert found["scores"]["chrf"] == pytest.approx(CHRF().corpus_score(predictions, [wanted]).score)
    right = sum(a == b for a, b in zip(predictions, wanted, strict=True))
    assert found["scores"]["exact_match"] == pytest.approx(100 * right / 12)
    assert [s["correct"] for s in samples] == [True] * right + [False] * (12 - right)
    assert len(set(predictions)) > 6  # a model that says the same of everything would hide mistakes here

    used = translator()
    nats, tokens, hits = 0.0, 0, 0
    for (_, target), logits in zip(zip(*pairs, strict=True), used.logits(*pairs), strict=True):
        labels = [*used.target_vocabulary.encode(target), 2]
        log_probs = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
        nats -= log_probs[np.arange(len(labels)), labels].sum()
        tokens, hits = tokens + len(labels), hits + (logits.argmax(axis=-1) == labels).sum()
    assert found["scores"]["nll"] == pytest.approx(nats / tokens, rel=1e-4)
    assert found["scores"]["token_accuracy"] == pytest.approx(100 * hits / tokens)
    assert found["scores"]["perplexity_per_word"] == pytest.approx(np.exp(nats / 12), rel=1e-3)


def test_a_finished_run_is_not_trained_again(tmp_path, loaded):
    run = trained.run()
    copy = run.copy(tmp_path)
    before = files(copy)
    with contextlib.chdir(run.folder):
        again = command(f"--config={run.experiment}", f"--workdir={copy}")
    assert again.status == 0 and again.out == run.result.out
    assert "complete after step 150" in again.err
    changed = {name for name, content in files(copy).items() if before.get(name) != content}
    assert changed - {name for name in changed if name.startswith("tensorboard")} == {"record.json"}
    first, second = json.loads((copy / "record.json").read_text())
    assert first["data"] == second["data"] and "kernels" not in first


def test_fused_kernels_are_printed_and_recorded(tmp_path, not_scored):
    run = trained.run()
    copy = run.copy(tmp_path)
    with contextlib.chdir(run.folder):
        result = command(
            f"--config={run.experiment}",
            f"--workdir={copy}",
            "--config.model.attention_backend=fused",
            "--config.train.loss_backend=fused",
        )
    assert result.status == 0, result.err
    found = {f"{where} attention": ["xla"] for where in ("encoder self", "decoder self", "decoder cross")} | {"loss": ["xla"]}
    assert json.loads((copy / "record.json").read_text())[-1]["kernels"] == found
    assert all(f"{what}: xla\n" in result.err for what in found)


def test_more_steps_resume_where_it_stopped(tmp_path, not_scored):
    run = trained.run()
    copy = run.copy(tmp_path)
    with contextlib.chdir(run.folder):
        more = command(f"--config={run.experiment}", f"--workdir={copy}", "--config.train.steps=152")
    assert more.status == 0
    assert "train.steps: 150 -> 152" in more.err and "resumes after step 150 of 152" in more.err
    assert "step 152/152" in more.err and "step 50/" not in more.err
    assert {"150", "152"} <= {path.name for path in (copy / "checkpoints").iterdir()}
    old, new = ((folder / "metrics.jsonl").read_text() for folder in (run.workdir, copy))
    assert new.startswith(old) and json.loads(new.splitlines()[-1])["step"] == 152


@pytest.mark.parametrize("folder_is_there", [False, True])
def test_failed_preparation_leaves_no_trace(tmp_path, folder_is_there):
    """Otherwise the corrected command would find the settings of the wrong one."""
    run = trained.run()
    workdir = tmp_path / "run"
    if folder_is_there:
        workdir.mkdir()
        (workdir / "notes.txt").write_text("mine")
    with contextlib.chdir(run.folder):
        wrong = command(f"--config={run.experiment}", f"--workdir={workdir}", "--config.data.validation=valid")
    assert wrong.status == 2 and "data/valid.en" in wrong.err and "did you mean 'validation.en'?" in wrong.err
    assert files(tmp_path) == ({"run/notes.txt": b"mine"} if folder_is_there else {})
    assert workdir.exists() == folder_is_there


def test_a_run_with_changed_data_is_refused_and_unchanged(tmp_path):
    run = trained.run()
    copy, data = run.copy(tmp_path), trained.write_corpus(tmp_path / "data")
    (data / "validation.de").write_text((data / "validation.de").read_text().replace("A", "E"))
    before = files(copy)
    result = command(f"--config={run.experiment}", f"--workdir={copy}", f"--config.data.directory={data}")
    assert result.status == 2 and "the data (validation) is not what this run began with" in result.err
    # Tokens are a cache, by content.
    assert {name: content for name, content in files(copy).items() if not name.startswith("tokens")} == {
        name: content for name, content in before.items() if not name.startswith("tokens")
    }
