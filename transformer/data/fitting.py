"""Reads experiment files, and measures the data if their settings depend on its size."""

from collections.abc import Mapping
from pathlib import Path

from transformer import effects, settings
from transformer.config import Config, TrainingText
from transformer.errors import UserError


def read(path: str | Path, overrides: Mapping[str, str], flag: str = "--config") -> Config:
    """The settings of an experiment file with `overrides`. If the file has a function for it, they are fitted to the data."""
    return settle(path, overrides, flag)[0]


def settle(path: str | Path, overrides: Mapping[str, str], flag: str = "--config") -> tuple[Config, list[str]]:
    """The result of `read`, and notices about settings of the file that have no effect because of the overrides."""
    config = settings.from_file(path, Config, flag=flag, overrides=overrides, look=measure)
    return effects.settle(config, overrides, lambda: settings.from_file(path, Config, flag=flag))


def measure(config: Config) -> TrainingText:
    """The size of the training split. UserError if there is none, or if it cannot be read."""
    from transformer.data import sources  # imported here, because it imports NumPy, which would delay errors about settings

    data = config.data
    if sources.SOURCES[data.source] is sources.read_synthetic:
        raise UserError(f"config.data.source {data.source}: this experiment is fitted to files; name a source that reads files")
    train = sources.read(data, "train", Path())
    if train is None:
        raise UserError("config.data.train is none: there is nothing to learn from; name a training split")
    field = "target" if "target" in train.examples[0] else "text"
    return TrainingText(len(train.examples), sum(len(example[field].encode()) for example in train.examples))
