"""Reasons to give no verdict: arms at an end of the scale, not trained long enough, or not at their best learning rate.

A flag belongs to an arm or to a claim. The study does not decide a claim with a flag or about an arm with a flag, whatever the
intervals are.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from transformer.errors import counted
from transformer.inference.scores import SCORES
from transformer.statistics import scaling_laws
from transformer.statistics.contrasts import Contrast, Estimate, finite
from transformer.statistics.power_law import PowerLaw
from transformer.studies import results
from transformer.studies.markup import code, listed, p_value
from transformer.studies.results import Row
from transformer.studies.study import LAWS, Claim, Metric, Study
from transformer.studies.verdicts import Comparison, Data

PERCENT = {*SCORES, "token_accuracy", "place_accuracy"}  # metrics of 0 to 100
NEAR = 1.0  # percent: this close to an end of the scale, arms cannot be distinguished
FLOOR = 0.02  # nats: nothing is left to learn
LAST = 0.75  # curves are checked from this fraction of the updates on
STEEP = 0.1  # a loss that falls by more than this fraction of itself in that part has not converged
POINTS = 5  # minimum of a curve; with fewer, nobody can see whether a run is still learning
RULES = (
    f"Arms are flagged if their loss falls by more than {100 * STEEP:g} % in the last quarter of the updates, if they have not "
    "learned what they were trained on, or if their best learning rate is at the end of its grid or is unknown, because a run "
    "of the search failed or is missing. Claims are flagged if a run that they compare has fewer than "
    f"{POINTS} validations, so that the end of its curve shows nothing, if all arms that they compare are within {NEAR:g} of 0 "
    f"or 100 % or below {FLOOR:g} nats or never reach a target, if the curves of two arms cross in the last quarter of the "
    "updates (each way outside a 95 % interval), if the margin or the published effect is larger than the loss itself, if a "
    "power law does not fit (F test of lack of fit, 5 %), or if they are about best learning rates and that of a seed is at "
    "the end of its grid. A claim that is flagged, or is about a flagged arm, is not decided by this study."
)

Estimates = Mapping[str, Mapping[str, Estimate]]  # by metric and arm


class Flag(NamedTuple):
    """A reason why the study decides nothing about an arm. `of_curve`: it is about the end of the arm's curve, which does not
    matter for the number of updates until a target."""

    text: str
    of_curve: bool = False


def percent(metric: Metric) -> bool:
    return metric.take != "updates" and metric.score in PERCENT


def is_loss(metric: Metric) -> bool:
    return metric.take != "updates" and metric.split != "init" and metric.score in ("nll", "loss")


def end(metric: Metric, mean: float | None) -> float | None:
    """The end of the scale that a mean is at, or None."""
    if mean is None:
        return None
    if percent(metric):
        return next((end for end in (0.0, 100.0) if abs(mean - end) <= NEAR), None)
    return 0.0 if is_loss(metric) and mean < FLOOR else None


def _end_of(metric: Metric, mean: float | None, rows: Sequence[Row], arm: str) -> float | None:
    """As `end`. If no run of the arm reached a target, its number of updates is at an end too."""
    if metric.take != "updates":
        return end(metric, mean)
    ran = [row for row in rows if row.arm == arm and row.status == "finished"]
    return mean if ran and all(metric.label in row.censored for row in ran) else None


# --- of arms -----------------------------------------------------------------------------------------------------------


def arm_flags(study: Study, rows: Sequence[Row], search: Sequence[Row], estimates: Estimates) -> dict[str, list[Flag]]:
    """By arm, the reasons why the study decides nothing about it."""
    result: dict[str, list[Flag]] = {arm: [] for arm in study.arms}
    for metric in study.metrics:
        for arm, estimate in estimates[metric.label].items():
            if metric.learned is not None and not metric.has_learned(estimate.value):
                what = "has no value" if estimate.value is None else f"is {estimate.value:.4g}"
                bound = "at least" if metric.higher_is_better else "at most"
                text = f"has not learned its task: {metric.label} {what} (required: {bound} {metric.learned:g})"
                result[arm].append(Flag(text))
    for arm, fall in _falls(study, rows).items():
        if fall > STEEP:
            text = f"is still learning: its loss falls by {100 * fall:.0f} % in the last quarter of the updates"
            result[arm].append(Flag(text, of_curve=True))
    doubtful = "may not be at its best learning rate"
    for arm in at_the_end(study, rows, search):
        result[arm].append(Flag(f"{doubtful}: the chosen rate is at the end of its grid"))
    for arm in incomplete(study, rows, search):
        result[arm].append(Flag(f"{doubtful}: a run of its search failed or is missing"))
    if study.search_fraction < 1 and len(set(checked(study, search))) > 1:
        text = f"{doubtful}: all updates choose another than {study.search_fraction:g} of them"
        for doubts in result.values():
            doubts.append(Flag(text))
    return {arm: doubts for arm, doubts in result.items() if doubts}


def at_the_end(study: Study, rows: Sequence[Row], search: Sequence[Row]) -> list[str]:
    """Arms whose learning rate is the smallest or the largest of those that have a score."""
    result, runs = [], results.tried_in(study, search)
    for arm, chosen in {row.arm: row.learning_rate for row in rows}.items():
        scores = results.mean_scores(study, [run for run in runs if (run.arm, run.part) == (arm, "search")], study.search_seeds)
        known = [rate for rate, score in scores.items() if not math.isnan(score)]
        if len(scores) > 1 and known and chosen in (known[0], known[-1]):
            result.append(arm)
    return result


def incomplete(study: Study, rows: Sequence[Row], search: Sequence[Row]) -> list[str]:
    """Arms that have runs although a run of their search failed or is missing."""
    chosen = results.choose(study, results.tried_in(study, search)) if search else study.arms
    ran = {row.arm for row in rows}
    return [arm for arm in study.arms if arm in ran and arm not in chosen]


def checked(study: Study, search: Sequence[Row]) -> list[float | None]:
    """The learning rates that the search with fewer updates and the one with all updates choose for the same arm."""
    runs = results.tried_in(study, search)
    return [results.best_rate(study, runs, study.search_check, part) for part in ("search", "check")]


def _loss_curve(study: Study) -> bool:
    """Whether the learning curves are of a loss, or of its exponential."""
    return Metric(results.curve_of(study), "lower").score in ("nll", "loss", "perplexity")


def unchecked(study: Study) -> str:
    """A sentence if the study's curves cannot show whether arms are still learning; else ""."""
    if _loss_curve(study):
        return ""
    return (
        f"Whether arms are still learning was not checked: the learning curves are of {code(results.curve_of(study))}, the "
        "first metric on validation, which is neither a loss nor a perplexity."
    )


