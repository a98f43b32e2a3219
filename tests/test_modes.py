"""The modes, from a folder of text to a translation of it, through the command line."""

import contextlib
import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import trained
from sacrebleu.metrics.chrf import CHRF
from trained import command, translator

from transformer import modes
from transformer.inference import predict, scores


@pytest.fixture
def loaded(monkeypatch):
    """Makes modes use the shared translator."""
    shared = translator()
    monkeypatch.setattr(predict, "load", lambda path, overrides=None: shared)


@pytest.fixture
def not_scored(monkeypatch):
    """Training alone: what follows it compiles for long."""
    monkeypatch.setattr(modes, "_finish", lambda *arguments: None)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# --- train -------------------------------------------------------------------------------------------------------------


def test_training_leaves_a_whole_workdir():
    run = trained.run()
    assert run.result.status == 0
    assert {path.name for path in run.workdir.iterdir()} == {
        "checkpoints",
        "config.json",
        "evaluation",
        "facts.json",
        "metrics.jsonl",
        "pictures",
        "record.json",
        "samples.txt",
        "tensorboard",
        "tokens",
        "vocabulary",
    }
    assert {path.name for path in (run.workdir / "checkpoints").iterdir()} == {"100", "150"}
    pictures = list((run.workdir / "pictures").iterdir())
    assert {"learning_curve.png", "cross_attention.png"} <= {path.name for path in pictures} and all(map(is_png, pictures))
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [50, 100, 150]
    assert [row["step"] for row in rows if "validation/loss" in row] == [50, 100, 150]


def test_training_tells_in_order_what_it_does():
    told, place = trained.run().result.err, 0
    for part in (
        "examples: train 200, validation 20, test 12; vocabulary: 16",
        "updates an epoch, padding ",
        "parameters; jit on 1 cpu device(s)",
        "step 50/150  loss ",
        "step 50/150  validation/loss ",
        "step 150/150  validation/loss ",
        "decoding 12 sentences of test",
        "samples: run/samples.txt",
        "learning_curve.png",
        "next:",
        "| python launch.py --mode=translate --workdir=run",
    ):
        place = told.find(part, place)
        assert place >= 0, part
    assert "goes on" not in told


def test_what_stdout_says_is_what_the_files_say():
    run = trained.run()
    found = json.loads((run.workdir / "evaluation" / "test.json").read_text())
    assert found["examples"] == 12 and found["checkpoints"] == [100, 150]
    lines = run.result.lines
    assert lines[0] == "test: 12 examples, mean of checkpoints 100, 150"
    rows = [line.split() for line in lines[1 : 1 + len(found["scores"])]]
    assert {row[0]: float(row[1].replace(",", "")) for row in rows} == pytest.approx(found["scores"], rel=1e-4, abs=1e-4)
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
    assert run.result.out.endswith((run.workdir / "samples.txt").read_text())


def test_scores_are_right():
    """Against sacrebleu itself, and against log-probabilities of the model, one pair at a time."""
    run = trained.run()
    found = json.loads((run.workdir / "evaluation" / "test.json").read_text())
    pairs = [(run.folder / "data" / f"test.{language}").read_text().splitlines() for language in ("en", "de")]
    samples = found["samples"]
    assert sorted((s["source"], s["target"]) for s in samples) == sorted(zip(*pairs, strict=True))
    said, wanted = [s["output"] for s in samples], [s["target"] for s in samples]
    assert found["scores"]["chrf"] == pytest.approx(CHRF().corpus_score(said, [wanted]).score)
    right = sum(a == b for a, b in zip(said, wanted, strict=True))
    assert found["scores"]["exact_match"] == pytest.approx(100 * right / 12)
    assert [s["right"] for s in samples] == [True] * right + [False] * (12 - right)
    assert len(set(said)) > 6  # a model that says the same of everything would hide mistakes here

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
    assert "all 150 updates are done (a larger config.train.steps goes on); scoring again" in again.err
    changed = {name for name, content in files(copy).items() if before.get(name) != content}
    assert changed - {name for name in changed if name.startswith("tensorboard")} == {"record.json"}
    assert len(json.loads((copy / "record.json").read_text())) == 2


