"""sentences.csv: what differences of arms are worth on other sentences too, from the outputs that runs have kept.

Two rows of each arm and score: of one checkpoint of either side, resampling sentences alone, and of the arms, resampling
seeds and sentences together (bootstrap.py). Letters: R seeds, S sentences, K statistics.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transformer.errors import UserError, no_failure
from transformer.files import new_file
from transformer.inference.sums import SUMS, of_sentences
from transformer.runtime.workdir import Workdir
from transformer.studies import bootstrap
from transformer.studies.outcomes import Outcome
from transformer.studies.plan import Plan, Run
from transformer.studies.study import Metric, Study

NAME = "sentences.csv"
COLUMNS = ("metric", "arm", "about", "seeds", "difference", "low", "high", "p")


@dataclass(frozen=True)
class Row:
    """`arm` minus the arm that all are compared with. `seeds`: how many, or, of two checkpoints, which. None: one seed."""

    metric: str
    arm: str
    about: str
    seeds: int
    difference: float
    low: float | None
    high: float | None
    p: float | None


def summed(metric: Metric) -> str | None:
    """The score whose sums over sentences make the metric; None: another kind of metric."""
    name = metric.name.partition("/")[2]
    return name if name in SUMS and metric.take == "last" else None


def write(plan: Plan, root: Path, outcomes: Mapping[Run, Outcome]) -> None:
    """The file, if there are outputs of a metric's arms to compare; else none, nor an older one."""
    study, rows = plan.study, []
    finished = {
        (run.arm, run.seed): run for run, found in outcomes.items() if run.part == "study" and found.status == "finished"
    }
    others = [arm for arm in study.arms if arm != study.compare_with]
    for metric in study.metrics:
        if (name := summed(metric)) is None:
            continue
        split = metric.name.partition("/")[0]
        read = {key: _statistics(run, Workdir(run.folder(root)).outputs_file(split), name) for key, run in finished.items()}
        known = {key: statistics for key, statistics in read.items() if statistics is not None}
        for arm in others:
            seeds = [seed for seed in range(study.seeds) if (arm, seed) in known and (study.compare_with, seed) in known]
            if seeds:
                ours, theirs = (np.stack([known[each, seed] for seed in seeds]) for each in (arm, study.compare_with))
                rows += _compared(metric, name, arm, seeds, ours, theirs, len(others))
    (root / NAME).unlink(missing_ok=True)
    if rows:
        with new_file(root / NAME) as new, new.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)


def _statistics(run: Run, path: Path, name: str) -> np.ndarray | None:
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    outputs, references = ([line[side] for line in lines] for side in ("output", "reference"))
    return of_sentences(name, outputs, references, run.config.evaluate.bleu_tokenize)


def _compared(
    metric: Metric, name: str, arm: str, seeds: Sequence[int], ours_RxSxK: np.ndarray, theirs_RxSxK: np.ndarray, arms: int
) -> list[Row]:
    """Intervals of arms hold together (Bonferroni); that of two checkpoints stands alone."""
    score = SUMS[name].score
    two = bootstrap.checkpoints(score, ours_RxSxK[0], theirs_RxSxK[0])
    both = bootstrap.arms(score, ours_RxSxK, theirs_RxSxK, level=1 - 0.05 / arms)
    result = []
    for found, count, times in ((two, seeds[0], 1), (both, len(seeds), arms)):
        low, high = found.interval or (None, None)
        p = None if found.p is None else min(found.p * times, 1.0)
        numbers = (None if x is None else float(f"{x:.6g}") for x in (found.value, low, high, p))
        result.append(Row(metric.label, arm, found.about, count, *numbers))  # type: ignore[arg-type]
    return result


def read(path: Path, study: Study) -> list[Row]:
    """What `write` wrote; nothing if there is no such file. UserError: damaged, or of another study."""
    if not path.is_file():
        return []
    with no_failure(str(path), "read"):
        data = path.read_text(encoding="utf-8")
    lines = list(csv.DictReader(data.splitlines()))
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            values = [float(line[name]) if line[name] else None for name in COLUMNS[4:]]
            row = Row(line["metric"], line["arm"], line["about"], int(line["seeds"]), *values)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: damaged; --mode=ablate makes the file again from the runs") from error
        known = row.arm in study.arms and row.metric in [metric.label for metric in study.metrics]
        if not known or row.difference is None or not math.isfinite(row.difference):
            raise UserError(f"{path}, line {number}: it is not of this study; is --config the study's file?")
        rows.append(row)
    return rows