def _too_short(rows: Sequence[Row], arm: str) -> bool:
    """Whether a finished run of the arm has a curve with fewer points than the rules about curves need."""
    return any(0 < len(row.curve) < POINTS for row in rows if row.arm == arm and row.status == "finished")


def _curves(study: Study, rows: Sequence[Row], arm: str) -> dict[int, np.ndarray]:
    """By update, the values of the finished runs of an arm, for updates that all of them have."""
    curves = [dict(row.curve) for row in rows if row.arm == arm and row.status == "finished" and len(row.curve) >= POINTS]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = {step: np.array([curve[step] for curve in curves]) for step in steps}
    return {step: value_R for step, value_R in values.items() if np.isfinite(value_R).all()}


def _falls(study: Study, rows: Sequence[Row]) -> dict[str, float]:
    """By arm, the fraction by which the mean loss falls in the last quarter of the updates, unless it is at its floor. The loss
    of a perplexity is its logarithm."""
    result = {}
    loss = np.log if results.curve_of(study) == "validation/perplexity" else np.asarray
    for arm in study.arms if _loss_curve(study) else ():
        means = {step: float(loss(value_R).mean()) for step, value_R in _curves(study, rows, arm).items()}
        if means and (last := means[max(means)]) >= FLOOR:
            result[arm] = 1 - last / float(np.interp(LAST * max(means), list(means), list(means.values())))
    return result


# --- of claims ---------------------------------------------------------------------------------------------------------


