"""A user's own measure of a trained model (`config.evaluate.measure`)."""

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformer import registry
from transformer.config import Config
from transformer.errors import UserError, say
from transformer.inference.loading import Loaded
from transformer.modes.trained import TrainedModel

FEW = 2  # examples of a rehearsal


def check(config: Config, others: Collection[str]) -> None:
    """UserError: the names of the measure's numbers are wrong, or those of `others`, which are reported too."""
    names = config.evaluate.measure.names
    where = f"config.evaluate.measure {registry.reference(type(config.evaluate.measure))}"
    if isinstance(names, str):
        raise UserError(f"{where}: names is a text; write ({names!r},)")
    if wrong := [name for name in names if not isinstance(name, str) or not re.fullmatch(r"\w+", name)]:
        raise UserError(f"{where}: names has {wrong[0]!r}; use letters, digits and _")
    if twice := [name for name in names if names.count(name) > 1 or name in others]:
        raise UserError(f"{where}: the name {twice[0]} is taken; choose another")


def rehearse(loaded: Loaded, examples: Sequence[Mapping[str, Any]]) -> None:
    """Measures a model that is not trained yet on a few examples. UserError: the measure fails, which would otherwise be
    found after the training."""
    measure(loaded, examples[:FEW])


def of_split(loaded: Loaded, split: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of the measure by name; empty if there is none. UserError: it fails, or gives other names."""
    if not loaded.config.evaluate.measure.names:
        return {}
    say(f"measuring {', '.join(loaded.config.evaluate.measure.names)} on {split}")
    return measure(loaded, examples)


def measure(loaded: Loaded, examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """As `of_split`, without a message."""
    own = loaded.config.evaluate.measure
    where, files = f"config.evaluate.measure {registry.reference(type(own))}", registry.sources(type(own))
    with registry.errors_in(next(iter(files)), where) if files else contextlib.nullcontext():
        found = {name: float(value) for name, value in own.values(TrainedModel(loaded), examples).items()}
    if found.keys() != set(own.names):
        raise UserError(f"{where}: values() gives {', '.join(found) or 'nothing'}; names has {', '.join(own.names)}")
    return {name: found[name] for name in own.names}
