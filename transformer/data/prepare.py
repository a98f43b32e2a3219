"""From settings to what training reads: splits, vocabularies, token ids, and the facts that only the data knows.

All of it is kept in the workdir and read from there the next time.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from transformer.config import Data, Facts
from transformer.data import corpus, sources, vocabulary
from transformer.data.sources import SplitName
from transformer.data.vocabulary import Vocabulary
from transformer.errors import UserError
from transformer.files import new_folder

NAMES: tuple[SplitName, ...] = get_args(SplitName)
Notice = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where prepared data lies."""

    vocabulary: Path
    tokens: Path
    cache: Path  # of embedded data sets


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's text and its token ids, by field."""

    examples: Sequence[Mapping[str, str]]
    tokens: Mapping[str, corpus.Ragged]
    fingerprint: str


def read_split(
    data: Data, name: SplitName, folders: Folders, vocabularies: Mapping[str, Vocabulary], notice: Notice
) -> Split | None:
    """The split, if the settings name one; tokens come from their cache if they are in it."""
    split = sources.read(data, name, folders.cache)
    if split is None:
        return None
    for text in split.notices:
        notice(text)
    key = hashlib.sha256(split.fingerprint.encode())
    for path in sorted(folders.vocabulary.iterdir()):
        key.update(path.name.encode() + path.read_bytes())
    folder = folders.tokens / f"{name}-{key.hexdigest()[:16]}"
    return Split(
        split.examples,
        corpus.cached(folder, lambda: corpus.tokenize(split.examples, vocabularies)),
        split.fingerprint,
    )


def make_vocabularies(data: Data, fields: Sequence[str], folders: Folders, notice: Notice) -> dict[str, Vocabulary]:
    """A vocabulary for every field, from the workdir, else learned from the training split and written there."""
    if folders.vocabulary.is_dir():
        return load_vocabularies(data, fields, folders.vocabulary)
    split = sources.read(data, "train", folders.cache)
    if split is None:
        raise UserError("config.data.train is none: there is nothing to learn a vocabulary from; name a training split")
    made = {
        name: vocabulary.train(data, [example[field] for field in of for example in split.examples], notice)
        for name, of in _names(data, fields).items()
    }
    try:
        with new_folder(folders.vocabulary) as folder:
            for name, each in made.items():
                each.save(folder, name)
    except OSError as error:
        raise UserError(f"{folders.vocabulary}: cannot write the vocabulary: {error.strerror}") from error
    return {field: made[name] for name, of in _names(data, fields).items() for field in of}


def load_vocabularies(data: Data, fields: Sequence[str], folder: Path) -> dict[str, Vocabulary]:
    """The workdir's vocabularies, by field."""
    return {f: each for name, of in _names(data, fields).items() for each in [vocabulary.load(folder, name)] for f in of}


def make_facts(vocabularies: Mapping[str, Vocabulary]) -> Facts:
    """What models need to know of the vocabularies."""
    sizes = {side: vocabularies[side].size for side in ("source", "target")}
    return Facts(sizes["source"], sizes["target"], sizes["source"], sizes["target"])


def _names(data: Data, fields: Sequence[str]) -> dict[str, Sequence[str]]:
    """Vocabularies by name, with the fields that they are for."""
    return {"joint": fields} if data.joint_vocabulary else {field: (field,) for field in fields}
