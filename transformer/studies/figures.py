"""What the figure of a study shows: findings -> the panels that `plots` draws."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from transformer import plots
from transformer.inference import scores
from transformer.studies import results
from transformer.studies.findings import Findings, Judged, Measured
from transformer.studies.scaling_laws import Optimal
from transformer.studies.verdicts import Data

RANGES = 3  # of one score by length or place: from so many on they are a line, not a panel each


def panels(findings: Findings) -> list[plots.Panel]:
    """One for each metric, or score by length or place, for each claim of an exponent, and for the learning curves, if any."""
    study, result = findings.study, []
    ranges: dict[str, list[Measured]] = {}
    for measured in findings.measured:
        if _range(measured):
            ranges.setdefault(_whole(measured), []).append(measured)
    for measured in findings.measured:
        together = ranges.get(_whole(measured), []) if _range(measured) else []
        for arms in measured.groups.values():
            if len(together) < RANGES:
                result.append(_dots(findings, measured, arms))
            elif measured is together[0]:
                result.append(_ranges(findings, together, arms))
    result += [_law(judged) for judged in findings.judged if judged.claim.kind == "exponent"]
    result += [panel for judged in findings.judged for panel in _isoflop(judged)]
    for arms in study.groups().values():
        curves = {arm: [(row.curve, row.status == "finished") for row in findings.runs(arm) if row.curve] for arm in arms}
        if any(len(curve) > 1 for of_arm in curves.values() for curve, _ in of_arm):
            result.append(plots.Lines(results.curve_of(study), curves, study.against(arms[0])))
    return result


def _whole(measured: Measured) -> str:
    """ "test/bleu" of "test/bleu@10-19"."""
    return f"{measured.metric.split}/{measured.metric.score}"


def _range(measured: Measured) -> range | None:
    """10 to 19 of "test/bleu@10-19"."""
    return scores.bucket(measured.metric.where) if measured.metric.take != "updates" else None


def _values(data: Data, arm: str) -> list[float]:
    return [score for score in data.table[arm] if score is not None and math.isfinite(score)]


def _label(name: str, measured: Measured) -> str:
    return f"{name} ({'higher' if measured.metric.higher_is_better else 'lower'} is better)"


def _dots(findings: Findings, measured: Measured, arms: Sequence[str]) -> plots.Dots:
    return plots.Dots(
        _label(measured.metric.label, measured),
        {arm: _values(measured.data, arm) for arm in arms},
        {arm: measured.estimates[arm].value for arm in arms},
        {arm: measured.estimates[arm].interval for arm in arms},
        _lost(findings),
        findings.study.against(arms[0]),
    )


def _ranges(findings: Findings, together: Sequence[Measured], arms: Sequence[str]) -> plots.Ranges:
    rising = sorted(together, key=lambda measured: (_range(measured) or range(0)).start)
    what = "place" if rising[0].metric.score == "place_accuracy" else "words of the source"
    return plots.Ranges(
        f"{_label(_whole(rising[0]), rising[0])}, by {what}",
        [measured.metric.where for measured in rising],
        {arm: [_values(measured.data, arm) for measured in rising] for arm in arms},
        {arm: [measured.estimates[arm].value for measured in rising] for arm in arms},
        {arm: [measured.estimates[arm].interval for measured in rising] for arm in arms},
        findings.study.against(arms[0]),
    )


def _law(judged: Judged) -> plots.Law:
    sizes = zip(judged.claim.arms, judged.claim.sizes, strict=True)
    runs = [(size, score) for arm, size in sizes for score in _values(judged.data, arm)]
    curve = judged.law
    text = "{:.3g} + {:.3g} / N^{:.3g}".format(*curve) if curve else "no law fitted"
    return plots.Law(judged.data.name, [size for size, _ in runs], [score for _, score in runs], curve, text)


def _isoflop(judged: Judged) -> Sequence[plots.Panel]:
    """The profiles of a claim about the optimal size, and that size against the budget."""
    claim, law = judged.claim, judged.verdict.findings[0].law
    if not isinstance(law, Optimal):
        return []
    found, names = law.profiles, claim.profiles or claim.budgets
    runs = {
        name: [
            (size, score)
            for arm, size, at in zip(claim.arms, claim.sizes, names, strict=True)
            for score in _values(judged.data, arm)
            if at == name
        ]
        for name in found.names_K.tolist()
    }
    budgets, best = (np.exp(each_BxK[0]).tolist() for each_BxK in (found.log_budget_BxK, found.log_best_BxK))
    low, high = law.interval()
    text = f"N ~ C^{law.value:.3g} ({low:.3g} to {high:.3g}); published {claim.exponent:g}"
    label = f"{judged.data.name}: {claim.text}"
    return [
        plots.Profiles(judged.data.name, list(runs.values()), found.parabola_BxKx3[0].tolist(), budgets, best),
        plots.Optima(label, budgets, best, law.value, claim.exponent or 0.0, text),
    ]


def _lost(findings: Findings) -> dict[str, str]:
    """Of each arm, how many runs have no score and why."""
    counts = {arm: Counter(row.status for row in findings.runs(arm) if row.status != "finished") for arm in findings.study.arms}
    return {arm: ", ".join(f"{count} {status}" for status, count in lost.items()) for arm, lost in counts.items() if lost}
