"""Computes the numbers of a report from the rows of results.csv: the table of each metric, the verdict of each claim. No
text."""

import dataclasses
import math
import statistics as median_of
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformer.statistics import contrasts
from transformer.statistics.contrasts import Contrast, Estimate, Interval, Scale
from transformer.statistics.power_law import PowerLaw
from transformer.studies import flags, resampling, results, verdicts
from transformer.studies.flags import Flag
from transformer.studies.markup import Digits
from transformer.studies.plan import Followed
from transformer.studies.resampling import Row as Sentences
from transformer.studies.results import Row
from transformer.studies.study import BEST_RATE, LAWS, Claim, Metric, Study, arm_configs
from transformer.studies.verdicts import Data, Finding, Verdict


@dataclass(frozen=True)
class Difference:
    """An arm minus the comparison arm. `p`: of a difference of 0. `planned`: it is part of a claim, and interval and p are
    those of the claims' family (without p if all claims about it have a margin); else they are exploratory and allow for all
    pairs of arms (Games & Howell 1976). Values that the runs do not give are None."""

    value: float | None
    interval: Interval | None = None
    p: float | None = None
    planned: bool = False


@dataclass(frozen=True)
class Measured:
    """A metric over the arms. `groups`: the arms that are compared with each other, by task. `unreached`: by arm, runs that
    never reached a target. `without`: finished runs that have no value. `limit`: the end of its range that all arms are at.
    `noise`: the median standard error of the differences."""

    metric: Metric
    data: Data
    groups: Mapping[str, Sequence[str]]
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    unreached: Mapping[str, int]
    without: int
    limit: float | None
    noise: float | None

    @property
    def digits(self) -> Digits:
        """The number format of the metric."""
        return Digits(self.noise, [estimate.value for estimate in self.estimates.values() if estimate.value is not None])

    @property
    def better(self) -> str:
        """Whether "higher" or "lower" values are better; "" for learning rates, where neither are."""
        return "" if self.metric.label == BEST_RATE else "higher" if self.metric.higher_is_better else "lower"

    @property
    def direction(self) -> str:
        """ " (lower is better)", for headings."""
        return f" ({self.better} is better)" if self.better else ""


@dataclass(frozen=True)
class Judged:
    """A claim, its verdict, and the data of its metric. `claimed`: the effect, above its margin, or the margin that the claim
    states, or None.
    `least`: the smallest effect or margin that the study can show, or None if it can show nothing. `flags`: the reasons why the
    study does not decide the claim. `of_seeds`: test sentences were resampled, but the intervals of this claim are about other
    seeds alone."""

    claim: Claim
    verdict: Verdict
    data: Data
    claimed: float | None = None
    least: float | None = None
    flags: Sequence[str] = ()
    of_seeds: bool = False

    @property
    def word(self) -> str:
        """The verdict of the study, which is undecided if there is a flag."""
        return verdicts.UNDECIDED if self.flags else self.verdict.word

    @property
    def noise(self) -> float | None:
        """The smallest standard error of its comparisons."""
        return min((finding.error for finding in self.verdict.findings if finding.error), default=None)

    @property
    def bound(self) -> float:
        """The bound that the contrast must be shown to exceed."""
        return -self.claim.margin if self.claim.kind == "not worse" else self.claim.margin

    @property
    def exploratory(self) -> bool:
        """Whether the claim is too small for this study to show, as every difference is with one seed."""
        if self.claim.kind in LAWS:
            return False
        if self.least is None:  # divergence can be shown without a score
            return not any(sum(finding.diverged) for finding in self.verdict.findings)
        return self.claimed is not None and self.claimed < self.least

    @property
    def law(self) -> tuple[float, float, float] | None:
        """Floor, scale and exponent of a curve fitted in one variable."""
        law = self.verdict.findings[0].law
        return (law.floor, law.scale, law.exponent) if isinstance(law, PowerLaw) else None


