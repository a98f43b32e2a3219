"""Bootstrap of the test sentences, from the outputs that runs have kept: how differences of arms would vary with other
sentences.

resamples.csv has the score of each run on B resamples of the test sentences, which are the same for all runs. sentences.csv is
computed from it and has a row for each score and pair of arms: the standard error that the sentences add to that of the seeds,
and the bootstrap of the difference of two checkpoints. Letters: S sentences, K statistics of a sentence, B resamples.
"""

import base64
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
from transformer.statistics.bootstrap import Resampled, checkpoints, resample, shared_error
from transformer.statistics.contrasts import Pair, neighbours
from transformer.studies.plan import Plan, Run
from transformer.studies.results import Outcome
from transformer.studies.study import Metric, Study

NAME, RUNS = "sentences.csv", "resamples.csv"
COLUMNS = ("metric", "arm", "against", "error", "seed", "difference", "low", "high", "p")


@dataclass(frozen=True)
class Row:
    """`error`: the standard error that all seeds of the pair share (`shared_error`); None with fewer than two seeds, or if it
    was not computed. The other fields are about the two checkpoints of `seed`: `arm` minus `against`, and its 95 % interval."""

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
    """The outputs of a run: statistics of its sentences, and the number of words of each source."""

    statistics_SxK: np.ndarray
    words: Sequence[int]

    def of(self, words: range | None) -> np.ndarray:
        """The statistics of sentences whose source has a number of words in this range; None: of all."""
        return self.statistics_SxK[[words is None or count in words for count in self.words]]


def summed(metric: Metric) -> bool:
    """Whether a metric is computed from sums over sentences: all, those with sources in a range of lengths, or all decoded to
    the reference length."""
    known = metric.where in ("", scores.TRUE_LENGTH) or scores.bucket(metric.where) is not None
    return known and metric.score in SUMS and metric.take != "updates"


def pairs(study: Study) -> list[Pair]:
    """The arms that a report compares: each with `compare_with`, and the pairs of claims."""
    each = [(arm, study.against(arm)) for arm in study.arms if arm != study.against(arm)]
    claimed = [pair for claim in study.claims if claim.kind == "order" for pair in neighbours(claim.arms)]
    claimed += [(arm, claim.against) for claim in study.claims if claim.against for arm in claim.arms]
    claimed = [pair for pair in claimed if set(pair) <= set(study.arms)]
    return each + [pair for pair in dict.fromkeys(claimed) if pair not in each and pair[::-1] not in each]


def write(plan: Plan, root: Path, outcomes: Mapping[Run, Outcome]) -> None:
    """Writes both files if there are outputs of a metric's arms to compare; otherwise removes older ones.

    Rows of resamples.csv about runs without a workdir are kept, and so are rows of pairs for which it does not have all runs.
    """
    study, rows, old = plan.study, [], read(root / NAME, plan.study)
    finished = [run for run, found in outcomes.items() if run.part == "study" and found.status == "finished"]
    known = _runs(plan, root, sorted(finished, key=lambda run: (list(study.arms).index(run.arm), run.seed)))
    for metric in filter(summed, study.metrics):
        for pair in pairs(study):
            mine = {arm: {run.seed for run in finished if run.arm == arm} for arm in pair}
            seeds = [seed for seed in sorted(mine[pair[0]]) if all((metric.label, arm, seed) in known for arm in pair)]
            whole = all(set(seeds) == each for each in mine.values())
            kept = [row for row in old if (row.metric, row.arm, row.against) == (metric.label, *pair)]
            if kept and not whole:
                rows += kept
            elif seeds:
                rows.append(_compared(metric, pair, seeds[0], *([known[metric.label, arm, s] for s in seeds] for arm in pair)))
    _write(root / NAME, COLUMNS, [[getattr(row, name) for name in COLUMNS] for row in rows])


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.unlink(missing_ok=True)
    if rows:
        with new_file(path) as new, new.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)


