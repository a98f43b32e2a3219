"""Trackers of a run in addition to its workdir (`config.train.trackers`): Weights & Biases and MLflow, imported on demand.

Both read their own environment variables (WANDB_MODE=offline, WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME). A
run that is resumed continues its record, whose id is kept in trackers.json. If a tracker fails, a line tells the user,
and the run continues without it; metrics.jsonl has everything.
"""

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from transformer.errors import UserError, first_line, say
from transformer.runtime.workdir import read_json, write_json

PROJECT = "transformer"
VERSIONS = {"wandb": "wandb>=0.31,<0.32", "mlflow": "mlflow>=3.17,<4"}  # as in pyproject.toml, which a test compares
LONGEST = 500  # maximum characters of a setting in MLflow
ID_FILE = "trackers.json"


class Tracker(Protocol):
    """`id`: the tracker's id of the run."""

    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, finished: bool) -> None: ...


class WeightsAndBiases:
    """A run of wandb, whose files are in the workdir."""

    def __init__(self, module: Any, folder: Path, name: str, settings: Mapping[str, str], known: str | None) -> None:
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=known,
            dir=str(folder),
            config=dict(settings),
            resume="allow",
            reinit="create_new",  # another run of this process may be open: that of another seed
            settings=module.Settings(silent=True, console="off"),
        )
        self.id = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of an MLflow store."""

    def __init__(self, module: Any, folder: Path, name: str, settings: Mapping[str, str], known: str | None) -> None:
        self._entities, self._client = module.entities, module.MlflowClient()
        if known is None:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(experiment)
            number = self._client.create_experiment(experiment) if found is None else found.experiment_id
            known = str(self._client.create_run(number, run_name=name).info.run_id)
            given = [self._entities.Param(key, text[:LONGEST]) for key, text in settings.items()]
            self._client.log_batch(known, params=given)
        else:
            self._client.set_terminated(known, "RUNNING")
        self.id = known

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        named = {name.replace("@", ":"): value for name, value in values.items()}  # it allows no @ in a name
        self._client.log_batch(self.id, metrics=[self._entities.Metric(*each, now, step) for each in named.items()])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if finished else "FAILED")


KINDS: dict[str, Callable[..., Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


class Trackers:
    """The trackers of one run; a context manager. UserError: one is not installed."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._modules: dict[str, Any] = {}
        self._open: dict[str, Tracker] = {}
        for name in names:
            try:
                self._modules[name] = importlib.import_module(name)
            except ImportError as error:
                raise UserError(
                    f'config.train.trackers {name}: not installed ({error}); pip install "{VERSIONS[name]}", or leave it out'
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._open):
            with self._or_left_out(name):
                self._open[name].close(finished=error[0] is None)

    def start(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Opens the run of a workdir, or continues it. `settings`: by name, those that differ from the defaults."""
        if not self._modules:
            return
        file = folder / ID_FILE
        known = read_json(file) if file.exists() else {}
        for name, module in self._modules.items():
            with self._or_left_out(name):
                self._open[name] = KINDS[name](module, folder, _name(folder), settings, known.get(name))
        write_json(file, known | {name: each.id for name, each in self._open.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name in list(self._open):
            with self._or_left_out(name):
                self._open[name].log(step, values)

    @contextlib.contextmanager
    def _or_left_out(self, name: str) -> Any:
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            say(f"config.train.trackers {name}: left out from here on, {type(error).__name__}: {first_line(error)}")


def _name(folder: Path) -> str:
    """The name of a run: its workdir relative to the current folder, or the last two parts of its path."""
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return "/".join(folder.resolve().parts[-2:])
