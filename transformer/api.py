"""The library from Python: train, load, predict, look inside. Wrong arguments raise a `UserError` of one line.

Letters: N texts or classes, S source tokens, T target tokens, D d_model, L layers, V vocabulary.
"""

import csv
import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import numpy as np

from transformer import effects, modes, settings
from transformer.config import Config
from transformer.data import fitting
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError, no_failure
from transformer.files import shipped
from transformer.inference import loading, predict
from transformer.inference.generate import Generator
from transformer.inference.label import Labeller
from transformer.inference.loading import Loaded, Map
from transformer.inference.translate import Output, Translator
from transformer.modes import pictures
from transformer.plots import AttentionPage
from transformer.probes import head_pruning, inside
from transformer.runtime.workdir import Workdir, read_json
from transformer.studies.results import CURVE, NAME, TEXTS
from transformer.training.telemetry import read_metrics
from transformer.validation import STACKS, validate

if TYPE_CHECKING:
    import pandas

Value = str | int | float | bool | None | Sequence[str | int | float]
Params = Mapping[str, object]


class TrainedModel:
    """A model of a workdir: its outputs, and the values that it computes on the way.

    Its methods depend on its training task; other methods raise a `UserError` that names the available ones. After a call,
    `notices` lists what was cut.
    """

    def __init__(self, loaded: Loaded):
        self._loaded = loaded
        self._predictor: Translator | Generator | Labeller = predict.make(loaded)

    @property
    def config(self) -> Config:
        return self._loaded.config

    @property
    def model(self) -> nn.Module:
        """The Flax module, for `model.apply({"params": params}, batch)`."""
        return self._loaded.model

    @property
    def params(self) -> Params:
        return self._loaded.params

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """By field of an example, such as "source" and "target"; each has `encode` and `decode`."""
        return self._loaded.vocabularies

    @property
    def notices(self) -> list[str]:
        """What the last call truncated or could not read."""
        return self._predictor.notices

    # --- outputs ---------------------------------------------------------------------------------------------------

    def translate(self, texts: Sequence[str]) -> list[Output]:
        """The best output for each text: `.text`, `.score` (a length-penalised log probability), `.ended`."""
        return [outputs[0] for outputs in self.n_best(texts)]

    def n_best(self, texts: Sequence[str]) -> list[list[Output]]:
        """For each text the `config.search.n_best` outputs, best first."""
        return list(self._translator("translate").translate(_texts(texts, "texts")))

    def generate(self, prompt: str, num_samples: int = 1, seed: int = 0) -> list[str]:
        """`num_samples` continuations of the prompt, sampled with the settings of `config.search`."""
        if not isinstance(self._predictor, Generator):
            raise self._cannot("generate")
        if not isinstance(num_samples, int) or num_samples < 1:
            raise UserError(f"num_samples is {num_samples!r}: expected a whole number of at least 1")
        return self._predictor.generate(_text(prompt, "prompt"), num_samples, seed)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """A label, tags, an answer, or the text with its masks filled, for each text; tabs separate the fields of a text, such
        as a question and its context."""
        labeller = self._labeller("predict")
        lines = enumerate(_texts(texts, "texts"), 1)
        return labeller.predict([labeller.parse(line, number) for number, line in lines])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """A vector for each text, float32 NxD, with the settings of `config.embed`."""
        return self._labeller("embed").embed(_texts(texts, "texts"))

    # --- inside the model -----------------------------------------------------------------------------------------------

    def batch(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The inputs of the model for these texts: tokens, and segments, which are 0 in padding; int32.

        `targets`: the decoder's text for each source, or a second segment of a text; a language model has none.
        """
        sources, targets = _pairs(sources, targets)
        if isinstance(self._predictor, Labeller):
            return self._predictor.batch(sources, targets)
        if isinstance(self._predictor, Generator):
            if targets is not None:
                raise UserError("targets: a language model reads one text; put both into one text, and leave targets out")
            return self._predictor.batch(sources)
        if targets is None:
            raise UserError("targets: this model reads a source and its target; pass one target for each source")
        return self._predictor.batch(sources, targets)

    def logits(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> list[np.ndarray]:
        """The logits of each text: for a decoder TxV, of the token that follows each; for an encoder those of its head."""
        sources, targets = _pairs(sources, targets)
        if isinstance(self._predictor, Translator) and targets is not None:
            return self._predictor.logits(sources, targets)
        if isinstance(self._predictor, Generator) and targets is None:
            return self._predictor.logits(sources)
        batch = self.batch(sources, targets)
        found: Any = self.model.apply({"params": self.params}, batch)
        found = found.get("scores", found.get("logits"))
        if found is None:
            raise self._cannot("logits")
        rows, there = np.asarray(found), batch["source_segments"] > 0
        return list(rows) if rows.ndim == 2 else [row[mask] for row, mask in zip(rows, there, strict=True)]

    def hidden_states(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> dict[str, list[np.ndarray]]:
        """The residual stream after each layer, by stack ("encoder", "decoder"): for each text LxTxD."""
        batch = self.batch(sources, targets)
        if not len(sources):
            return {stack: [] for stack in STACKS[self.config.family]}
        found = inside.hidden_states(self.config, self.model, self.params, batch)
        result = {}
        for stack, states_LxBxTxD in found.items():
            there_BxT = batch["segments" if stack == "decoder" and "segments" in batch else "source_segments"] > 0
            result[stack] = [states_LxBxTxD[:, row, there] for row, there in enumerate(there_BxT)]
        return result

    def gradients(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> dict[str, list[np.ndarray]]:
        """Gradients of the log probability of the targets (without targets, of an encoder's predictions) with respect to token
        embeddings: for each text SxD for the "source" and TxD for the "inputs" of a decoder."""
        batch = self.batch(sources, targets)
        if not len(sources):
            return {name: [] for name in inside.SEGMENTS if name in batch}
        found = inside.input_gradients(self.config, self.model, self.params, batch)
        masks = {name: batch[inside.SEGMENTS[name]] > 0 for name in found}
        return {name: [each[mask] for each, mask in zip(x, masks[name], strict=True)] for name, x in found.items()}

    def attention(self, source: str, target: str | None = None) -> list[Map]:
        """Attention weights of every stack, LxHxTxS, with the tokens of both axes; without `target`, for the model's own
        output."""
        return self._predictor.attention(_text(source, "source"), None if target is None else _text(target, "target"))

    def attention_page(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> AttentionPage:
        """An interactive page of attention: a notebook shows it, `.save("attention.html")` writes it. Without targets, for the
        model's own outputs."""
        first, second = _pairs(sources, targets)
        pairs = zip(first, second or [None] * len(first), strict=True)
        return pictures.page([pictures.attended(self._predictor, *pair) for pair in pairs])

    def without_heads(self, heads: Sequence[str]) -> "TrainedModel":
        """The model without these heads, each named SITE/LAYER/HEAD, such as "decoder/cross/1/4"; without further training."""
        params = head_pruning.prune(self.config, self.params, _texts(heads, "heads"))
        return TrainedModel(dataclasses.replace(self._loaded, params=params))

    # --- checks ---------------------------------------------------------------------------------------------------------

    def _translator(self, method: str) -> Translator:
        if not isinstance(self._predictor, Translator):
            raise self._cannot(method)
        return self._predictor

    def _labeller(self, method: str) -> Labeller:
        if not isinstance(self._predictor, Labeller):
            raise self._cannot(method)
        return self._predictor

    def _cannot(self, method: str) -> UserError:
        able = {Translator: "translate and n_best", Generator: "generate", Labeller: "predict and embed"}
        config = self.config
        return UserError(
            f"{method}: config.family {config.family} with config.objective.kind {config.objective.kind} has none; use "
            f"{able[type(self._predictor)]}"
        )


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run: its scores on the test split (or on validation if there is none), by name, and its model. `finished`: it was not
    stopped before its last update; else there are no scores, and `train` resumes it."""

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
            raise UserError('frame: pandas is not installed; pip install "functional-transformer[eval]"') from error
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


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} is a {type(value).__name__}: expected one text")
    return value


def _texts(values: Sequence[str], name: str) -> list[str]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise UserError(f"{name} is {str(values)[:40]!r}: expected a list of texts, [..]")
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise UserError(f"{name} has a {type(wrong[0]).__name__} in it: expected only texts")
    return list(values)


def _pairs(sources: Sequence[str], targets: Sequence[str] | None) -> tuple[list[str], list[str] | None]:
    first = _texts(sources, "sources")
    if targets is None:
        return first, None
    second = _texts(targets, "targets")
    if len(first) != len(second):
        raise UserError(f"sources has {len(first):,} texts and targets {len(second):,}: expected one target for each source")
    return first, second
