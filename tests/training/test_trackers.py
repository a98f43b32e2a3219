"""Weights & Biases offline and MLflow's local store, where they are installed; a tracker that fails; TensorBoard's HParams."""

import json
import os
import sys
import tomllib
import types
from pathlib import Path

import pytest

from transformer.errors import UserError
from transformer.training import telemetry, trackers

SETTINGS = {"model.d_model": "32", "train.seed": "0"}


class Broken:
    id = "7"

    def log(self, step, values):
        raise ConnectionError("no network")

    def close(self, finished):
        raise AssertionError("it is left out")


class Kept:
    def __init__(self, module, folder, name, settings, known):
        self.id, self.known, self.settings, self.rows, self.ended = "42", known, settings, [], []
        module.made.append(self)

    def log(self, step, values):
        self.rows.append((step, dict(values)))

    def close(self, finished):
        self.ended.append(finished)


@pytest.fixture
def module(monkeypatch):
    made = types.SimpleNamespace(made=[])
    monkeypatch.setitem(sys.modules, "wandb", made)
    monkeypatch.setitem(trackers.KINDS, "wandb", Kept)
    return made


def test_one_that_is_not_installed_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"config\.train\.trackers mlflow.*pip install"):
        trackers.Trackers(("mlflow",))


def test_the_extra_has_what_the_message_names():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(trackers.VERSIONS.values()) <= set(extras["trackers"])


def test_a_resumed_run_continues_its_record(tmp_path, module):
    for _ in range(2):
        with trackers.Trackers(("wandb",)) as followed:
            followed.start(tmp_path, SETTINGS)
            followed.log(3, {"train/loss": 1.5})
    first, second = module.made
    assert (first.known, second.known) == (None, "42")
    assert first.rows == [(3, {"train/loss": 1.5})] and first.ended == [True]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "42"}


def test_a_run_that_fails_is_marked(tmp_path, module):
    with pytest.raises(KeyError), trackers.Trackers(("wandb",)) as followed:
        followed.start(tmp_path, SETTINGS)
        raise KeyError
    assert module.made[0].ended == [False]


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, module, monkeypatch, capsys):
    monkeypatch.setitem(trackers.KINDS, "wandb", lambda *_: Broken())
    with trackers.Trackers(("wandb",)) as followed:
        followed.start(tmp_path, SETTINGS)
        followed.log(1, {"train/loss": 1.0})
        followed.log(2, {"train/loss": 1.0})
    assert capsys.readouterr().err.count("config.train.trackers wandb: left out") == 1


def test_tensorboard_compares_settings(tmp_path):
    """The events have the plugin's data, with numbers as numbers."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    plugins = [event.summary.value[0].metadata.plugin_data for event in telemetry._hparams({"model.d_model": 32, "b": "x"})]
    begin = HParamsPluginData.FromString(plugins[1].content).session_start_info.hparams
    assert begin["model.d_model"].number_value == 32 and begin["b"].string_value == "x"
    rows = []
    stream = open(os.devnull, "w")  # noqa: SIM115
    with telemetry.Telemetry(
        tmp_path / "m.jsonl", tmp_path / "t", 0, 1, settings={"a": 1}, follow=lambda *row: rows.append(row), stream=stream
    ) as reporter:
        reporter.score(1, {"validation/loss": 2.0, "validation/nan": float("nan")})
    assert rows == [(1, {"validation/loss": 2.0})]


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with trackers.Trackers(("wandb",)) as followed:
        followed.start(tmp_path, SETTINGS)
        followed.log(1, {"train/loss": 1.0})
    [kept] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in kept.read_bytes() and b"model.d_model" in kept.read_bytes()


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_a_local_store(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    for step in (1, 2):  # the second continues the first
        with trackers.Trackers(("mlflow",)) as followed:
            followed.start(tmp_path, SETTINGS)
            followed.log(step, {"train/loss": 1.0 / step, "init/gradient_norm@decoder/1": 2.0})
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("transformer").experiment_id])
    assert run.data.params == SETTINGS and run.info.status == "FINISHED"
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (1, 1.0),
        (2, 0.5),
    ]
