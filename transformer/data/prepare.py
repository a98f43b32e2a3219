"""Prepares the data for training: splits, vocabularies, token ids, and the `DataInfo`, which depends on the data.

Everything is kept in the workdir and read from there the next time.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from transformer.config import Data, DataInfo
from transformer.cuts import Cut, Notice, only
from transformer.data import corpus, sources
from transformer.data.encode import find_labels
from transformer.data.objectives import Corpus
from transformer.data.sources import SplitName
from transformer.data.tokenizers import load, training
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError
from transformer.files import new_folder

NAMES: tuple[SplitName, ...] = get_args(SplitName)
SENTINELS = 100  # as many as T5 has
SHOWN_UNKNOWN = 0.001  # the fraction of unknown tokens above which a notice is given
# (examples, encoder of each field, labels) -> tokens. A `RandomSegmentation` can only encode texts, which `validate` ensures.
Encode = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any], Sequence[str]], dict[str, corpus.Ragged]]


@dataclasses.dataclass(frozen=True)
class Folders:
    """The folders of prepared data."""

    vocabulary: Path
    tokens: Path
    cache: Path  # of synthetic data sets


@dataclasses.dataclass(frozen=True)
class Split:
    """The text of a split and its token ids, by field. `cuts`: what was dropped or replaced in reading and encoding it."""

    examples: Sequence[Mapping[str, Any]]
    tokens: Corpus
    fingerprint: str
    cuts: tuple[Cut, ...] = ()


class Text:
    """The text of the splits, each of which is read once."""

    def __init__(self, data: Data, fields: Sequence[str], cache: Path, notice: Notice):
        self.data, self.fields, self.cache, self.notice = data, fields, cache, notice
        self._read: dict[str, sources.Split | None] = {}

    def split(self, name: SplitName) -> sources.Split | None:
        """The split, if the settings name one. UserError if its examples lack required fields."""
        if name not in self._read:
            found = self._read[name] = sources.read(self.data, name, self.cache)
            for text in found.notices if found else ():
                self.notice(text)
            if found and (missing := [f for f in self.fields if f not in found.examples[0] and f != "pair"]):
                raise UserError(
                    f"config.data.source {self.data.source}: its examples have {', '.join(found.examples[0])}, and "
                    f"config.objective.kind needs {', '.join(missing)}; choose another source or another kind"
                )
            for other, each in self._read.items():
                if found and each and (fields := each.examples[0].keys()) != found.examples[0].keys():
                    raise UserError(
                        f"config.data.{name} {getattr(self.data, name)}: its examples have {', '.join(found.examples[0])}, "
                        f"those of config.data.{other} {', '.join(fields)}; give all splits the same fields"
                    )
        return self._read[name]

    def training(self) -> sources.Split:
        """The training split. UserError if there is none."""
        split = self.split("train")
        if split is None:
            raise UserError("config.data.train is none: there is nothing to learn from; name a training split")
        return split


def encode_split(
    text: Text,
    name: SplitName,
    folders: Folders,
    vocabularies: Mapping[str, Vocabulary],
    data_info: DataInfo,
    encode: Encode,
    training: bool = False,
) -> Split | None:
    """The split with its tokens, which are cached; None if the settings do not name one.

    `training`: the tokens are those of `data.segmentations` copies of the examples, one copy after another.
    """
    split = text.split(name)
    if split is None:
        return None
    key = hashlib.sha256((split.fingerprint + encode.__name__ + "\n".join(data_info.labels)).encode())
    for path in sorted(folders.vocabulary.iterdir()):
        key.update(path.name.encode() + path.read_bytes())
    copies, rate = (text.data.segmentations, text.data.segmentation_rate) if training else (1, 0.0)
    if copies > 1:
        key.update(f"{copies} segmentations {rate}".encode())
    folder = folders.tokens / f"{name}-{key.hexdigest()[:16]}"

    def build() -> dict[str, corpus.Ragged]:
        every = [encode(split.examples, vocabularies, data_info.labels)]
        for copy in range(1, copies):
            seeds = itertools.count(copy * len(vocabularies))  # a separate seed for each field and copy
            drawn = {field: each.sampled(rate, next(seeds)) for field, each in vocabularies.items()}
            every.append(encode(split.examples, drawn, data_info.labels))
        return {field: corpus.Ragged.joined([tokens[field] for tokens in every]) for field in every[0]}

    try:
        tokens = corpus.cached(folder, build)
    except UserError as error:
        raise UserError(f"config.data.{name} {getattr(text.data, name)}: {error}") from error
    unknown = tuple(_unknown(name, vocabularies, tokens))
    for cut in unknown:
        text.notice(cut)
    return Split(split.examples, tokens, split.fingerprint, (*only(split.notices), *unknown))


def _unknown(name: str, vocabularies: Mapping[str, Vocabulary], tokens: Corpus) -> Iterator[Cut]:
    """Counts of unknown tokens, for each field in which there are more than a few."""
    for field, each in vocabularies.items():
        if field not in tokens or each.unknown is None:
            continue
        values = tokens[field].values
        if (count := int(np.count_nonzero(values == each.unknown))) > SHOWN_UNKNOWN * len(values):
            what = f"tokens ({field}) are unknown to the vocabulary (config.data.vocabulary, .vocabulary_size)"
            yield Cut(count, len(values), what, name)


def make_vocabularies(text: Text, fields: Sequence[str], folders: Folders) -> dict[str, Vocabulary]:
    """A vocabulary for every field, read from the workdir, or else learned from the training split and written there."""
    data = text.data
    if folders.vocabulary.is_dir():
        return load_vocabularies(data, fields, folders.vocabulary)
    if data.vocabulary == "imported":
        raise UserError(
            "config.data.vocabulary imported: the workdir has none; it comes with --mode=import or config.train.init_from"
        )
    examples = text.training().examples
    columns: dict[str, list[str]] = {field: [] for field in fields if field in examples[0]}
    for example in examples:  # once for all fields, because reading is slow
        for field, column in columns.items():
            column.append(example[field])
    names, made = _names(data, fields), {}
    for name, of in names.items():
        texts = [each for field in of for each in columns.get(field, ())]
        before = "" if len(names) == 1 else f"{name} "
        made[name] = training.train(data, texts, lambda line, before=before: text.notice(before + line))
    try:
        with new_folder(folders.vocabulary) as folder:
            for name, each in made.items():
                each.save(folder, name)
    except OSError as error:
        raise UserError(f"{folders.vocabulary}: cannot write the vocabulary: {error.strerror}") from error
    return {field: made[name] for name, of in names.items() for field in of}


def load_vocabularies(data: Data, fields: Sequence[str], folder: Path) -> dict[str, Vocabulary]:
    """The vocabularies of the workdir, by field."""
    return {f: each for name, of in _names(data, fields).items() for each in [load(folder, name)] for f in of}


def make_data_info(vocabularies: Mapping[str, Vocabulary], extra: str | None, text: Text, base: DataInfo | None) -> DataInfo:
    """What models need to know about the data. `extra`: "mask" or "sentinels", entries after those of the vocabularies.

    `base`: the `DataInfo` of the run from which this one starts and whose vocabulary it uses; only the labels are new.
    """
    labels = find_labels(text.training().examples)
    if base is not None:
        return dataclasses.replace(base, labels=labels)
    each = list(vocabularies.values())
    more = {None: 0, "mask": 1, "sentinels": SENTINELS}[extra]
    source, target = each[0].size + more, each[-1].size + more
    data_info = DataInfo(source, target, source, target, labels=labels)
    if extra == "mask":
        return dataclasses.replace(data_info, mask=source - 1)
    return dataclasses.replace(data_info, sentinels=more)


def longest_output(tokens: Mapping[str, Corpus], data: Data) -> int:
    """The length of the longest target, including its end, or of the longest answer, in any split; 0 if there is neither.

    Training targets count up to `data.max_target_length`, because a model does not learn to write longer ones.
    """
    longest = [0]
    for name, fields in tokens.items():
        if "target" in fields:
            length = int(fields["target"].lengths.max(initial=0)) + 1
            longest.append(min(length, data.max_target_length) if name == "train" else length)
        elif "span" in fields:
            longest.append(max((int(row[1] - row[0]) + 1 for row in fields["span"] if len(row)), default=0))
    return max(longest)


def _names(data: Data, fields: Sequence[str]) -> dict[str, Sequence[str]]:
    """The names of the vocabularies, with the fields of each."""
    joint = data.joint_vocabulary or tuple(fields) != ("source", "target")
    return {"joint": fields} if joint else {field: (field,) for field in fields}
