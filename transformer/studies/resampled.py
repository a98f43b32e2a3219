"""sentences.csv: what differences of arms are worth on other sentences too, from the outputs that runs have kept.

A row of each pair of arms and score (bootstrap.py): the standard error that sentences add to that of the seeds, and, of one
checkpoint of either side, what resampling sentences says. Letters: R seeds, S sentences, K statistics.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transformer.data.text import lines as file_lines
from transformer.errors import UserError, no_failure
from transformer.files import new_file
from transformer.inference import scores
from transformer.inference.sums import SUMS, of_sentences
from transformer.runtime.workdir import Workdir
from transformer.studies import bootstrap
from transformer.studies.outcomes import Outcome
from transformer.studies.plan import Plan, Run
from transformer.studies.statistics import Pair, neighbours
from transformer.studies.study import Metric, Study

NAME = "sentences.csv"
COLUMNS = ("metric", "arm", "against", "error", "seed", "difference", "low", "high", "p")


@dataclass(frozen=True)
class Row:
    """`error`: the standard error that all seeds of the pair share (`bootstrap.shared_error`); None: fewer than two, or nobody
    asked. The others are of the checkpoints of `seed` alone: `arm` minus `against`, and its interval of 95 %."""

    metric: str
    arm: str
    against: str
    error: float | None
    seed: int
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Outputs:
    """What a run said: statistics of its sentences, and how many words the source of each has."""

    statistics_SxK: np.ndarray
    words: Sequence[int]

    def of(self, words: range | None) -> np.ndarray:
        """The statistics of sources of so many words; None: all."""
        return self.statistics_SxK[[words is None or count in words for count in self.words]]


def summed(metric: Metric) -> bool:
    """Whether it is made of sums over sentences: all, those of sources of so many words, or all as long as references."""
    known = metric.where in ("", scores.TRUE_LENGTH) or scores.bucket(metric.where) is not None
    return known and metric.score in SUMS and metric.take == "last"


def pairs(study: Study) -> list[Pair]:
    """The arms that a report compares: each with `compare_with`, and the pairs of claims."""
    each = [(arm, study.against(arm)) for arm in study.arms if arm != study.against(arm)]
    claimed = [pair for claim in study.claims if claim.kind == "order" for pair in neighbours(claim.arms)]
    claimed += [(arm, claim.against) for claim in study.claims if claim.against for arm in claim.arms]
    claimed = [pair for pair in claimed if set(pair) <= set(study.arms)]
    return each + [pair for pair in dict.fromkeys(claimed) if pair not in each and pair[::-1] not in each]


def write(plan: Plan, root: Path, outcomes: Mapping[Run, Outcome]) -> None:
    """The file, if there are outputs of a metric's arms to compare; else none, nor an older one."""
    study, rows = plan.study, []
    finished = {
        (run.arm, run.seed): run for run, found in outcomes.items() if run.part == "study" and found.status == "finished"
    }
    outputs: dict[tuple[str, str, str], dict[tuple[str, int], Outputs]] = {}  # once for all ranges of a split's score
    for metric in filter(summed, study.metrics):
        field = scores.OF_TRUE_LENGTH if metric.where == scores.TRUE_LENGTH else scores.PREDICTION
        if (which := (metric.split, metric.score, field)) not in outputs:
            every = {key: _outputs(run, root, *which) for key, run in finished.items()}
            outputs[which] = {key: each for key, each in every.items() if each is not None}
        chosen = {key: each.of(scores.bucket(metric.where)) for key, each in outputs[which].items()}
        known = {key: statistics for key, statistics in chosen.items() if len(statistics) >= scores.FEWEST}
        for pair in pairs(study):
            seeds = [seed for seed in sorted({seed for _, seed in known}) if all((arm, seed) in known for arm in pair)]
            if seeds:
                ours, theirs = (np.stack([known[arm, seed] for seed in seeds]) for arm in pair)
                rows.append(_compared(metric, pair, seeds[0], ours, theirs))
    made = {(row.metric, row.arm, row.against) for row in rows}
    wanted = {(metric.label, *pair) for metric in filter(summed, study.metrics) for pair in pairs(study)}
    gone = any(not run.folder(root).exists() for run in finished.values())
    for row in read(root / NAME, study) if gone else ():  # the outputs are elsewhere; what was made of them is here
        if (key := (row.metric, row.arm, row.against)) in wanted and key not in made:
            rows.append(row)
    (root / NAME).unlink(missing_ok=True)
    if rows:
        with new_file(root / NAME) as new, new.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)


def _outputs(run: Run, root: Path, split: str, score: str, field: str) -> Outputs | None:
    """None: the run has left none."""
    path = Workdir(run.folder(root)).outputs_file(split)
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in file_lines(path.read_text(encoding="utf-8"))]
    if any(field not in line for line in lines):
        return None
    outputs, references = ([line[side] for line in lines] for side in (field, "reference"))
    statistics_SxK = of_sentences(score, outputs, references, run.config.evaluate.bleu_tokenize)
    return Outputs(statistics_SxK, [len(line["source"].split()) for line in lines])


def _compared(metric: Metric, pair: Pair, seed: int, ours_RxSxK: np.ndarray, theirs_RxSxK: np.ndarray) -> Row:
    score = SUMS[metric.score].score
    error = bootstrap.shared_error(score, ours_RxSxK, theirs_RxSxK)
    two = bootstrap.checkpoints(score, ours_RxSxK[0], theirs_RxSxK[0])
    value, low, high, p = (float(f"{x:.6g}") for x in (two.value, *two.interval, two.p))
    return Row(metric.label, *pair, None if error is None else float(f"{error:.6g}"), seed, value, low, high, p)


def read(path: Path, study: Study) -> list[Row]:
    """What `write` wrote; nothing if there is no such file. UserError: damaged, or of another study."""
    if not path.is_file():
        return []
    with no_failure(str(path), "read"):
        data = path.read_text(encoding="utf-8")
    lines = list(csv.DictReader(io.StringIO(data, newline="")))
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            error = float(line["error"]) if line["error"] else None
            values = [float(line[name]) for name in COLUMNS[5:]]
            row = Row(line["metric"], line["arm"], line["against"], error, int(line["seed"]), *values)
        except (KeyError, TypeError, ValueError) as wrong:
            raise UserError(f"{path}, line {number}: damaged; --mode=ablate makes the file again from the runs") from wrong
        known = {row.arm, row.against} <= set(study.arms) and row.metric in [metric.label for metric in study.metrics]
        if not known or not math.isfinite(row.difference):
            raise UserError(f"{path}, line {number}: it is not of this study; is --config the study's file?")
        rows.append(row)
    return rows


def shared(rows: Sequence[Row], metric: Metric) -> dict[Pair, float]:
    """By pair, for `statistics.contrasts`."""
    return {(row.arm, row.against): row.error for row in rows if row.metric == metric.label and row.error is not None}