@dataclass(frozen=True)
class Findings:
    """`missing`: (arm, seed) without a row. `flags`: those of arms. `plan`: whether a plan was recorded and followed."""

    study: Study
    rows: Sequence[Row]
    search: Sequence[Row]
    seeds: Sequence[int]
    missing: Sequence[tuple[str, int]]
    measured: Sequence[Measured]
    judged: Sequence[Judged]
    sentences: Sequence[Sentences]
    flags: Mapping[str, Sequence[Flag]]
    plan: Followed

    def runs(self, arm: str, status: str | None = None) -> list[Row]:
        """The rows of an arm in the order of seeds; for all tasks if `arm` names no task."""
        cells = self.study.cells(arm)
        return [row for row in self.rows if row.arm in cells and status in (None, row.status)]


KEPT = Followed(True, "")


def find(study: Study, rows: Sequence[Row], sentences: Sequence[Sentences] = (), plan: Followed = KEPT) -> Findings:
    """The findings of a study. `rows`: of at least one run. `sentences`: the rows of sentences.csv."""
    ours = sorted((row for row in rows if row.part == "study"), key=lambda row: row.seed)
    seeds = sorted({row.seed for row in ours} | set(range(study.first_seed, study.first_seed + study.seeds)))
    known = {(row.arm, row.seed): row for row in ours}
    missing = [(arm, seed) for arm in study.arms for seed in seeds if (arm, seed) not in known]
    data = {metric.label: _data(metric, study, seeds, known, sentences) for metric in study.metrics}
    search = [row for row in rows if row.part != "study"]
    data |= {study.label(claim): _derived(claim, study, data, search) for claim in _computed(study)}
    of_claims = [data[study.label(claim)] for claim in study.claims]
    found = verdicts.judge(study.claims, study.against, of_claims)
    both = [(each.name, finding) for verdict, each in zip(found, of_claims, strict=True) for finding in verdict.findings]
    both = sorted(both, key=lambda pair: pair[1].comparison.about_zero)  # the last one of a comparison is kept
    planned = {(name, finding.comparison.key): finding for name, finding in both if not finding.comparison.law}
    measured = [_measure(metric, study, data[metric.label], known, planned) for metric in study.metrics]
    measured += [
        _measure(Metric(study.label(claim), "higher"), study, data[study.label(claim)], {}, planned)
        for claim in {study.label(claim): claim for claim in _computed(study) if claim.ranks or claim.rates}.values()
    ]
    estimates = {each.metric.label: each.estimates for each in measured}
    of_arms = flags.arm_flags(study, ours, search, estimates)
    judged = []
    for claim, verdict, each in zip(study.claims, found, of_claims, strict=True):
        compared = [finding.comparison for finding in verdict.findings]
        doubts = flags.claim_flags(study, claim, compared, each, ours, estimates, of_arms, verdict.findings[0].law)
        doubts += flags.rates_at_the_end(study, compared, search) if claim.rates else []
        resampled = not claim.rates and any(row.metric == study.metric(claim.metric).label for row in sentences)
        of_seeds = resampled and any(each.of_sentences(comparison.weights) is None for comparison in compared)
        judged.append(dataclasses.replace(_judged(claim, verdict, each), flags=doubts, of_seeds=of_seeds))
    return Findings(study, ours, search, seeds, missing, measured, judged, sentences, of_arms, plan)


def seeds_needed(study: Study, root: Path) -> int:
    """How many seeds the claims need, at most `max_seeds`, so that each stated effect or margin could be shown with a
    probability of 80 %.

    Only the variances within arms of the first `seeds` are used, and no difference between arms, so that the error rate of the
    later tests does not change (Proschan 2005). The number is decided once: added seeds are not used for it.
    """
    if study.max_seeds <= study.seeds:
        return study.seeds
    rows = [
        row
        for row in results.read(root / results.NAME, study)
        if row.part != "study" or row.seed < study.first_seed + study.seeds
    ]
    needed = study.seeds
    for judged in find(study, rows).judged:
        solve = contrasts.provable_margin if judged.claim.kind == "equal" else contrasts.detectable
        for finding in judged.verdict.findings if not judged.claim.rates else ():  # which are about the seeds of the search
            if judged.claimed is None or judged.claimed <= 0 or finding.error is None or finding.freedom is None:
                continue
            for seeds in range(study.seeds, study.max_seeds + 1):
                error = finding.error * math.sqrt(study.seeds / seeds)
                freedom = finding.freedom * (seeds - 1) / (study.seeds - 1)
                if seeds == study.max_seeds or solve(error, freedom, judged.verdict.tests) <= judged.claimed:
                    needed = max(needed, seeds)
                    break
    return needed


