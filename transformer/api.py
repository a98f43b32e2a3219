"""The library from Python: train, load, read results. Wrong arguments raise a `UserError` of one line."""

import csv
import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformer import effects, modes, settings
from transformer.config import Config
from transformer.data import fitting
from transformer.errors import UserError, no_failure
from transformer.files import shipped
from transformer.inference import loading
from transformer.modes.trained import TrainedModel
from transformer.runtime.workdir import Workdir, read_json
from transformer.studies.results import CURVE, NAME, TEXTS
from transformer.training.telemetry import read_metrics
from transformer.validation import validate

if TYPE_CHECKING:
    import pandas

Value = str | int | float | bool | None | Sequence[str | int | float]


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run: its scores on the test split (or on validation if there is none), by name, and its model. `finished`: it was not
    stopped before; else there are no scores, and `train` resumes it, or scores it if the last update is done."""

    workdir: Path
    scores: Mapping[str, float]
    model: TrainedModel
    finished: bool


class Results(Sequence[Mapping[str, str | float | None]]):
    """Rows of a table: dictionaries with the same keys. `frame()` makes a pandas frame of them."""

    def __init__(self, rows: Sequence[Mapping[str, str | float | None]]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number):  # type: ignore[override]  # noqa: ANN001, ANN204  (rows or one, as of any sequence)
        return Results(self._rows[number]) if isinstance(number, slice) else self._rows[number]

    def __iter__(self) -> Iterator[Mapping[str, str | float | None]]:
        return iter(self._rows)

    def frame(self) -> "pandas.DataFrame":
        """UserError: pandas is not installed."""
        try:
            frames = importlib.import_module("pandas")
        except ImportError as error:
            raise UserError("frame: pandas is not installed; pip install pandas") from error
        return frames.DataFrame(list(self._rows))


def load(workdir: str | Path, overrides: Mapping[str, Value] | None = None) -> TrainedModel:
    """The model of a workdir. `overrides`: settings that change no parameter, such as {"search.beam_size": 1}."""
    return TrainedModel(loading.read(workdir, _words(overrides)))


def train(config: Config | str | Path, workdir: str | Path, overrides: Mapping[str, Value] | None = None) -> TrainingRun:
    """Trains, or resumes the run in the workdir, and scores the test split.

    `config`: settings, or an experiment file, such as "experiments/number_words.py". `overrides`: settings by dotted name,
    such as {"train.steps": 100}. Progress goes to stderr, the table of scores to stdout.
    """
    words = _words(overrides)
    if isinstance(config, Config):
        made, notices = effects.settle(settings.override(config, words), words, lambda: config)
    elif isinstance(config, str | Path):
        made, notices = fitting.settle(config, words, "config")
    else:
        raise UserError(f"config is a {type(config).__name__}: expected a Config or the name of an experiment file")
    folder = Workdir(Path(workdir).expanduser())
    finished, loaded = modes.train(validate(made), folder.path, pictures=False, notices=notices), loading.read(folder.path)
    files = [file for name in ("test", "validation") if (file := folder.evaluation_file(name)).is_file()]
    found = read_json(files[0]) if files else {"scores": {}, "checkpoints": [*loaded.steps]}
    scores = found["scores"] if found["checkpoints"] == [*loaded.steps] else {}  # else those of an earlier checkpoint
    return TrainingRun(folder.path, scores, TrainedModel(loaded), finished)


def results(workdir: str | Path) -> Results:
    """The rows of a study (one for each run) or of a run (one for each training report). UserError: there are none."""
    folder = shipped(workdir)
    if (table := folder / NAME).is_file():
        with no_failure(str(table), "read"), table.open(encoding="utf-8", newline="") as file:
            return Results([{name: _cell(name, text) for name, text in row.items()} for row in csv.DictReader(file)])
    if rows := read_metrics(Workdir(folder).metrics_file):
        names = dict.fromkeys(name for row in rows for name in row)
        return Results([{name: row.get(name) for name in names} for row in rows])
    raise UserError(f"{workdir}: there is neither {NAME} of a study nor metrics.jsonl of a run; train something there first")


def _cell(column: str, text: str) -> str | float | None:
    """The value of a cell. A text, such as the arm "1e-3", stays one even if it looks like a number."""
    if text == "":
        return None
    if column in ("part", "arm", "status", *TEXTS) or column.startswith(CURVE):
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _words(overrides: Mapping[str, Value] | None) -> dict[str, str]:
    if overrides is not None and not isinstance(overrides, Mapping):
        raise UserError(f'overrides is {overrides!r}: expected settings by name, such as {{"train.steps": 100}}')
    return {name: settings.text_of(value) for name, value in (overrides or {}).items()}
