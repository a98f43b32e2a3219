"""Loads a trained model from a workdir, and contains what all uses of a model share.

The uses are in `translate.py`, `generate.py` and `label.py`; `predict.py` chooses among them.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from transformer import effects, families, settings
from transformer.config import Config, DataInfo
from transformer.cuts import Cut, merged, some
from transformer.data import prepare
from transformer.data.objectives import Objective
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError, say
from transformer.inference.special import SpecialNames, with_codes
from transformer.models import lora
from transformer.models.stack import layers_in_order
from transformer.runtime import checkpoints as checkpoints_lib
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.workdir import ONLY_TRAINING, open_existing
from transformer.validation import validate

# Inputs are padded to these lengths, for which the model is compiled; longer ones to multiples of the last.
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model with its parameters, and the vocabulary of each field. `steps`: the checkpoints of which it is the mean."""

    config: Config
    data_info: DataInfo
    model: nn.Module
    objective: Objective
    params: Any
    vocabularies: Mapping[str, Vocabulary]
    steps: tuple[int, ...] = ()


@functools.lru_cache(maxsize=64)  # equal models share their programs
def _programs(model: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Functions that give the outputs for a batch, and the attention weights for it."""
    return (
        jax.jit(lambda params, batch: model.apply({"params": params}, batch)),
        jax.jit(lambda params, batch: model.apply({"params": params}, batch, mutable=["intermediates"])[1]),
    )


class Predictor:
    """Base of all uses of a model: holds the model's parts and applies it to a batch."""

    noun = "text"  # name of an input in notices

    def __init__(self, loaded: Loaded):
        self.loaded, self.config, self.data_info, self.model = loaded, loaded.config, loaded.data_info, loaded.model
        self.params = loaded.params
        self._cut: list[int] = []  # numbers, from 1, of the inputs that the last call cut
        self._count = 0  # inputs of the last call
        self._other_cuts: list[Cut] = []  # everything else that the last call cut
        self._names = SpecialNames(loaded.config, loaded.data_info, next(iter(loaded.vocabularies.values())))
        self._forward, self._observe = _programs(loaded.model)

    def weights_of(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Attention weights LxBxHxTxS of a batch by site, such as "decoder/cross"; empty for a model without attention."""
        result, model = {}, self.config.model
        for stack, sown in self._observe(self.params, batch).get("intermediates", {}).items():
            layers = layers_in_order(sown, len(model.layers_of_period(stack)), model.depth(stack))
            for name in layers[0]:
                result[f"{stack}/{name.removesuffix('_attention')}"] = np.stack([layer[name]["weights"][0] for layer in layers])
        return result

    @property
    def cuts(self) -> list[Cut]:
        """Counts of everything that the last call may have cut, including counts of 0."""
        limit = f"{self.config.data.max_source_length:,} tokens (config.data.max_source_length)"
        return [Cut(len(self._cut), self._count, f"{self.noun}s were cut to {limit}"), *merged(self._other_cuts)]

    @property
    def notices(self) -> list[str]:
        """Notices for the user about the last call."""
        lines = list(map(str, some(*self.cuts)))
        if self._cut:  # these inputs come first
            lines[0] += f", the first of them number {self._cut[0]:,}"
        return [*lines, *self._names.notices]


def listed(texts: Any, what: str = "texts") -> Any:
    """`texts` itself. UserError if it is one text instead of a list, because each letter would be taken for a text."""
    if isinstance(texts, str | bytes | Mapping):
        raise UserError(f"{str(texts)[:40]!r} is given instead of a list of {what}; put it into a list, [..]")
    return texts


@dataclasses.dataclass(frozen=True)
class Map:
    """Attention weights of all layers and heads of a site, with labels of the keys (across) and of the queries (down)."""

    name: str
    weights_LxHxTxS: np.ndarray
    across: Sequence[str]
    down: Sequence[str]


def read(
    path: str | Path, overrides: Mapping[str, str] | None = None, mode: str | None = None, may_change: Collection[str] = ()
) -> Loaded:
    """The model of a workdir. `overrides` of settings, as on the command line, may only change settings that do not affect
    parameters, and those in `may_change`.

    `config.evaluate` chooses the checkpoint: the last, the best, or the mean of the last few; the moving average is used if
    one was kept. A damaged checkpoint among the last is skipped with a notice. UserError if the workdir is damaged or
    incomplete, or if the model does not support `mode`.
    """
    workdir = open_existing(Path(path))
    made = workdir.config()
    config, notices = effects.settle(settings.override(made, overrides or {}), overrides or {}, lambda: made)
    validate(config)
    if changed := [each for each in settings.differences(made, config) if each.partition(":")[0] not in may_change]:
        raise UserError(
            f"--config: {path} was trained with other settings, which cannot change now: {', '.join(changed)}; leave them out"
        )
    for name in (n for n in ONLY_TRAINING if n in (overrides or {})):
        if (was := settings.get(made, name)) != settings.get(config, name):
            was = settings.text_of(was)
            raise UserError(f"--config.{name}: only training uses it, and {path} was trained with {was}; leave it out")
    if mode is not None:
        families.check_mode(config, mode)
    data_info, task = workdir.data_info(), families.task_of(config)
    if mode == "evaluate" and task.output == "label" and len(data_info.labels) == 1:
        raise UserError(
            f"--mode=evaluate: the model of {path} has one label, so it gives scores instead of labels; use --mode=predict"
        )
    vocabularies = prepare.load_vocabularies(config.data, families.text_fields(task), workdir.vocabulary)
    _check_sizes(workdir.vocabulary, data_info, list(vocabularies.values()))
    data_info = with_codes(config, data_info, vocabularies)
    adapted, model = config, families.FAMILIES[config.family].model(config, data_info)
    objective = families.make_objective(config, data_info, vocabularies)
    checkpoints = Checkpoints(workdir.checkpoints, config.checkpoint)
    evaluate, item = config.evaluate, "average" if config.train.keeps_average else "params"
    like = families.param_shapes(model, families.features(objective))
    steps = _best(checkpoints, path) if config.uses_best else checkpoints.sound(evaluate.average, item)
    params = checkpoints_lib.average(checkpoints, steps, item, like)
    checkpoints.close()
    if adapted.model.lora_rank is not None:
        config = settings.replace(config, "model.lora_rank", None)
        params = lora.merge(adapted.model, params)
        model = families.FAMILIES[config.family].model(config, data_info)
    for notice in notices:
        say(notice)
    return Loaded(config, data_info, model, objective, params, vocabularies, tuple(steps))


def _best(checkpoints: Checkpoints, path: str | Path) -> list[int]:
    """The step of the best checkpoint, if there is one. Prints a notice if a better one was not kept."""
    metric, best, last = checkpoints.settings.best_metric, checkpoints.best(), checkpoints.latest()
    if last is None:
        return []
    if best is None:
        raise UserError(
            f"config.evaluate.checkpoint best: no checkpoint of {path} has {metric}; set --config.evaluate.checkpoint=last"
        )
    measured = int(checkpoints.metrics(last).get("monitor/best_step", best))
    if measured != best:
        say(f"{path}: {metric} was best after step {measured:,}, whose checkpoint was not kept; that of step {best:,} is used")
    return [best]


def _check_sizes(folder: Path, data_info: DataInfo, vocabularies: Sequence[Vocabulary]) -> None:
    """UserError if the vocabularies do not match `data_info`. They may or may not include sentinels and a mask."""
    more = data_info.sentinels + (data_info.mask is not None)
    for side, each in (("source", vocabularies[0]), ("target", vocabularies[-1])):
        size, rows = getattr(data_info, f"{side}_size"), getattr(data_info, f"{side}_rows")
        if not size - more <= each.size <= rows:
            raise UserError(
                f"{folder}: the vocabulary has {each.size} entries, but the model needs {size}; restore the file, or train "
                "again in a new workdir"
            )


def clean(config: Config, text: str) -> str:
    """Text in the form of the training text: stripped, and lowercased if the settings say so. Spaces at the ends are kept for a
    published vocabulary, which may have tokens for them."""
    text = text if config.data.vocabulary == "imported" else text.strip()
    return text.lower() if config.data.lowercase else text


def most_positions(config: Config) -> int | None:
    """The number of tokens that the position encoding supports, or None if there is no limit."""
    return config.model.most_positions if families.FAMILIES[config.family].positions else None


def round_length(length: int) -> int:
    """The padded length for `length` tokens."""
    for known in LENGTHS:
        if length <= known:
            return known
    return -(-length // LENGTHS[-1]) * LENGTHS[-1]


def pad(rows: Sequence[Sequence[int] | np.ndarray], length: int, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segments (1 for tokens, 0 for padding), int32 BxS; padding comes after the tokens, or before them if
    `left`.
    """
    tokens = np.zeros((len(rows), length), np.int32)
    segments = np.zeros((len(rows), length), np.int32)
    for number, row in enumerate(rows):
        place = slice(length - len(row), None) if left else slice(0, len(row))
        tokens[number, place] = row
        segments[number, place] = 1
    return tokens, segments
