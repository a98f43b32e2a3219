"""What runs of a study have in common is made once: the training of those that differ in how the model is scored alone, and the
vocabulary and the tokens of those that read the same data."""

import dataclasses
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from transformer import settings
from transformer.config import Config, Evaluate, Search
from transformer.files import new_folder
from transformer.runtime.workdir import Workdir, write_json
from transformer.studies.plan import Run
from transformer.studies.results import beside


def next_of(waiting: Sequence[Run], active: Collection[Run], seeds: int) -> list[Run]:
    """The first run that takes its training from none that is under way, and others that differ from it in their seeds alone,
    `seeds` in all at most; [] if there is none."""
    busy = [_training(other.config) for other in active]
    free = [run for run in waiting if _training(run.config) not in busy]
    return [run for run in free if _but_seed(run.config) == _but_seed(free[0].config)][:seeds]


def take(config: Config, folder: Path) -> None:
    """If a run beside `folder`, the workdir of a run with these settings that has not begun, has its training, the workdir is
    a copy of that, scores left out; the time it took is this one's, too. Else, if one has its data, it begins with that."""
    if folder.exists():
        return
    prepared = None
    for file in sorted(folder.parents[1].glob(f"*/*/{Workdir(folder).config_file.name}")):
        other, made = Workdir(file.parent), Workdir(file.parent).config()
        if (other.checkpoints / str(config.train.steps)).is_dir() and _training(made) == _training(config):
            scores = (other.evaluation_file("test").parent, other.pictures)
            with new_folder(folder) as new:
                shutil.copytree(other.path, new, ignore=shutil.ignore_patterns(*(p.name for p in scores)), dirs_exist_ok=True)
                write_json(Workdir(new).config_file, settings.to_dict(config))
            if (seconds := beside(other.path, ".seconds")).exists():
                shutil.copy(seconds, beside(folder, ".seconds"))
            return
        if other.data_info_file.exists() and other.tokens.is_dir() and _data(made) == _data(config):
            prepared = other
    if prepared is not None and config.train.init_from is config.train.branch_from is None:
        with new_folder(folder) as new:
            begun = Workdir(new)
            shutil.copytree(prepared.vocabulary, begun.vocabulary)
            shutil.copytree(prepared.tokens, begun.tokens, copy_function=_link)
            if prepared.config().data == config.data:  # else the longest output may be another
                shutil.copy(prepared.data_info_file, begun.data_info_file)
            begun.keep_variants(config)
            write_json(begun.config_file, settings.to_dict(config))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy(source, target)


def _data(config: Config) -> tuple[object, ...]:
    """What the vocabulary and the tokens of a split depend on. The search for a learning rate has no test split."""
    return config.family, config.objective, config.train.init_from, dataclasses.replace(config.data, test=None)


def _but_seed(config: Config) -> Config:
    """The settings that all seeds of an arm share."""
    return settings.replace(config, "train.seed", 0)


def _training(config: Config) -> Config:
    """What of a run's settings its training depends on; the rest as it is by default."""
    return dataclasses.replace(config, evaluate=Evaluate(), search=Search())
