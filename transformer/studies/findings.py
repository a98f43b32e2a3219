"""Rows of results.csv -> what a report says, as numbers: each metric's tables, each claim's verdict. No text is made here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformer.errors import UserError
from transformer.inference.scores import SCORES
from transformer.studies import resampled, simultaneous, statistics, verdicts
from transformer.studies.resampled import Row as Sentences
from transformer.studies.results import Row
from transformer.studies.statistics import Comparison, Difference, Estimate, Pair, Table
from transformer.studies.study import Claim, Metric, Study
from transformer.studies.verdicts import Verdict

PERCENT = {*SCORES, "token_accuracy"}  # metrics of 0 to 100
NEAR = 1.0  # so near to an end of it, in all arms, they cannot be told apart


@dataclass(frozen=True)
class Measured:
    """A metric over the arms. `welch`: where the arms' variances differ clearly, else None. `unreached`: by arm, runs that
    never reached a target. `without`: finished runs that have no value. `limit`: the end of its range that all arms are at.
    `shared`: what sentences add to standard errors, by pair; of a pair that is not there they add nothing."""

    metric: Metric
    table: Table
    estimates: Mapping[str, Estimate]
    comparison: Comparison
    welch: Mapping[str, Difference] | None
    unreached: Mapping[str, int]
    without: int
    limit: float | None
    shared: Mapping[Pair, float]


@dataclass(frozen=True)
class Judged:
    """A claim and the verdict. `pairs`: which arms each of the verdict's numbers is about, in their order; of an exponent
    none. `claimed`: the effect or margin that the claim states, None if none. `least`: what the study can show of that kind;
    None if it can show nothing. `problem`: why there are no numbers."""

    claim: Claim
    verdict: Verdict
    pairs: Sequence[tuple[str, str]] = ()
    claimed: float | None = None
    least: float | None = None
    problem: str = ""

    @property
    def exploratory(self) -> bool:
        """Too small for this study to settle: with one seed every difference is."""
        if self.claim.kind == "exponent":
            return False
        return self.least is None or (self.claimed is not None and simultaneous.exploratory(self.claimed, self.least))

    @property
    def law(self) -> tuple[float, float, float] | None:
        """Floor, scale and exponent of the curve that was fitted."""
        found = self.verdict.numbers.get("exponent", {})
        floor, scale, exponent = (found.get(name) for name in ("floor", "scale", "value"))
        return None if floor is None or scale is None or exponent is None else (floor, scale, exponent)


@dataclass(frozen=True)
class Findings:
    """`missing`: (arm, seed) without a row. `detectable`: the smallest difference from `compare_with` in the first metric
    that is found with 80 %; None if none can be."""

    study: Study
    rows: Sequence[Row]
    search: Sequence[Row]
    seeds: Sequence[int]
    missing: Sequence[tuple[str, int]]
    measured: Sequence[Measured]
    judged: Sequence[Judged]
    detectable: float | None
    sentences: Sequence[Sentences]

    def runs(self, arm: str, status: str | None = None) -> list[Row]:
        """The rows of an arm, in the order of seeds."""
        return [row for row in self.rows if row.arm == arm and status in (None, row.status)]


def find(study: Study, rows: Sequence[Row], sentences: Sequence[Sentences] = ()) -> Findings:
    """`rows`: of one run at least. `sentences`: as sentences.csv has them."""
    ours = sorted((row for row in rows if row.part == "study"), key=lambda row: row.seed)
    seeds = sorted({row.seed for row in ours} | set(range(study.seeds)))
    known = {(row.arm, row.seed): row for row in ours}
    missing = [(arm, seed) for arm in study.arms for seed in seeds if (arm, seed) not in known]
    measured = [_measure(metric, study, seeds, known, resampled.shared(sentences, metric)) for metric in study.metrics]
    counts = {arm: estimate.count for arm, estimate in measured[0].estimates.items() if estimate.count}
    size = counts.get(study.compare_with, 0), len(counts)
    residual = _of_one_run(measured[0], size[0])
    detectable = None if residual is None else simultaneous.detectable(residual, *size)
    provable = None if residual is None else simultaneous.provable_margin(residual, *size)
    judged = [_judge(claim, study, measured[0], detectable, provable) for claim in study.claims]
    search = [row for row in rows if row.part == "search"]
    return Findings(study, ours, search, seeds, missing, measured, judged, detectable, sentences)


def _of_one_run(measured: Measured, runs: int) -> float | None:
    """The standard deviation of one run, that of its sentences (of the middle pair) with it, as if each run had its own."""
    residual, errors = measured.comparison.residual, sorted(measured.shared.values())
    if residual is None or not errors:
        return residual
    return math.hypot(residual, errors[len(errors) // 2] * math.sqrt(runs / 2))


def _measure(
    metric: Metric,
    study: Study,
    seeds: Sequence[int],
    known: Mapping[tuple[str, int], Row],
    shared: Mapping[Pair, float],
) -> Measured:
    label, against = metric.label, study.compare_with

    def score(row: Row | None) -> float | None:
        return None if row is None else math.nan if row.status == "diverged" else row.values.get(label)

    table = {arm: [score(known.get((arm, seed))) for seed in seeds] for arm in study.arms}
    return Measured(
        metric,
        table,
        {arm: _on_scale(statistics.interval(scores), metric) for arm, scores in table.items()},
        statistics.compare(table, against, shared=shared),
        statistics.welch(table, against) if statistics.variances_differ(table) else None,
        {arm: sum(label in row.censored for row in known.values() if row.arm == arm) for arm in table},
        sum(row.status == "finished" and label not in row.values for row in known.values()),
        _limit(metric, list(known.values())),
        shared,
    )


def _percent(metric: Metric) -> bool:
    return metric.take != "updates" and metric.score in PERCENT


def _on_scale(estimate: Estimate, metric: Metric) -> Estimate:
    """Its interval without what the metric cannot be: less than 0, which no metric here can, or more than 100 percent."""
    if estimate.interval is None:
        return estimate
    low, high = estimate.interval
    return estimate._replace(interval=statistics.Interval(max(low, 0.0), min(high, 100.0) if _percent(metric) else high))


def _limit(metric: Metric, rows: Sequence[Row]) -> float | None:
    """An end of the metric's range that every arm's mean is at: a ceiling or a floor, under which nothing is compared."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if metric.label in row.values:
            values.setdefault(row.arm, []).append(row.values[metric.label])
    means = [sum(each) / len(each) for each in values.values()]
    if _percent(metric) and means:
        return next((end for end in (0.0, 100.0) if all(abs(mean - end) <= NEAR for mean in means)), None)
    if metric.take == "updates" and rows and all(metric.label in row.censored for row in rows if row.status == "finished"):
        return max(means, default=None)
    return None


