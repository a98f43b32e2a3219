"""Branches of a run are bitwise equal to planned runs, and their past cannot be changed by other settings."""

import contextlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import families
from transformer.config import Checkpoint, Config, Data, Model, Objective, Train
from transformer.errors import UserError
from transformer.modes import training
from transformer.runtime import workdir as workdirs
from transformer.runtime.checkpoints import Checkpoints
from transformer.settings import replace
from transformer.training import branch
from transformer.training.telemetry import TIMED, read_metrics
from transformer.validation import validate


def config(folder: Path, **train) -> Config:
    """A tiny language model with dropout; a checkpoint and a validation every second update."""
    return validate(
        Config(
            family="decoder_only",
            objective=Objective(kind="causal_lm"),
            model=Model(num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2, dropout_rate=0.2, tying="two_way"),
            data=Data(
                **{"source": "documents", "directory": str(folder), "train": "train.txt", "validation": "train.txt"},
                **{"test": None, "vocabulary": "characters", "max_target_length": 16, "document": "line"},
            ),
            train=Train(
                **{
                    "steps": 8,
                    "batch_tokens": 128,
                    "warmup_steps": 1,
                    "learning_rate": 0.01,
                    "schedule": "wsd",
                    "decay_steps": 0,
                }
                | {"evaluate_every": 4, "log_every": 1}
                | train
            ),
            checkpoint=Checkpoint(every_steps=2, keep_last=20),
        )
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def metrics(workdir: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(workdir / "metrics.jsonl")]


def arrays(workdir: Path, step: int) -> dict[str, bytes]:
    with contextlib.closing(Checkpoints(workdir / "checkpoints", Checkpoint(keep_last=20))) as checkpoints:
        assert checkpoints.problem(step) is None
        shapes = {item: checkpoints._read(step, item) for item in ("params", "optimizer")}
        tables = {item: checkpoints._read(step, item, like) for item, like in shapes.items()}
        return {f"{item}/{name}": np.asarray(leaf).tobytes() for item, table in tables.items() for name, leaf in table.items()}


def loss(params, batch, key):
    logits = params["embedding"]["kernel"][batch["targets"]]
    noise = 0.0 if key is None else jax.random.normal(key, logits.shape)
    sums = {"loss_sum": jnp.sum(batch["weights"] * (logits - noise - 1) ** 2), "weight_sum": jnp.sum(batch["weights"])}
    return sums | {"nll_sum": sums["loss_sum"], "correct_sum": jnp.zeros(())}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """`stable`: 8 updates with a constant rate; `branch`: from update 4 on, 6 in all, with decay in the last 2; `planned`: the
    same without a branch."""
    folder = tmp_path_factory.mktemp("branch")
    (folder / "train.txt").write_text("".join(f"{word} and {word}\n" for word in ("ab", "ba", "abba", "baab", "bab") * 8))
    with pytest.MonkeyPatch.context() as patch:
        # A model that is compiled in a moment: one logit for each token, and noise in the place of dropout.
        patch.setattr(families, "init_params", lambda model, objective, seed: {"embedding": {"kernel": jnp.arange(16.0) / 8}})
        patch.setattr(families, "make_loss", lambda model, config, data_info: loss)
        patch.setattr(training, "_finish", lambda *arguments: None)
        patch.setattr(training, "peak_flops", lambda devices: None)
        training.train(config(folder), folder / "stable")
        before = contents(folder / "stable")
        training.train(
            config(folder, steps=6, decay_steps=2, branch_from=str(folder / "stable"), branch_step=4), folder / "branch"
        )
        assert contents(folder / "stable") == before
        training.train(config(folder, steps=6, decay_steps=2), folder / "planned")
    return folder


def test_a_branch_is_the_run_that_was_planned_for_it(runs):
    assert arrays(runs / "branch", 6) == arrays(runs / "planned", 6)
    assert metrics(runs / "branch") == metrics(runs / "planned")
    rates = [row["train/learning_rate"] for row in metrics(runs / "branch") if "train/loss" in row]
    np.testing.assert_allclose(rates, [0.01] * 5 + [0.005], rtol=1e-6)
    assert arrays(runs / "branch", 6) != arrays(runs / "stable", 6)


def test_the_past_of_a_branch_is_its_origins(runs):
    assert arrays(runs / "branch", 4) == arrays(runs / "stable", 4) == arrays(runs / "planned", 4)
    past = [row for row in metrics(runs / "stable") if row["step"] <= 4]
    assert metrics(runs / "branch")[: len(past)] == past and past[-1]["step"] == 4


@pytest.mark.parametrize(
    ("train", "named"),
    [
        ({"branch_step": 5}, "config.train.branch_step"),
        ({"seed": 1}, "train.seed"),
        ({"warmup_steps": 2}, "train.warmup_steps"),
        ({"schedule": "linear"}, "train.schedule"),
        ({"decay_steps": 7, "steps": 9}, "train.decay_steps"),
    ],
)
def test_what_cannot_branch(runs, tmp_path, train, named):
    """And no files remain."""
    given = {"steps": 9, "branch_from": str(runs / "stable"), "branch_step": 4} | train
    with pytest.raises(UserError, match=named):
        training.train(config(runs, **given), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_copy_that_was_interrupted_is_made_whole(runs, tmp_path):
    workdir, wanted = workdirs.Workdir(tmp_path), runs / "branch"
    with contextlib.closing(Checkpoints(workdir.checkpoints, Checkpoint(keep_last=20))) as checkpoints:
        given = config(runs, steps=6, decay_steps=2, branch_from=str(runs / "stable"), branch_step=4)
        for lost in (None, "checkpoints/4", "checkpoints"):
            if lost:
                shutil.rmtree(tmp_path / lost)
            branch.begin(given, workdir, checkpoints)
            assert checkpoints.steps() == [2, 4] and arrays(tmp_path, 4) == arrays(wanted, 4)
    assert contents(tmp_path / "vocabulary") == contents(wanted / "vocabulary")


# --- resuming with other settings --------------------------------------------------------------------------------------

BASE = {"steps": 20, "warmup_steps": 4, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        ({"schedule": "linear"}, {"steps": 40}, False),
        ({"schedule": "cosine"}, {"steps": 40}, False),
        ({"schedule": "cosine"}, {"steps": 12}, False),
        ({"schedule": "rsqrt"}, {"steps": 40}, True),
        ({"schedule": "constant"}, {"steps": 40}, True),
        ({"schedule": "wsd", "decay_steps": 10}, {"steps": 40}, True),
        ({"schedule": "wsd", "decay_steps": 10}, {"decay_steps": 5}, True),
        ({"schedule": "wsd", "decay_steps": 12}, {"steps": 40}, False),
        ({"schedule": "wsd", "decay_steps": 12}, {"decay_steps": 0}, False),
    ],
)
def test_settings_that_would_have_changed_the_past_are_refused(tmp_path, old, new, fits):
    """10 of 20 updates are done; the workdir does not change."""
    workdir, begun = tmp_path / "run", config(tmp_path, **BASE | {"decay_steps": None} | old)
    workdirs.create(workdir, begun, print)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", Checkpoint())) as checkpoints:
        checkpoints.save(10, {"params": {"w": np.zeros(1)}})
    changed = begun
    for name, value in new.items():
        changed = replace(changed, f"train.{name}", value)
    if fits:
        branch.check_past(begun, changed, 10, "here")
        return
    before = contents(workdir)
    with pytest.raises(UserError, match=f"train.{next(iter(new))}.*update \\d+ "):
        training.train(validate(changed), workdir)
    assert contents(workdir) == before