def _runs(plan: Plan, root: Path, finished: Sequence[Run]) -> dict[tuple[str, str, int], Resampled]:
    """By metric, arm and seed, the scores of runs on the resamples; updates resamples.csv."""
    columns, result = ("metric", "arm", "seed", "sentences", "score", "unit", "resampled"), {}
    lines: dict[tuple[str, str, int], list[str]] = {}
    if (root / RUNS).is_file():
        with no_failure(str(root / RUNS), "read"), (root / RUNS).open(encoding="utf-8", newline="") as file:
            lines = {(line[0], line[1], int(line[2])): line for line in [*csv.reader(file)][1:]}
    outputs: dict[tuple[Run, str, str, str], Outputs | None] = {}  # computed once for all ranges of a split's score
    for metric in filter(summed, plan.study.metrics):
        field = scores.OF_TRUE_LENGTH if metric.where == scores.TRUE_LENGTH else scores.PREDICTION
        for run in finished:
            key, which = (metric.label, run.arm, run.seed), (run, metric.split, metric.score, field)
            if which not in outputs:
                outputs[which] = _outputs(run, root, *which[1:])
            if (each := outputs[which]) is not None:
                chosen = each.of(scores.bucket(metric.where))
                if len(chosen) < scores.FEWEST:
                    continue
                lines[key] = [*map(str, key), *_packed(resample(SUMS[metric.score].score, chosen))]
            if key not in lines:
                continue
            try:
                result[key] = _unpacked(lines[key])
            except (ValueError, IndexError) as error:
                raise UserError(f"{root / RUNS}: damaged; restore it, or remove it") from error
    _write(root / RUNS, columns, [lines[key] for key in result])
    return result


def _packed(run: Resampled) -> list[str]:
    """As text: number of sentences, score, unit, and the resamples' differences from the score as 16-bit integers in that
    unit."""
    apart_B = run.values_B - run.value
    unit = float(f"{np.abs(apart_B).max() / 32767 or 1.0:.6g}") * (1 + 1e-5)
    whole_B = np.rint(apart_B / unit).astype("<i2")
    return [str(run.sentences), repr(run.value), repr(unit), base64.b64encode(whole_B.tobytes()).decode()]


def _unpacked(line: Sequence[str]) -> Resampled:
    sentences, value, unit = int(line[3]), float(line[4]), float(line[5])
    whole_B = np.frombuffer(base64.b64decode(line[6], validate=True), "<i2")
    return Resampled(value, value + unit * whole_B.astype(np.float64), sentences)


def _outputs(run: Run, root: Path, split: str, score: str, field: str) -> Outputs | None:
    """The outputs of a run, or None if it has kept none."""
    path = Workdir(run.folder(root)).outputs_file(split)
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in file_lines(path.read_text(encoding="utf-8"))]
    if any(field not in line for line in lines):
        return None
    outputs, references = ([line[side] for line in lines] for side in (field, "reference"))
    statistics_SxK = of_sentences(score, outputs, references, run.config.evaluate.bleu_tokenize)
    return Outputs(statistics_SxK, [len(line["source"].split()) for line in lines])


def _compared(metric: Metric, pair: Pair, seed: int, ours: Sequence[Resampled], theirs: Sequence[Resampled]) -> Row:
    error, two = shared_error(ours, theirs), checkpoints(ours[0], theirs[0])
    value, low, high, p = (float(f"{x:.6g}") for x in (two.value, *two.interval, two.p))
    return Row(metric.label, *pair, None if error is None else float(f"{error:.6g}"), seed, value, low, high, p)


def read(path: Path, study: Study) -> list[Row]:
    """The rows that `write` wrote; empty if there is no such file. UserError: it is damaged, or belongs to another study."""
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
            raise UserError(f"{path}, line {number}: it is not from this study; is --config the study's file?")
        rows.append(row)
    return rows


def shared(rows: Sequence[Row], metric: Metric) -> dict[Pair, float]:
    """The shared standard error by pair, for `statistics.contrasts`."""
    return {(row.arm, row.against): row.error for row in rows if row.metric == metric.label and row.error is not None}