def _judge(claim: Claim, study: Study, first: Measured, detectable: float | None, provable: float | None) -> Judged:
    higher, against, table, shared = first.metric.higher_is_better, study.compare_with, first.table, first.shared
    claimed = claim.effect or claim.margin or None
    if claim.kind == "exponent":
        assert claim.exponent is not None  # a valid study's has one
        try:
            sizes = dict(zip(claim.arms, claim.sizes, strict=True))
            return Judged(claim, verdicts.exponent(table, sizes, claim.exponent, claim.margin))
        except UserError as error:
            return Judged(claim, Verdict(verdicts.CANNOT_TELL, "", {}), problem=str(error))
    if claim.kind == "equal":
        verdict = verdicts.equal(table, claim.arms, against, claim.margin, shared)
        return Judged(claim, verdict, [(arm, against) for arm in claim.arms], claimed, provable)
    if claim.kind == "order":
        verdict = verdicts.order(table, claim.arms, claim.margin, higher, shared)
        return Judged(claim, verdict, statistics.neighbours(claim.arms), claimed, detectable)
    if claim.kind == "better":
        verdict = verdicts.better(table, claim.arms, against, claim.margin, higher, shared)
        return Judged(claim, verdict, [(arm, against) for arm in claim.arms], claimed, detectable)
    verdict = verdicts.worse(table, claim.arms, against, claim.margin, higher, shared)
    return Judged(claim, verdict, [(against, arm) for arm in claim.arms], claimed, detectable)
