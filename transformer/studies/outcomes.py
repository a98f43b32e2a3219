"""What came of a run, read from its workdir, and the learning rates that are chosen by it."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformer.config import Config
from transformer.runtime.workdir import Workdir, read_json
from transformer.studies.plan import Run
from transformer.studies.study import Metric, Study
from transformer.training.telemetry import read_metrics

LOSSES = ("train/loss", "validation/loss")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run. `metrics`: by their labels; what a run does not tell is absent, a target never reached is inf."""

    status: Literal["finished", "diverged", "failed"]
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""


def read(folder: Path, config: Config, metrics: Sequence[Metric], max_rise: float = 0.0) -> Outcome | None:
    """What came of the run in a workdir; None: it is not at its end, which is scores if it has a split to score."""
    workdir = Workdir(folder)
    rows = read_metrics(workdir.metrics_file)
    if config.data.test is config.data.validation is None:
        ended = bool(rows) and rows[-1]["step"] >= config.train.steps
    else:
        ended = any(workdir.evaluation_file(split).exists() for split in ("test", "validation"))
    if not ended:
        return None
    if diverged(rows):
        return Outcome("diverged")
    if max_rise and (rise := _rise(rows)) > max_rise:
        return Outcome("diverged", error=f"it ended {rise:.3g} above its best validation loss")
    found = {metric.label: _value(metric, rows, workdir) for metric in metrics}
    return Outcome("finished", {label: value for label, value in found.items() if value is not None})


def diverged(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a loss was not finite in the end, which is null in a metrics.jsonl, or the last update was skipped for that."""
    last = [values[-1] for name in LOSSES if (values := [row[name] for row in rows if name in row])]
    return None in last or bool(rows and rows[-1].get("train/skipped"))


def _value(metric: Metric, rows: Sequence[Mapping[str, Any]], workdir: Workdir) -> float | None:
    """Of the rows of training, if they have it, else of the scores at the end."""
    values = [row[metric.name] for row in rows if metric.name in row]
    if not values:
        file = workdir.evaluation_file(metric.split)
        return read_json(file)["scores"].get(metric.name.partition("/")[2]) if file.exists() else None
    if metric.take == "updates":
        return next((row["step"] for row in rows if metric.reached(row.get(metric.name))), math.inf)
    if metric.take != "best":
        return values[-1]
    best = min if metric.better == "lower" else max
    return best((value for value in values if value is not None), default=None)


def chooser(study: Study) -> Metric:
    """What learning rates are chosen by: the study's first metric on validation; one of some lengths or places alone, which
    validation may not have, does not count."""
    first = next((metric for metric in study.metrics if not metric.where), Metric("validation/nll", "lower"))
    take = "best" if study.checkpoint == "best" and first.split != "validation" else first.take
    return dataclasses.replace(first, name=f"validation/{first.name.partition('/')[2]}", take=take, learned=None)


EXTENSIONS = 2  # times that a grid of learning rates is made wider


def searched(study: Study, outcomes: Mapping[Run, Outcome], part: str) -> dict[str, dict[float, float]]:
    """By arm, the mean score of each learning rate, lower being better; inf if a run diverged. One whose runs failed is
    absent."""
    metric = chooser(study)
    tried: dict[str, list[tuple[float, float]]] = {}
    for run, found in outcomes.items():
        rate = run.config.train.learning_rate
        if run.part == part and found.status != "failed" and rate is not None:
            tried.setdefault(run.arm, []).append((rate, found.metrics.get(metric.label, math.nan)))
    return {arm: mean_scores(metric, each) for arm, each in tried.items()}


def mean_scores(metric: Metric, tried: Iterable[tuple[float, float]]) -> dict[float, float]:
    """The mean score of each learning rate, from (rate, value) of runs: lower is better; inf if a value is not finite."""
    scores: dict[float, list[float]] = {}
    for rate, value in tried:
        score = -value if metric.higher_is_better else value
        scores.setdefault(rate, []).append(score if math.isfinite(score) else math.inf)
    return {rate: statistics.fmean(scores[rate]) for rate in sorted(scores)}


def choose(study: Study, outcomes: Mapping[Run, Outcome]) -> dict[str, float]:
    """The best learning rate of each arm; where all diverged, the smallest. An arm whose search failed throughout has none.

    Of the arm that was tried with all updates too, those count.
    """
    known = searched(study, outcomes, "search") | searched(study, outcomes, "check")
    return {arm: min(rates, key=rates.__getitem__) for arm, rates in known.items()}


def wider(study: Study, outcomes: Mapping[Run, Outcome]) -> dict[str, list[float]]:
    """By arm whose best rate is at an end of its grid, the rate beyond that, if the grid may still grow."""
    result = {}
    for arm, best in choose(study, outcomes).items():
        rates = sorted(searched(study, outcomes, "search")[arm])
        beyond = best / 2 if best == rates[0] else best * 2 if best == rates[-1] else None
        if beyond is not None and len(rates) < len(study.learning_rates) + EXTENSIONS and len(study.learning_rates) > 1:
            result[arm] = [beyond]
    return result


def _rise(rows: Sequence[Mapping[str, Any]]) -> float:
    """How far the last validation loss is above the best one."""
    values = [row["validation/loss"] for row in rows if row.get("validation/loss") is not None]
    return values[-1] - min(values) if values else 0.0
