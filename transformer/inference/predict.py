"""Chooses the class that uses a model, by the kind of its outputs: `Translator`, `Generator` or `Labeller`."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from transformer import families
from transformer.inference import loading
from transformer.inference.generate import Generator
from transformer.inference.label import Labeller
from transformer.inference.loading import Loaded
from transformer.inference.translate import Translator

# The class for each kind of output (families.Output).
PREDICTORS: dict[families.Output, Callable[[Loaded], Any]] = {
    "text": Translator,
    "none": Translator,
    "continuation": Generator,
    "label": Labeller,
    "tags": Labeller,
    "span": Labeller,
    "filled": Labeller,
    "vector": Labeller,
}


def load(
    path: str | Path, overrides: Mapping[str, str] | None = None, mode: str | None = None, may_change: Collection[str] = ()
) -> Any:
    """A `Translator`, `Generator` or `Labeller`, depending on the workdir's model. The arguments are those of
    `loading.read`.
    """
    return make(loading.read(path, overrides, mode, may_change))


def make(loaded: Loaded) -> Any:
    """The same for a model that is already loaded."""
    return PREDICTORS[families.task_of(loaded.config).output](loaded)