def scale_of(metric: Metric) -> Scale:
    """The scale on which means of a metric are computed: the metric's own, else logit for percentages, log for other positive
    values, and linear for counts of updates, which may be censored at the limit."""
    return metric.scale or ("linear" if metric.take == "updates" else "logit" if flags.percent(metric) else "log")


def _data(
    metric: Metric, study: Study, seeds: Sequence[int], known: Mapping[tuple[str, int], Row], sentences: Sequence[Sentences]
) -> Data:
    def score(row: Row | None) -> float | None:
        return None if row is None else math.nan if row.status == "diverged" else row.values.get(metric.label)

    table = {arm: [score(known.get((arm, seed))) for seed in seeds] for arm in study.arms}
    shared = resampling.shared(sentences, metric)
    names = {name for claim in study.claims for name in (*claim.arms, *claim.beyond, claim.against)} | {study.compare_with}
    cells = {name: study.cells(name) for name in names if name and name not in study.arms}
    return Data(
        table, metric.higher_is_better, scale_of(metric), study.blocked, shared, cells, metric.label, _rounding(metric, study)
    )


def _rounding(metric: Metric, study: Study) -> float:
    """The number of updates between two validations, to which a count of updates is rounded; else 0."""
    if metric.take != "updates":
        return 0.0
    return max(min(config.train.evaluate_every, config.train.steps) for config in arm_configs(study).values())


def _computed(study: Study) -> list[Claim]:
    """Claims about values derived from metrics; ranks over tasks are derived from the first metric in any case."""
    ranks = [Claim("", "", "better", (study.compare_with,), ranks=True)] if study.tasks else []
    return [claim for claim in study.claims if claim.computed] + ranks


def _derived(claim: Claim, study: Study, data: Mapping[str, Data], search: Sequence[Row]) -> Data:
    """Values derived for each run or each seed before arms are compared: a difference of two metrics, ranks, or the best
    learning rate. Ranks of one seed depend on each other, so they are compared within seeds."""
    if claim.rates:
        return Data({arm: _best_rates(study, search, arm) for arm in study.arms}, True, name=study.label(claim))
    first = data[claim.metric or study.metrics[0].label]
    if claim.ranks:
        tasks = [{arm.removesuffix(f", {task}"): arm for arm in arms} for task, arms in study.groups().items()]
        ranks = contrasts.reciprocal_ranks(first.table, tasks, first.higher_is_better)
        return Data(ranks, True, blocked=True, name=study.label(claim), ranked=len(tasks))

    def minus(ours: float | None, theirs: float | None) -> float | None:
        return None if ours is None or theirs is None else ours - theirs

    second = data[claim.minus]
    table = {arm: [minus(*both) for both in zip(scores, second.table[arm], strict=True)] for arm, scores in first.table.items()}
    rounding = math.hypot(first.rounding, second.rounding)
    return dataclasses.replace(first, table=table, scale="linear", shared={}, name=study.label(claim), rounding=rounding)


def _best_rates(study: Study, search: Sequence[Row], arm: str) -> list[float | None]:
    """The base-2 logarithm of the arm's best learning rate for each seed of the search; None if all of the seed's runs
    diverged, or one failed or is missing."""
    result: list[float | None] = []
    for by_rate in results.scores_by_seed(study, results.tried_in(study, search), arm):
        scores = {math.log2(rate): score for rate, score in by_rate.items()}
        unknown = any(map(math.isnan, scores.values())) or not any(map(math.isfinite, scores.values()))
        result.append(None if unknown else lowest_point(scores))
    return result


