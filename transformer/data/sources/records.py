"""Reads TFDS data sets from their array_record files: the synthetic tasks, and data sets of the TFDS catalogue.

TFDS is imported only when it is needed, because the import is slow and plain files do not need it. TensorFlow is never
imported.
"""

import contextlib
import dataclasses
import functools
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer.config import Data
from transformer.data.sources.base import Examples, Split, SplitName, fingerprint, lowered
from transformer.errors import UserError, first_line, nearest


def read_synthetic(data: Data, split: SplitName, cache: Path) -> Split:
    """The task named `data.source`, prepared in `data.directory` or, if that is none, in `cache`."""
    from transformer.data.synthetic import tasks

    folder = Path(data.directory) if data.directory else cache
    task = tasks.TASKS[data.source]
    with _quiet():
        builder = tasks.prepare(data, folder)
        result = _records(builder, data, split, {field: field for field in (*task.texts, *task.numbers)})
    return dataclasses.replace(result, notices=(task.notice(data),)) if split == "train" else result


def read_catalogue(data: Data, split: SplitName, cache: Path) -> Split:
    """The prepared data set `data.tfds_name`, whose text features have the names of the languages."""
    from tensorflow_datasets.core import constants, read_only_builder

    if data.tfds_name is None:
        raise UserError("config.data.tfds_name is not set: config.data.source tfds needs it, as in wmt14_translate/de-en")
    folder = Path(data.directory or constants.DATA_DIR).expanduser()
    with _quiet():
        try:  # only from the files, because the code of the catalogue may import TensorFlow
            builder = read_only_builder.builder_from_files(data.tfds_name, data_dir=folder)
        except (ValueError, OSError) as error:
            prepared = {
                str(p.parent.parent.relative_to(folder)) for n in (2, 3) for p in folder.glob("*/" * n + "features.json")
            }
            raise UserError(
                f"config.data.tfds_name {data.tfds_name}: not prepared in {folder}{nearest(data.tfds_name, prepared)}; "
                "preparing it needs the network and TensorFlow: on a machine that has both, run `tfds build "
                f"{data.tfds_name} --file_format=array_record --data_dir=DIR`, "
                "then copy DIR here and set config.data.directory to it"
            ) from error
        fields = {"source": data.source_language, "target": data.target_language}
        known = _texts(builder.info)
        for side, field in fields.items():
            if field not in known:
                raise UserError(
                    f"config.data.{side}_language {field}: "
                    f"the texts of {builder.info.full_name} are {', '.join(known) or 'none'}"
                )
        return _records(builder, data, split, fields)


def _texts(info: Any) -> list[str]:
    import tensorflow_datasets as tfds

    return [field for field, feature in info.features.items() if isinstance(feature, tfds.features.Text)]


def _records(builder: Any, data: Data, split: SplitName, fields: Mapping[str, str]) -> Split:
    """The split of a prepared TFDS data set. `fields`: the feature for each field of an example."""
    info, name = builder.info, getattr(data, split)
    try:
        records = builder.as_data_source(name)
    except ValueError as error:
        raise UserError(
            f"config.data.{split} {name}: {info.full_name} has no such split, or the split is empty; "
            f"its splits are {', '.join(info.splits)}{nearest(name, info.splits)}"
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"{builder.data_dir}: stored as {info.file_format.value}, which only TensorFlow reads: "
            "on a machine that has it, run `tfds convert_format --out_file_format=array_record "
            f"--dataset_version_dir={builder.data_dir}`"
        ) from error

    @functools.lru_cache(maxsize=8)  # so a small data set is read once, although the vocabulary and the tokens each need it
    def fetched(indices: range) -> list[dict[str, str]]:
        return fetch(indices)

    def fetch(indices: Sequence[int]) -> list[dict[str, str]]:
        try:
            rows = records.__getitems__(list(indices))  # several times as fast as reading them one by one
            return [{field: _text(row[feature]) for field, feature in fields.items()} for row in rows]
        except Exception as error:  # any exception, because several libraries are involved
            if len(indices) > 1:
                return [example for index in indices for example in fetch([index])]
            raise UserError(
                f"{_place(info.splits[name], indices[0])} cannot be read ({first_line(error)}); "
                f"delete {builder.data_dir} and prepare the data set again"
            ) from error

    examples = Examples(len(records), lambda indices: fetched(indices) if isinstance(indices, range) else fetch(indices))
    determined_by = [info.full_name, name, str(len(records)), *fields.values(), str(data.lowercase)]
    return Split(examples.map(lowered) if data.lowercase else examples, (), fingerprint(determined_by))


def _text(value: Any) -> str:
    """A feature as text; a number as its digits."""
    return value.decode().strip() if isinstance(value, bytes) else str(value)


def _place(split: Any, index: int) -> str:
    """The location of example `index` of a split: its file, and its index there."""
    for part in split.file_instructions:
        if index < part.take:
            return f"{part.filename}, record {part.skip + index:,},"
        index -= part.take
    raise IndexError(index)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS, which prints to stdout, logs, and draws progress bars."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
