"""Where text comes from: the embedded task, two aligned text files, or a data set of the TFDS catalogue.

Each gives pairs {"source", "target"} of stripped text. Tokens are `vocabulary.py`, batches `pipeline.py`. TFDS is imported
only where it is needed: it takes a while, and translation does without. TensorFlow is never imported.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from transformer.config import Data
from transformer.errors import UserError, nearest

SplitName = Literal["train", "validation", "test"]


class Examples(Sequence[Mapping[str, str]]):
    """Pairs fetched when they are asked for, by index or, several times as fast from TFDS, by slice or iteration."""

    def __init__(self, length: int, fetch: Callable[[Sequence[int]], list[dict[str, str]]]):
        self._length = length
        self._fetch = fetch

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Mapping[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping[str, str]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        where = range(self._length)[index]
        return self._fetch(where) if isinstance(where, range) else self._fetch([where])[0]

    def __iter__(self) -> Iterator[Mapping[str, str]]:
        for first in range(0, self._length, 4096):
            yield from self[first : first + 4096]


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples to train on or to score.

    `examples` are mappings of "source" and "target" to text; `notices` are what the user should be told; `fingerprint`
    is a hexadecimal hash of the content or, of a TFDS data set, of what determines it.
    """

    examples: Sequence[Mapping[str, str]]
    notices: tuple[str, ...]
    fingerprint: str


def read(data: Data, split: SplitName, cache: Path) -> Split | None:
    """The split that `data.train`, `.validation` or `.test` names; None where that setting is none.

    An embedded data set is prepared in `data.directory` or, where that is none, in the folder `cache`. UserError where the
    data is missing, malformed or empty, or the settings do not fit it.
    """
    return None if getattr(data, split) is None else SOURCES[data.source](data, split, cache)


def _hash(parts: Iterable[str]) -> str:
    result = hashlib.sha256()
    for part in parts:
        result.update(part.encode() + b"\n")  # no part has a newline, so different parts differ
    return result.hexdigest()


# --- two text files ----------------------------------------------------------------------------------------------------


def _read_text(data: Data, split: SplitName, cache: Path) -> Split:
    paths = [_find(data, split, side) for side in ("source", "target")]
    sources, targets = ([line.lower() if data.lowercase else line for line in _read_lines(path)] for path in paths)
    if len(sources) != len(targets):
        raise UserError(
            f"{paths[0]} has {len(sources)} lines, {paths[1]} has {len(targets)}: "
            "line n of the one must be the translation of line n of the other"
        )
    blank = [i for i, pair in enumerate(zip(sources, targets, strict=True)) if not all(pair)]
    notices = ()
    if blank and split == "train":
        notices = (f"{len(blank)} blank pairs skipped in {paths[0]} and {paths[1]}, the first in line {blank[0] + 1}",)
        skipped = set(blank)
        sources, targets = ([line for i, line in enumerate(side) if i not in skipped] for side in (sources, targets))
        if not sources:
            raise UserError(f"{paths[0]} and {paths[1]} have no pair of lines of which neither is blank: nothing to train on")
    examples = Examples(len(sources), lambda indices: [{"source": sources[i], "target": targets[i]} for i in indices])
    return Split(examples, notices, _hash(line for side in (sources, targets) for line in side))


def _find(data: Data, split: SplitName, side: str) -> Path:
    folder = Path(data.directory or ".").expanduser()
    name = f"{getattr(data, split)}.{getattr(data, side + '_language')}"
    for path in (folder / name, folder / (name + ".gz")):
        if path.is_file():
            return path
    others = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    raise UserError(
        f"{folder / name}: there is no such file, nor {name}.gz beside it{nearest(name, others)}; "
        f"set config.data.directory, config.data.{split} (the prefix) or config.data.{side}_language"
    )


