"""Reads two aligned text files as {"source", "target"}, or mixes several tasks with such files at fixed rates."""

import dataclasses
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transformer.config import Data
from transformer.cuts import Cut, merged, only, some
from transformer.data.sources.base import Examples, Split, SplitName, fingerprint
from transformer.data.sources.reading import find, folder, part, read_lines
from transformer.errors import UserError, counted, nearest


def read_text(data: Data, split: SplitName, cache: Path) -> Split:
    """Line n of `<prefix>.<source language>` and line n of `<prefix>.<target language>`, stripped; or `data.mixture`."""
    return _read_mixture(data, split, cache) if data.mixture else _read_files(data, split)


def prefixer(prefix: str, lowercase: bool) -> Callable[[dict[str, str]], dict[str, str]]:
    """A function that adds a prefix to an example's source. A blank source remains blank."""
    before = prefix.lower() if lowercase else prefix
    return lambda example: example | {"source": before + example["source"]} if example["source"] else example


def _read_files(data: Data, split: SplitName) -> Split:
    name, cut = part(data, split)
    paths = [_find(data, split, name, side) for side in ("source", "target")]
    sources, targets = ([line.strip() for line in read_lines(path)] for path in paths)
    if len(sources) != len(targets):
        raise UserError(
            f"{paths[0]} has {counted(len(sources), 'line')}, {paths[1]} has {len(targets)}: "
            "line n of one file must be the translation of line n of the other"
        )
    where = range(len(sources))[cut(len(sources))]
    if not where:
        raise UserError(
            f"config.data.{split} {getattr(data, split)}: this slice contains none of the {counted(len(sources), 'line')}"
        )
    notices = ()
    if split == "train":
        blank = [i for i in where if not (sources[i] and targets[i])]
        if blank:
            left_out = Cut(len(blank), len(where), "pairs have a blank side and were left out", split)
            notices = (left_out, f"{paths[0]}: the first pair with a blank side is in line {blank[0] + 1:,}")
            where = sorted(set(where) - set(blank))
        if not where:
            raise UserError(
                f"{paths[0]} and {paths[1]} have no pair of lines in which both have text: there is nothing to train on"
            )
    sources, targets = ([side[i].lower() if data.lowercase else side[i] for i in where] for side in (sources, targets))
    if data.join > 1:
        groups = runs(len(sources), data.join)
        sources, targets = ([" ".join(side[i] for i in group) for group in groups] for side in (sources, targets))
    examples = Examples(len(sources), lambda indices: [{"source": sources[i], "target": targets[i]} for i in indices])
    return Split(examples, notices, fingerprint(line for side in (sources, targets) for line in side))


def runs(length: int, most: int) -> list[range]:
    """Sizes of groups of neighbours to join: 1, 2, .. `most` in turn, `length` in total; the last group may be smaller."""
    result, first = [], 0
    for size in itertools.cycle(range(1, most + 1)):
        if first >= length:
            return result
        result.append(range(first, min(first + size, length)))
        first += size
    return result


def _find(data: Data, split: SplitName, name: str, side: str) -> Path:
    return find(
        folder(data),
        [f"{name}.{getattr(data, side + '_language')}"],
        f"config.data.directory, config.data.{split} (the prefix) or config.data.{side}_language",
    )


def _read_mixture(data: Data, split: SplitName, cache: Path) -> Split:
    """Concatenates the tasks, with the name of the task as prefix of each source (Raffel et al. 2020, 2.4 and 3.5.2).

    In training, an epoch has as many examples as all tasks together, divided among the tasks in proportion to their rates. If a
    task has too few examples they are repeated; if it has too many, some are taken at regular intervals, the same ones in each
    epoch, so that the others are never read.
    """
    rates = _rates(data)
    tasks = {}
    for name in rates:
        where = folder(data) / name
        if not where.is_dir():
            others = [p.name for p in folder(data).iterdir()] if folder(data).is_dir() else []
            raise UserError(f"config.data.mixture {name}: there is no folder {where}{nearest(name, others)}")
        tasks[name] = _read_files(dataclasses.replace(data, directory=str(where)), split)
    sizes = {name: len(task.examples) for name, task in tasks.items()}
    counts = shares(sum(sizes.values()), rates) if split == "train" else sizes
    put = {name: prefixer(_task(name) + ": ", data.lowercase) for name in tasks}
    mixed = [task.examples.map(put[name]) for name, task in tasks.items()]
    task_N = np.repeat(np.arange(len(tasks)), list(counts.values()))
    index_N = np.concatenate([np.arange(counts[name]) * size // max(counts[name], 1) for name, size in sizes.items()])
    examples = Examples(len(task_N), lambda indices: [dict(mixed[task_N[i]][int(index_N[i])]) for i in indices])
    notices = [notice for task in tasks.values() for notice in task.notices]
    notices = [*merged(only(notices)), *(notice for notice in notices if isinstance(notice, str))]
    if split == "train":
        unread = "examples of {} are never read: its rate gives it fewer, the same in each epoch (config.data.mixture)"
        notices += some(*(Cut(max(n - counts[name], 0), n, unread.format(name), split) for name, n in sizes.items()))
        share = ", ".join(f"{counts[name]:,} of {name} (which has {size:,})" for name, size in sizes.items())
        notices += [f"an epoch has {counted(len(task_N), 'example')}, the same in each: {share}"]
    determined_by = [f"{name} {counts[name]} {task.fingerprint}" for name, task in tasks.items()]
    return Split(examples, tuple(notices), fingerprint([*determined_by, str(data.lowercase)]))


def _task(folder: str) -> str:
    """The prefix of the sources of a task."""
    return (Path(folder).name if os.path.isabs(folder) else folder).replace("_", " ")


def _rates(data: Data) -> dict[str, float]:
    rates = {}
    for entry in data.mixture:
        name, colon, number = entry.rpartition(":")
        try:
            rate = float(number)
        except ValueError:
            rate = 0.0
        if not (colon and name and 0 < rate < float("inf")):
            raise UserError(
                f"config.data.mixture {entry}: expected NAME:RATE, a folder and a number above 0, as in summarize:2.5"
            )
        if name in rates:
            raise UserError(f"config.data.mixture {entry}: {name} is there twice; give each task one rate")
        rates[name] = rate
    return rates


def shares(total: int, rates: dict[str, float]) -> dict[str, int]:
    """`total` divided in proportion to the rates, in whole numbers that sum to it (largest remainders)."""
    exact = {name: total * rate / sum(rates.values()) for name, rate in rates.items()}
    result = {name: int(value) for name, value in exact.items()}
    for name in sorted(rates, key=lambda name: result[name] - exact[name])[: total - sum(result.values())]:
        result[name] += 1
    return result
