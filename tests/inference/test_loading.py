"""Checkpoints of a workdir: averaged, the best, or the last; missing parts and impossible requests are reported."""

import json

import jax
import numpy as np
import pytest
import trained
from trained import translator

from transformer.errors import UserError
from transformer.inference import loading
from transformer.runtime.checkpoints import Checkpoints, average
from transformer.runtime.workdir import Workdir


def workdir() -> Workdir:
    return Workdir(trained.run().workdir)


def like() -> object:
    params = translator().params
    return jax.eval_shape(lambda: params)


def restored(step: int) -> object:
    checkpoints = Checkpoints(workdir().checkpoints, workdir().config().checkpoint)
    return checkpoints.restore(step, "params", like())


def same(a: object, b: object, tolerance: float = 0.0) -> bool:
    close = jax.tree.map(lambda x, y: bool(np.allclose(x, y, rtol=0, atol=tolerance)), a, b)
    return all(jax.tree.leaves(close))


def test_the_last_checkpoints_are_averaged():
    early, late = restored(100), restored(150)
    assert not same(early, late, 1e-3)
    mean = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) + np.asarray(b, np.float64)) / 2, early, late)
    used = loading.read(trained.run().workdir)  # config.evaluate.average is 2
    assert used.steps == (100, 150) and same(used.params, mean, 1e-6)
    used = loading.read(trained.run().workdir, {"evaluate.average": "1"})
    assert used.steps == (150,) and same(used.params, late)


def test_the_best_checkpoint():
    rows = [json.loads(line) for line in workdir().metrics_file.read_text().splitlines()]
    losses = {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    best = min(losses, key=losses.__getitem__)
    used = loading.read(trained.run().workdir, {"evaluate.checkpoint": "best"})
    assert used.steps == (best,) and same(used.params, restored(best))


def spoilt(folder, **settings) -> Workdir:
    """A copy of the workdir with other settings in its file."""
    copy = Workdir(trained.run().copy(folder))
    values = json.loads(copy.config_file.read_text())
    for name, value in settings.items():
        section, _, name = name.partition("__")
        values[section][name] = value
    copy.config_file.write_text(json.dumps(values))
    return copy


def test_best_by_a_metric_that_no_checkpoint_has(tmp_path):
    copy = spoilt(tmp_path)
    for notes in copy.checkpoints.glob("*/notes/metadata"):
        notes.write_text('{"metrics": {}, "periodic": true}')
    for manifest in copy.checkpoints.glob("*/manifest.json"):  # else it would be damaged
        manifest.unlink()
    with pytest.raises(UserError, match="config.evaluate.checkpoint best: no checkpoint of .*run has validation/loss"):
        loading.read(copy.path, {"evaluate.checkpoint": "best"})


def test_a_moving_average_is_used_where_one_is_kept(tmp_path):
    copy = spoilt(tmp_path, train__ema_decay=0.9, evaluate__average=1)
    ones, zeros = (jax.tree.map(lambda x, v=value: np.full(x.shape, v, x.dtype), like()) for value in (1, 0))
    checkpoints = Checkpoints(copy.checkpoints, copy.config().checkpoint)
    checkpoints.save(151, {"params": zeros, "average": ones})
    checkpoints.close()
    assert same(loading.read(copy.path).params, ones)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"model.d_model": "64"}, ["cannot change now", "model.d_model: 32 -> 64"]),
        ({"data.lowercase": "true", "train.seed": "1"}, ["data.lowercase: False -> True", "train.seed: 0 -> 1"]),
        ({"train.steps": "100"}, ["--config.train.steps: only training uses it", "was trained with 150; leave it out"]),
        ({"search.beam": "3"}, ["did you mean 'search.beam_size'?"]),
        ({"search.beam_size": "wide"}, ["expected int"]),
        ({"search.n_best": "9"}, ["config.search.n_best 9"]),
        ({"evaluate.average": "10"}, ["config.checkpoint.keep_last"]),
    ],
)
def test_overrides_that_change_parameters_are_refused(overrides, parts):
    with pytest.raises(UserError) as caught:
        loading.read(trained.run().workdir, overrides)
    assert all(part in str(caught.value) for part in parts)


def test_a_workdir_from_which_something_is_missing(tmp_path):
    copy = Workdir(trained.run().copy(tmp_path))
    missing = {
        "no checkpoint": copy.checkpoints,
        "no vocabulary": copy.vocabulary,
        "data_info.json": copy.data_info_file,
        "config.json": copy.config_file,
    }
    for message, path in missing.items():
        path.rename(tmp_path / "away")
        with pytest.raises(UserError, match=message):
            loading.read(copy.path)
        (tmp_path / "away").rename(path)
    assert loading.read(copy.path).steps == (100, 150)


def test_a_mode_that_the_model_does_not_support(tmp_path):
    copy = spoilt(tmp_path)
    copy.checkpoints.rename(tmp_path / "away")  # known before anything is read
    with pytest.raises(UserError, match="--mode=generate: .* encoder_decoder .* translate has the modes train"):
        loading.read(copy.path, mode="generate")
    with pytest.raises(UserError, match="no checkpoint"):
        loading.read(copy.path, mode="translate")


def test_average_of_nothing_says_so(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        average(Checkpoints(tmp_path, workdir().config().checkpoint), [], "params", like())


# --- the small things --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "rounded"), [(1, 16), (16, 16), (17, 32), (256, 256), (257, 512), (513, 768)])
def test_round_length(length, rounded):
    assert loading.round_length(length) == rounded


def test_pad_on_either_side():
    tokens, segments = loading.pad([[5, 6], [], [7, 8, 9]], 4)
    assert tokens.tolist() == [[5, 6, 0, 0], [0, 0, 0, 0], [7, 8, 9, 0]]
    assert segments.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    tokens, segments = loading.pad([[5, 6], [], [7, 8, 9, 4]], 4, left=True)
    assert tokens.tolist() == [[0, 0, 5, 6], [0, 0, 0, 0], [7, 8, 9, 4]]
    assert segments.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
