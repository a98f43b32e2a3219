"""The classes of experiments/variants by kind, as settings name them, so that a new variant is tested without an entry in a
list."""

import importlib
import inspect
from pathlib import Path

from transformer.registry import Component

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "variants"


def names(kind: type[Component]) -> list[str]:
    """FILE.py:Class for every class of this kind."""
    result = []
    for file in sorted(FOLDER.glob("[!_]*.py")):
        module = importlib.import_module(f"experiments.variants.{file.stem}")
        own = (cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__)
        result += [f"{file}:{cls.__name__}" for cls in own if issubclass(cls, kind)]
    return result