def lowest_point(scores: Mapping[float, float]) -> float:
    """The minimum of the parabola through the lowest score and its two neighbours; the position of the lowest score itself if
    it has no neighbour on one side, or one that is not finite."""
    positions = sorted(scores)
    at = min(range(len(positions)), key=lambda number: scores[positions[number]])
    near = positions[max(at - 1, 0) : at + 2]
    values = [scores[position] for position in near]
    if at == 0 or len(near) < 3 or not all(map(math.isfinite, values)):
        return positions[at]
    left, right = near[0] - near[1], near[2] - near[1]
    before, after = values[0] - values[1], values[2] - values[1]
    down = before * right - after * left
    return near[1] + (0.5 * (before * right**2 - after * left**2) / down if down > 0 else 0.0)


def _measure(
    metric: Metric,
    study: Study,
    data: Data,
    known: Mapping[tuple[str, int], Row],
    planned: Mapping[tuple, Finding],
) -> Measured:
    label, groups = metric.label, study.groups() if known else {"": list(data.table)}
    estimates = {arm: contrasts.interval(scores, data.scale, rounding=data.rounding) for arm, scores in data.table.items()}
    arms = {arm: sum(estimates[other].count > 1 for other in group) for group in groups.values() for arm in group}
    pairs = [(arm, study.against(arm)) for arm in data.table if arm != study.against(arm)]
    errors = [float(found.error) for arm, against in pairs if (found := data.contrast({arm: 1.0, against: -1.0}))]
    return Measured(
        metric,
        data,
        groups,
        estimates,
        {arm: _difference(data, arm, against, arms[arm], planned) for arm, against in pairs},
        {arm: sum(label in row.censored for row in known.values() if row.arm == arm) for arm in data.table},
        sum(row.status == "finished" and label not in row.values for row in known.values()),
        _limit(metric, list(known.values())),
        median_of.median(errors) if errors else None,
    )


def _difference(data: Data, arm: str, against: str, arms: int, planned: Mapping[tuple, Finding]) -> Difference:
    weights = {arm: 1.0, against: -1.0}
    comparison = verdicts.Comparison(weights)
    contrast = data.contrast(weights)
    value = contrasts.difference(data.table, weights, data.scale) if contrast is None else float(contrast.value)
    if finding := planned.get((data.name, comparison.key)):
        same = finding.comparison.sign == comparison.sign
        interval = finding.interval
        if interval is not None and not same:
            interval = Interval(-interval.high, -interval.low)
        return Difference(value, interval, finding.p if finding.comparison.about_zero else None, True)
    if not isinstance(contrast, Contrast):
        return Difference(value)
    return Difference(value, *contrasts.games_howell(contrast, arms))


def _limit(metric: Metric, rows: Sequence[Row]) -> float | None:
    """The ceiling or floor of the metric's range that every arm's mean is at, so that arms cannot be compared, or None."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if metric.label in row.values:
            values.setdefault(row.arm, []).append(row.values[metric.label])
    means = [sum(each) / len(each) for each in values.values()]
    if means and len(ends := {flags.end(metric, mean) for mean in means}) == 1 and (end := ends.pop()) is not None:
        return end
    if metric.take == "updates" and rows and all(metric.label in row.censored for row in rows if row.status == "finished"):
        return max(means, default=None)
    return None


def _judged(claim: Claim, verdict: Verdict, data: Data) -> Judged:
    solve = contrasts.provable_margin if claim.kind == "equal" else contrasts.detectable
    known = [(each.error, each.freedom) for each in verdict.findings if each.error is not None and each.freedom is not None]
    whole = len(known) == len(verdict.findings)
    least = max((solve(error, freedom, verdict.tests) for error, freedom in known), default=None) if whole else None
    claimed = (claim.margin or None) if claim.effect is None else claim.effect - claim.margin
    return Judged(claim, verdict, data, claimed, least)
