"""Synthetic tasks as TFDS data sets that need no download: one table, one builder, stored as array_record.

The examples of each task are defined in its own file. This module is imported only when a task is read (`sources/records.py`),
because the import of TFDS is slow. TensorFlow is not needed.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from transformer.config import Data
from transformer.data.synthetic import algorithms, entities, list_ops, number_words, stories, summaries
from transformer.data.synthetic.drawing import Task
from transformer.errors import UserError

TASKS: Mapping[str, Task] = {
    "number_words": number_words.TASK,
    "list_ops": list_ops.TASK,
    "list_ops_pairs": list_ops.PAIRS,
    "entities": entities.TASK,
    "stories": stories.TASK,
    "summaries": summaries.TASK,
    "algorithms": algorithms.TASK,
}


@dataclasses.dataclass(eq=False)
class SyntheticConfig(tfds.core.BuilderConfig):
    """The settings of a `Synthetic`."""

    data: Data = Data()


class Synthetic(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The task `config.data.source` in the splits train, validation and test."""

    url_infos = (
        None  # nothing is downloaded; without this, TFDS 4.9 imports a package that it does not require to find checksums
    )

    def __init__(self, config: SyntheticConfig, folder: Path):
        self.name = config.data.source  # type: ignore[misc]  (TFDS takes the class's name, where there is no other)
        self.task = TASKS[config.data.source]
        super().__init__(data_dir=folder, config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {field: tfds.features.Scalar(np.int64) for field in self.task.numbers}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.task.description,
            features=tfds.features.FeaturesDict(features | {field: tfds.features.Text() for field in self.task.texts}),
            disable_shuffling=True,  # tasks draw their examples in random order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        config = self.builder_config
        assert isinstance(config, SyntheticConfig)
        return {split: self._generate_examples(examples) for split, examples in self.task.make(config.data).items()}

    def _generate_examples(self, examples: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(examples)


def prepare(data: Data, folder: Path) -> tfds.core.DatasetBuilder:
    """The data set for these settings, from `folder` if it exists there, else written there atomically.

    UserError if the settings do not fit or the folder cannot be written.
    """

    def builder() -> Synthetic:
        task = TASKS[data.source]
        return Synthetic(SyntheticConfig(name=task.name(data), version=task.version, data=data), folder)

    try:
        result = builder()
        with tempfile.TemporaryDirectory() as downloads:  # TFDS creates the folder, although nothing is downloaded
            result.download_and_prepare(download_dir=downloads)
        return result
    except OSError as error:
        with contextlib.suppress(OSError):
            if (result := builder()).is_prepared():  # another run created it first
                return result
        raise UserError(f"{folder}: cannot write the data set: {error.strerror or error}; set config.data.directory") from error
