"""Behaviour of a run in case of problems: a second run, damage, numbers that are not finite, no time, a full disk."""

import contextlib
import dataclasses
import random
import resource
import shutil
import signal
import types
from pathlib import Path

import numpy as np
import pytest

from transformer import families
from transformer.config import Checkpoint, Config, Data, Model, Train
from transformer.errors import UserError
from transformer.modes import training
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.lock import only_run
from transformer.training import loop
from transformer.training.telemetry import TIMED, read_metrics
from transformer.validation import validate

STEPS = 6


def config(data: Path, **train) -> Config:
    return validate(
        Config(
            model=Model(num_encoder_layers=1, num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2),
            data=Data(
                **{"source": "text", "directory": str(data), "test": None, "validation": None, "vocabulary": "characters"},
                **{"max_source_length": 16, "max_target_length": 16, "row_length": 32},
            ),
            train=Train(**{"steps": STEPS, "batch_tokens": 128, "warmup_steps": 3, "log_every": 1} | train),
            checkpoint=Checkpoint(every_steps=2),
        )
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with `data` and the finished workdir `run`. Tests must not write into it."""
    folder, draw = tmp_path_factory.mktemp("interrupted"), random.Random(0)
    (folder / "data").mkdir()
    lines = ["".join(draw.choices("abcd", k=draw.randint(1, 9))) for _ in range(60)]
    for language, step in (("en", 1), ("de", -1)):
        (folder / "data" / f"train.{language}").write_text("".join(line[::step] + "\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        alone(patch)
        training.train(config(folder / "data"), folder / "run")
    return folder


def alone(patch) -> None:
    """Only training, without the following steps."""
    patch.setattr(training, "_finish", lambda *arguments: None)
    patch.setattr(training, "peak_flops", lambda devices: 1e11)


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """The copy `tmp_path / "run"` of the finished run, and a function that trains there."""
    alone(monkeypatch)
    shutil.copytree(finished / "run", tmp_path / "run")
    return lambda **settings: training.train(config(finished / "data", **settings), tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def untimed(workdir: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(workdir / "metrics.jsonl")]


def sound(workdir: Path) -> list[int]:
    with contextlib.closing(Checkpoints(workdir / "checkpoints", Checkpoint())) as checkpoints:
        return checkpoints.sound(notice=pytest.fail)


def spoil(monkeypatch, first: int) -> dict[int, dict[str, np.ndarray]]:
    """Makes the weights of all updates from `first` on NaN; returns the batches by update."""
    read, seen = training.pipeline.read, {}

    def spoilt(batches, begin, *rest):
        for number, batch in enumerate(read(batches, begin, *rest), begin + 1):
            if number >= first:
                batch = batch | {"weights": batch["weights"] * np.float32(np.nan)}
            yield seen.setdefault(number, batch)

    monkeypatch.setattr(training.pipeline, "read", spoilt)
    return seen


def test_a_second_run_is_refused_and_changes_nothing(again, tmp_path):
    with only_run(tmp_path / "run"):
        before = contents(tmp_path)
        with pytest.raises(UserError, match=f"--workdir={tmp_path / 'run'}: it is in use by a run \\(process \\d+\\)"):
            again(steps=9, seed=3)
        assert contents(tmp_path) == before


def test_it_holds_the_lock_from_before_it_writes_until_its_cleaning_up_is_done(finished, tmp_path, monkeypatch):
    """A second run is refused at every moment that is checked; a new run that fails in preparation leaves nothing."""
    refused = []

    def look(name, fails):
        real = getattr(training, name)

        def looking(*arguments):
            with pytest.raises(UserError, match="it is in use by a run"), only_run(tmp_path / "new"):
                pass
            refused.append(name)
            if fails:
                raise UserError("no data")
            return real(*arguments)

        monkeypatch.setattr(training, name, looking)

    look("_read", True)
    real = shutil.rmtree
    monkeypatch.setattr(training.workdirs, "create", lambda path, *rest: (path / "vocabulary").mkdir())
    monkeypatch.setattr(shutil, "rmtree", lambda path: (pytest.raises(UserError, take, path), real(path)))

    def take(path):
        with only_run(path.parent):
            pass

    with pytest.raises(UserError, match="no data"):
        training.train(config(finished / "data"), tmp_path / "new")
    assert refused == ["_read"] and not (tmp_path / "new").exists()


def test_ctrl_c_during_preparation_keeps_what_was_prepared(finished, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    alone(monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.pipeline, "plan", interrupted)
        training.train(config(finished / "data"), tmp_path / "run")
    assert {"config.json", "vocabulary", "tokens", "data_info.json"} <= {file.name for file in (tmp_path / "run").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(training.prepare.training, "train", pytest.fail)  # the vocabulary is not learned again
        training.train(config(finished / "data"), tmp_path / "run")
    assert untimed(tmp_path / "run") == untimed(finished / "run")


def test_with_a_damaged_last_checkpoint_training_resumes_from_the_previous_one(finished, again, tmp_path, capsys):
    """Later metrics are removed, training continues with the same batches, and ends with the same result."""
    file = next(file for file in (tmp_path / "run" / "checkpoints" / "6" / "optimizer" / "d").iterdir())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    again()
    stderr = capsys.readouterr().err
    assert f"checkpoints/6 is not used, and is now damaged-6: optimizer/d/{file.name} is damaged" in stderr
    assert "after step 4 of 6" in stderr
    assert sound(tmp_path / "run") == [2, 4, 6] and (tmp_path / "run" / "checkpoints" / "damaged-6").is_dir()
    assert untimed(tmp_path / "run") == untimed(finished / "run") and len(untimed(tmp_path / "run")) == STEPS


def test_updates_that_are_not_finite_end_the_run(again, tmp_path, monkeypatch):
    """Updates 9 to 11 are bad, and two are allowed. The last checkpoint precedes the last of them, and the batch is saved."""
    batches = spoil(monkeypatch, 9)
    with pytest.raises(UserError, match=r"not finite in 3 updates in a row, the last 11 .*not_finite_11\.npz; "):
        again(steps=20, max_skipped=2)
    with np.load(tmp_path / "run" / "not_finite_11.npz", allow_pickle=False) as kept:
        assert set(kept) == set(batches[11])
        assert all(np.array_equal(kept[name], batches[11][name], equal_nan=True) for name in kept)
    assert sound(tmp_path / "run")[-1] == 10
    rows = untimed(tmp_path / "run")
    assert [row["step"] for row in rows if "train/skipped" in row] == [9, 10, 11]
    monkeypatch.undo()
    alone(monkeypatch)
    again(steps=12)  # the last checkpoint is good: with good batches it goes on
    assert np.isfinite([row["train/loss"] for row in untimed(tmp_path / "run") if row["step"] in (11, 12)]).all()


@pytest.mark.slow
def test_nan_checks_name_the_operation(again, monkeypatch):
    spoil(monkeypatch, 7)
    with pytest.raises(UserError, match=r"config.train.debug_nans: invalid value \(nan\) encountered in \w+, .*transformer/"):
        again(steps=8, debug_nans=True)


def test_when_time_is_up_it_saves_and_prints_how_to_resume(again, tmp_path, monkeypatch, capsys):
    """The clock advances by a minute on each call: once at the beginning, then after each update."""
    minutes, stop = iter(range(100)), loop.Stop
    monkeypatch.setattr(training.loop, "Stop", lambda limit: stop(limit, lambda: 60.0 * next(minutes)))
    again(steps=20, max_minutes=3)
    stderr = capsys.readouterr().err
    assert "config.train.max_minutes 3" in stderr and "after step 9 of 20" in stderr
    assert sound(tmp_path / "run")[-1] == 9


def test_a_stop_in_the_last_update_leaves_the_scores_to_the_next_start(again, tmp_path, monkeypatch, capsys):
    read, scored = training.pipeline.read, []
    monkeypatch.setattr(training, "_finish", lambda *arguments: scored.append(arguments[-1]))

    def interrupted(batches, first, last, *rest):
        for number, batch in enumerate(read(batches, first, last, *rest), first + 1):
            if number == last:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(training.pipeline, "read", interrupted)
        assert not again(steps=9)
    assert "stopped after step 9, the last, saved" in capsys.readouterr().err
    assert sound(tmp_path / "run")[-1] == 9 and not scored
    assert again(steps=9) and scored == [9]


def test_a_full_disk_destroys_no_checkpoint(again, tmp_path, monkeypatch):
    read, limits = training.pipeline.read, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))  # bytes of a file
        yield from read(*arguments)

    monkeypatch.setattr(training.pipeline, "read", full)
    try:
        with pytest.raises(UserError, match=r"checkpoint 8 cannot be written \(File too large\).* resumes from step 6"):
            again(steps=9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sound(tmp_path / "run") == [2, 4, 6]


@pytest.mark.parametrize("steps", [STEPS, 9])
def test_a_disk_that_is_full_during_preparation_keeps_the_settings_whole(again, tmp_path, monkeypatch, steps):
    """With and without new settings, which cannot be taken back then."""
    read, limits = training._read, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes of a file
        return read(*arguments)

    monkeypatch.setattr(training, "_read", full)
    shutil.rmtree(tmp_path / "run" / "tokens")
    try:
        with pytest.raises(UserError, match="cannot write the tokens: File too large; free space"):
            again(steps=steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setattr(training, "_read", read)
    assert training.Workdir(tmp_path / "run").config().train.steps == steps
    again(steps=steps)
    assert sound(tmp_path / "run")[-1] == steps


def test_ctrl_c_leaves_no_part_of_a_vocabulary_of_another_run(finished, tmp_path, monkeypatch):
    """The next start would take it for the whole one."""
    new = training.Workdir(tmp_path / "new")
    new.path.mkdir()
    wanted = dataclasses.replace(config(finished / "data"), train=Train(init_from=str(finished / "run")))
    task, copied = families.task_of(wanted), contents(finished / "run" / "vocabulary")

    def interrupted(source, target, **how):
        (Path(target) / "first").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.shutil, "copytree", interrupted)
        training._start_from(wanted, task, new)
    assert not list(new.path.iterdir())
    training._start_from(wanted, task, new)
    assert contents(new.vocabulary) == copied


def test_trackers_receive_only_numbers(finished, tmp_path, monkeypatch):
    """A score that is not finite is null in its file."""
    rows, workdir = [], training.Workdir(tmp_path)
    training.workdirs.write_json(workdir.evaluation_file("test"), {"scores": {"loss": 2.5, "perplexity": None}})
    monkeypatch.setattr(training.predict, "load", lambda path: None)
    monkeypatch.setattr(training, "score_split", lambda *arguments: [])
    followed = types.SimpleNamespace(log=lambda *row: rows.append(row))
    training._finish(workdir, config(finished / "data"), {"test": None}, False, followed, 6)
    assert rows == [(6, {"test/loss": 2.5})]