def test_more_steps_go_on_where_it_stopped(tmp_path, not_scored):
    run = trained.run()
    copy = run.copy(tmp_path)
    with contextlib.chdir(run.folder):
        more = command(f"--config={run.experiment}", f"--workdir={copy}", "--config.train.steps=152")
    assert more.status == 0
    assert "train.steps: 150 -> 152" in more.err and "goes on after step 150 of 152" in more.err
    assert "step 152/152" in more.err and "step 50/" not in more.err
    assert {"150", "152"} <= {path.name for path in (copy / "checkpoints").iterdir()}
    old, new = ((folder / "metrics.jsonl").read_text() for folder in (run.workdir, copy))
    assert new.startswith(old) and json.loads(new.splitlines()[-1])["step"] == 152


@pytest.mark.parametrize("folder_is_there", [False, True])
def test_failed_preparation_leaves_no_trace(tmp_path, folder_is_there):
    """Else the corrected command would meet the settings of the wrong one."""
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


def test_a_run_meets_other_data_and_stays_as_it_was(tmp_path):
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


# --- evaluate ----------------------------------------------------------------------------------------------------------


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


# --- translate ---------------------------------------------------------------------------------------------------------


def translated(*sources: str) -> list[str]:
    return [outputs[0].text for outputs in translator().translate(sources)]


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"ab\nfed\n", ["ab", "fed"]),
        (b"ab\nfed", ["ab", "fed"]),
        (b"ab\r\nfed\r\n", ["ab", "fed"]),
        (b"\xef\xbb\xbfab\nfed\n", ["ab", "fed"]),
        (b"\n\nab\n \t \nfed\n\n", ["", "", "ab", "", "fed", ""]),
        ("ab\u2028c\nfe\x0bd\x85a\n".encode(), ["ab\u2028c", "fe\x0bd\x85a"]),
        (b"ab\n" * 11 + b"fedcba\n", ["ab"] * 11 + ["fedcba"]),
    ],
)
def test_a_line_out_for_a_line_in(text, sources, loaded):
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", stdin=text)
    assert (result.status, result.err) == (0, "")
    assert result.lines == translated(*sources)
    assert [line == "" for line in result.lines] == [source == "" for source in sources]


def test_translations_differ():
    """The tests above and below would be empty if they did not."""
    assert len(set(translated("ab", "fed", "fedcba", "c", "dddd"))) == 5


def test_files_in_and_out(tmp_path, loaded):
    source, target = tmp_path / "in.txt", tmp_path / "new" / "out.txt"
    source.write_bytes("ab\n\nfédé\n".encode())
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", f"--input={source}", f"--output={target}")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert target.read_text().split("\n") == [*translated("ab", "", "fédé"), ""]
    assert [path.name for path in target.parent.iterdir()] == ["out.txt"]


def test_a_sentence_too_long_has_a_notice_and_a_line(loaded):
    lines = "ab\n" + "abc" * 13 + "\n" + "d" * 40 + "\n" + "abc" * 20 + "\n"
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", stdin=lines.encode())
    assert result.status == 0 and len(result.lines) == 4 and all(result.lines)
    assert result.err == "2 sentences cut to 40 tokens (config.data.max_source_length), the first of them number 3\n"
    assert result.lines[3] == translated("abc" * 13)[0]  # 39 letters and the end fit


def test_input_that_is_not_utf8(tmp_path, loaded):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(b"ab\nfed\n\xff\nab\n")
    target.write_text("from before\n")
    workdir = f"--workdir={trained.run().workdir}"
    result = command("--mode=translate", workdir, f"--input={source}", f"--output={target}")
    assert (result.status, result.out) == (2, "")
    assert result.err == f"launch.py: {source}: line 3 is not UTF-8; convert it, for example with iconv\n"
    assert target.read_text() == "from before\n" and len(list(tmp_path.iterdir())) == 2
    assert command("--mode=translate", workdir, stdin=b"\xe9\n").err.startswith("launch.py: stdin: line 1 is not UTF-8")