def _read_lines(path: Path) -> list[str]:
    """The lines of a file, stripped. Only newlines end one: `str.splitlines` would split at ten other characters."""
    lines = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # utf-8-sig drops the byte order mark that some editors put at a file's start
                lines.append(line.decode("utf-8" if number > 1 else "utf-8-sig").strip())
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {len(lines) + 1} is not UTF-8 (byte {error.object[error.start]:#x}); convert the file, as with iconv"
        ) from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise UserError(f"{path}: the file is empty")
    return lines


# --- TFDS --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS prints to stdout, logs and draws progress bars: not for our user."""
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


def _read_number_words(data: Data, split: SplitName, cache: Path) -> Split:
    from transformer.data import number_words

    folder = Path(data.directory).expanduser() if data.directory else cache
    with _quiet():
        result = _records(number_words.prepare(data, folder), data, split, ("source", "target"))
    if split != "train":
        return result
    size, among = data.number_train_size, data.number_range[1] - data.number_range[0]
    held = data.number_test_size
    notice = (
        f"{size:,} of {among:,} numbers ({size / among:.1%}) to train on, {held:,} others to validate, {held:,} others to test"
    )
    return dataclasses.replace(result, notices=(notice,))


def _read_tfds(data: Data, split: SplitName, cache: Path) -> Split:
    from tensorflow_datasets.core import constants, read_only_builder

    if data.tfds_name is None:
        raise UserError("config.data.tfds_name is not set: config.data.source tfds needs it, as in wmt14_translate/de-en")
    folder = Path(data.directory or constants.DATA_DIR).expanduser()
    with _quiet():
        try:  # from the files alone: the catalogue's own code may want TensorFlow
            builder = read_only_builder.builder_from_files(data.tfds_name, data_dir=folder)
        except (ValueError, OSError) as error:
            prepared = {
                str(p.parent.parent.relative_to(folder)) for n in (2, 3) for p in folder.glob("*/" * n + "features.json")
            }
            raise UserError(
                f"config.data.tfds_name {data.tfds_name}: not prepared in {folder}{nearest(data.tfds_name, prepared)}; "
                "to prepare it takes the network and TensorFlow: on a machine that has both, run `tfds build "
                f"{data.tfds_name} --file_format=array_record --data_dir=DIR`, "
                "then copy DIR here and set config.data.directory to it"
            ) from error
        return _records(builder, data, split, (data.source_language, data.target_language))


def _records(builder: Any, data: Data, split: SplitName, fields: tuple[str, str]) -> Split:
    """The split of a prepared TFDS data set, `fields` being its features of the source and the target."""
    import tensorflow_datasets as tfds

    info, name = builder.info, getattr(data, split)
    sides = dict(zip(("source", "target"), fields, strict=True))
    known = [field for field, feature in info.features.items() if isinstance(feature, tfds.features.Text)]
    for side, field in sides.items():
        if field not in known:
            raise UserError(
                f"config.data.{side}_language {field}: the texts of {info.full_name} are {', '.join(known) or 'none'}"
            )
    try:
        records = builder.as_data_source(name)
    except ValueError as error:
        raise UserError(
            f"config.data.{split} {name}: {info.full_name} has no such split, or nothing in it; "
            f"its splits are {', '.join(info.splits)}{nearest(name, info.splits)}"
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"{builder.data_dir}: kept as {info.file_format.value}, which takes TensorFlow to read: "
            "on a machine that has it, run `tfds convert_format --out_file_format=array_record "
            f"--dataset_version_dir={builder.data_dir}`"
        ) from error

    def fetch(indices: Sequence[int]) -> list[dict[str, str]]:
        rows = records.__getitems__(list(indices))  # several times as fast as one by one
        texts = [{side: row[field].decode().strip() for side, field in sides.items()} for row in rows]
        return [{side: text.lower() for side, text in pair.items()} for pair in texts] if data.lowercase else texts

    determined_by = [info.full_name, name, str(len(records)), *fields, str(data.lowercase)]
    return Split(Examples(len(records), fetch), (), _hash(determined_by))


SOURCES: Mapping[str, Callable[[Data, SplitName, Path], Split]] = {
    "number_words": _read_number_words,
    "text": _read_text,
    "tfds": _read_tfds,
}
