"""Vectorized seeds in one program: each run leaves the same files as alone."""

import io
import signal

import jax
import numpy as np
import pytest

from transformer.config import Checkpoint, Config, Data, Model, Train
from transformer.errors import UserError
from transformer.inference import loading
from transformer.modes import training
from transformer.runtime.vmap_seeds import VmapSeeds
from transformer.settings import override
from transformer.training.telemetry import TIMED, read_metrics

SEEDS = (5, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("together"), np.random.default_rng(0)
    for name, count in (("train", 80), ("validation", 6)):
        lines = ["".join(rng.choice(list("abcd"), rng.integers(2, 9))) for _ in range(count)]
        for suffix, text in (("en", lines), ("de", [line[::-1] for line in lines])):
            (folder / f"{name}.{suffix}").write_text("\n".join(text) + "\n")
    return folder


def config(data, seed, **changes) -> Config:
    whole = Config(
        model=Model(num_encoder_layers=1, num_decoder_layers=2, d_model=8, d_ff=8, num_heads=2, dropout_rate=0.3),
        data=Data(
            **{"source": "text", "directory": str(data), "test": None, "vocabulary": "characters"},
            **{"max_source_length": 16, "max_target_length": 16, "row_length": 32},
        ),
        train=Train(
            **{"steps": 7, "batch_tokens": 64, "accumulate": 2, "ema_decay": 0.7, "clip_norm": 1.0, "seed": seed},
            epsilon=1e-2,  # else Adam makes gradients that are nothing but rounding, those of keys' biases, as large as others
            **{"warmup_steps": 3, "log_every": 2, "evaluate_every": 4, "init_metrics": ("gradient_norm",)},
        ),
        checkpoint=Checkpoint(every_steps=4, keep_last=2),
    )
    return override(whole, {name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture(scope="module")
def alone(data):
    """The workdirs of runs that were alone, by seed."""
    for seed in SEEDS:
        training.train(config(data, seed), data / f"alone_{seed}", pictures=False)
    return {seed: data / f"alone_{seed}" for seed in SEEDS}


def together(data, root):
    streams = {root / f"{seed}": io.StringIO() for seed in SEEDS}
    well = training.train_vmapped({root / f"{seed}": config(data, seed) for seed in SEEDS}, streams)
    return well, {int(path.name): stream.getvalue() for path, stream in streams.items()}


def metrics(path):
    rows = read_metrics(path / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def same(one, other):
    first, second = metrics(one), metrics(other)
    assert [row.keys() for row in first] == [row.keys() for row in second]
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    trees = [loading.read(str(path)).params for path in (one, other)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *trees)


@pytest.mark.slow
def test_each_is_as_it_was_alone(data, alone, tmp_path):
    well, output = together(data, tmp_path)
    assert well
    for seed in SEEDS:
        same(tmp_path / f"{seed}", alone[seed])
        assert "step 7/7" in output[seed] and output[seed].count("examples: train 80") == 1
        assert (tmp_path / f"{seed}" / "evaluation" / "validation.json").exists()
    assert metrics(tmp_path / "5") != metrics(tmp_path / "0")


@pytest.mark.slow
def test_they_go_on_from_where_each_was(data, alone, tmp_path):
    """One was stopped after four updates; the others had not begun."""
    training.train(config(data, 5, train__steps="4"), tmp_path / "5", pictures=False)
    assert together(data, tmp_path)[0]
    for seed in SEEDS:
        same(tmp_path / f"{seed}", alone[seed])


@pytest.mark.slow
def test_a_stop_saves_all(data, alone, tmp_path, monkeypatch):
    read = training.pipeline.read

    def with_signal(batches, first, *rest):
        for number, batch in enumerate(read(batches, first, *rest), first + 1):
            if number == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(training.pipeline, "read", with_signal)
        _, output = together(data, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    assert all("saved; the same command" in text for text in output.values())
    assert together(data, tmp_path)[0]
    for seed in SEEDS:
        same(tmp_path / f"{seed}", alone[seed])


@pytest.mark.slow
@pytest.mark.parametrize("error", [UserError("no room"), ZeroDivisionError("no room")], ids=["ours", "bug"])
def test_one_that_fails_does_not_end_the_others(data, alone, tmp_path, monkeypatch, error):
    save = training.state_files.save
    saved = []

    def with_error(checkpoints, *rest):
        saved.append(checkpoints)
        if len(saved) == 2:  # the second run's, after update 4
            raise error
        save(checkpoints, *rest)

    monkeypatch.setattr(training.state_files, "save", with_error)
    well, output = together(data, tmp_path)
    assert not well and "no room" in output[SEEDS[1]]
    assert ("Traceback" in output[SEEDS[1]]) == isinstance(error, ZeroDivisionError)
    same(tmp_path / f"{SEEDS[0]}", alone[SEEDS[0]])


def test_an_update_that_fails_fails_for_all_runs(data, tmp_path, monkeypatch):
    def fail(*arguments):
        raise UserError("there is no memory")

    monkeypatch.setattr(VmapSeeds, "update", fail)
    well, output = together(data, tmp_path)
    assert not well and all("there is no memory" in text for text in output.values())
    assert not any((tmp_path / str(seed) / "evaluation").exists() for seed in SEEDS)