@pytest.mark.parametrize("by_file", [False, True])
def test_a_closed_pipe_is_quiet(tmp_path, loaded, by_file):
    reading, writing = os.pipe()
    os.close(reading)
    (tmp_path / "in.txt").write_text("ab\n" * 9)
    more = [f"--input={tmp_path / 'in.txt'}"] if by_file else []
    with os.fdopen(writing, "w") as pipe:
        workdir = f"--workdir={trained.run().workdir}"
        result = command("--mode=translate", workdir, *more, stdin=b"ab\n" * 9, stdout=pipe)
    assert (result.status, result.err) == (0, "")


def test_a_pipe_as_output_stays_a_pipe(tmp_path, loaded):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", f"--output={pipe}", stdin=b"ab\n")
    reader.join()
    assert result.status == 0 and pipe.is_fifo() and got == [translated("ab")[0] + "\n"]


def test_what_would_end_a_line_is_a_space(monkeypatch, loaded):
    said = [[predict.Output("a\nb\rc\td", 0.0), predict.Output("e", -1.0)]]
    monkeypatch.setattr(translator(), "translate", lambda lines: (said[0] for _ in lines))
    assert command("--mode=translate", f"--workdir={trained.run().workdir}", stdin=b"x\n").out == "a b c d\te\n"


def test_a_person_at_a_terminal_is_told_what_is_awaited(monkeypatch, capsys, loaded):
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Terminal(b"ab\n")))
    modes.translate(trained.run().workdir, {}, None, None)
    shown = capsys.readouterr()
    assert shown.out == translated("ab")[0] + "\n"
    assert shown.err == "reading lines from the terminal; Ctrl-D ends them\n"


def test_translate_end_to_end(monkeypatch, tmp_path):
    """With nothing shared: settings of the search, hypotheses side by side, from another folder."""
    monkeypatch.chdir(tmp_path)
    few = ["--config.search.n_best=2", "--config.search.batch_size=2"]
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", *few, stdin=b"ab\n\nfed\n")
    assert (result.status, result.err) == (0, "")
    first, second = zip(*(line.split("\t") for line in result.lines), strict=True)
    assert list(first) == translated("ab", "", "fed")
    assert second[1] == "" and second[0] != first[0] and second[2] != first[2]


# --- attend, describe --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, "ABCD", ""])
def test_attention_maps(tmp_path, loaded, target):
    more = [] if target is None else [f"--target={target}"]
    workdir, folder = trained.run().workdir, tmp_path / "maps"
    result = command("--mode=attend", f"--workdir={workdir}", "--source=abc", f"--output={folder}", *more)
    assert result.status == 0
    assert result.err == f"attention maps of: abc → {translated('abc')[0] if target is None else target}\n"
    assert {Path(line).name for line in result.lines} == {
        "attention_encoder_self_attention.png",
        "attention_decoder_self_attention.png",
        "attention_decoder_cross_attention.png",
        "cross_attention.png",
    }
    assert sorted(result.lines) == sorted(map(str, folder.iterdir())) and all(is_png(Path(line)) for line in result.lines)


def test_attention_maps_lie_in_the_workdir_and_a_long_source_is_cut(tmp_path, loaded):
    copy = trained.run().copy(tmp_path)
    shutil.rmtree(copy / "pictures")
    result = command("--mode=attend", f"--workdir={copy}", "--source=" + "ab" * 30, "--target=A")
    assert result.status == 0 and "1 sentence cut to 40 tokens" in result.err
    assert len(list((copy / "pictures").iterdir())) == 4


def test_describe_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("--mode=describe", f"--config={trained.run().experiment}", "--config.data.vocabulary=bytes")
    assert (result.status, result.err, files(tmp_path)) == (0, "", {})
    table = 260 * 32  # one, shared three ways
    attention, feed_forward, norm = 4 * (32 * 32 + 32), 2 * 32 * 32 + 64, 64
    size = table + (attention + feed_forward + 2 * norm) + (2 * attention + feed_forward + 3 * norm)
    assert f"{size:,}" in result.out