def claim_flags(
    study: Study,
    claim: Claim,
    comparisons: Sequence[Comparison],
    data: Data,
    rows: Sequence[Row],
    estimates: Estimates,
    arms: Mapping[str, Sequence[Flag]],
    law: PowerLaw | scaling_laws.Exponent | None = None,
) -> list[str]:
    """The reasons why the study does not decide a claim. `arms`: the flags of arms; `law`: the fit of an exponent."""
    metric, result = study.metric(claim.metric), _too_large(study, claim, estimates) + _misfit(claim, law, data)
    for each in comparisons:
        cells = list(dict.fromkeys(cell for name in each.weights for cell in study.cells(name)))
        names, interaction = listed([code(cell) for cell in cells]), len(each.weights) > 2
        for label in filter(None, (metric.label, claim.minus)):
            ends = [_end_of(study.metric(label), estimates[label][cell].value, rows, cell) for cell in cells]
            if interaction and any(at is not None for at in ends):
                result.append(f"an arm among {names} is at an end of {code(label)}, so differences cannot be compared")
            elif not interaction and len(set(ends)) == 1 and ends[0] is not None:
                result.append(f"{names} are at the {'ceiling' if ends[0] else 'floor'} of {code(label)}")
        if metric.split == "init":
            continue  # nothing has been trained
        of_curves = metric.take != "updates"  # whose end is irrelevant once a target is reached
        directed = claim.kind in ("better", "worse", "order") and len(cells) == 2 and not claim.rates
        if of_curves and (directed or _loss_curve(study)) and (few := [arm for arm in cells if _too_short(rows, arm)]):
            text = f"the runs of {listed([code(arm) for arm in few])} have too few validations"
            result.append(f"{text} to see whether they are still learning")
        if of_curves and directed and _cross(*(_curves(study, rows, arm) for arm in cells)):
            result.append(f"the curves of {names} still cross in the last quarter of the updates")
        ours = [(arm, flag) for arm in cells for flag in arms.get(arm, ())]
        result += [f"{code(arm)} {flag.text}" for arm, flag in ours if of_curves or not flag.of_curve]
    return list(dict.fromkeys(result))


def rates_at_the_end(study: Study, comparisons: Sequence[Comparison], search: Sequence[Row]) -> list[str]:
    """Of a claim about the best learning rates, the arms for which a seed of the search has its best rate at an end."""
    result, runs = [], results.tried_in(study, search)
    for arm in dict.fromkeys(cell for each in comparisons for name in each.weights for cell in study.cells(name)):
        known = [each for each in results.scores_by_seed(study, runs, arm) if not any(map(math.isnan, each.values()))]
        ends = sum(min(scores, key=scores.__getitem__) in (min(scores), max(scores)) for scores in known)
        if ends:
            result.append(f"the best learning rate of {code(arm)} is at an end of its grid for {counted(ends, 'seed')}")
    return result


def _too_large(study: Study, claim: Claim, estimates: Estimates) -> list[str]:
    """A margin or an effect that is larger than the loss of the comparison arm."""
    metric = study.metric(claim.metric)
    if not is_loss(metric) or claim.computed or claim.kind in LAWS:
        return []
    others = {claim.against or study.against(arm) for arm in claim.arms} if claim.kind != "order" else set(claim.arms)
    means = [estimates[metric.label][cell].value for name in others for cell in study.cells(name)]
    least = min((mean for mean in means if mean is not None), default=math.inf)
    sizes = {"margin": claim.margin, "published effect": claim.effect or 0.0}
    return [f"the {name}, {size:g}, is larger than the loss, {least:.3g}" for name, size in sizes.items() if size > least]


def _misfit(claim: Claim, law: PowerLaw | scaling_laws.Exponent | None, data: Data) -> list[str]:
    """The exponent of a curve that does not fit the losses is meaningless."""
    if law is None:
        return []
    if isinstance(law, scaling_laws.Exponent):
        beyond = law.beyond if isinstance(law, scaling_laws.Optimal) else []
        at = [f"the minimum of the budget {budget:.3g} is outside the range of the sizes that were tried" for budget in beyond]
        return at + _lack_of_fit(law.misfit)
    runs = [(size, score) for arm, size in zip(claim.arms, claim.sizes, strict=True) for score in finite(data.table[arm])]
    size_R, score_R = np.array(runs).T
    curve_R = np.log(law.floor + law.scale / size_R**law.exponent)
    return _lack_of_fit(scaling_laws.lack_of_fit(np.log(score_R), curve_R, scaling_laws.cells(size_R), 3))


def _lack_of_fit(p: float | None) -> list[str]:
    return [] if p is None or p >= 0.05 else [f"the curve does not fit the losses (lack of fit: p {p_value(p)})"]


def _cross(ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]) -> bool:
    """Whether the arm that is better at the end was worse in the last quarter, each time outside a 95 % interval."""
    steps = sorted(set(ours) & set(theirs))
    if not steps or min(len(ours[steps[-1]]), len(theirs[steps[-1]])) < 2:
        return False
    ahead = []
    for step in [step for step in steps if step >= LAST * steps[-1]]:
        low, high = Contrast.of([ours[step], theirs[step]], [1, -1]).interval()
        ahead.append(1 if low > 0 else -1 if high < 0 else 0)
    return ahead[-1] != 0 and -ahead[-1] in ahead
