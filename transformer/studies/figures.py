"""What the figure of a study shows: findings -> the panels that `plots` draws."""

import math
from collections import Counter
from collections.abc import Sequence

from transformer import plots
from transformer.inference import scores
from transformer.studies import results
from transformer.studies.findings import Findings, Judged, Measured

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
        if len(together) < RANGES:
            result.append(_dots(findings, measured))
        elif measured is together[0]:
            result.append(_ranges(findings, together))
    first = findings.measured[0]
    result += [_law(judged, first) for judged in findings.judged if judged.claim.kind == "exponent"]
    curves = {arm: [(row.curve, row.status == "finished") for row in findings.runs(arm) if row.curve] for arm in study.arms}
    if any(len(curve) > 1 for of_arm in curves.values() for curve, _ in of_arm):
        result.append(plots.Lines(results.curve_of(study), curves, study.compare_with))
    return result


def _whole(measured: Measured) -> str:
    """ "test/bleu" of "test/bleu@10-19"."""
    return f"{measured.metric.split}/{measured.metric.score}"


def _range(measured: Measured) -> range | None:
    """10 to 19 of "test/bleu@10-19"."""
    return scores.bucket(measured.metric.where) if measured.metric.take == "last" else None


def _values(measured: Measured, arm: str) -> list[float]:
    return [score for score in measured.table[arm] if score is not None and math.isfinite(score)]


def _label(name: str, measured: Measured) -> str:
    return f"{name} ({'higher' if measured.metric.higher_is_better else 'lower'} is better)"


def _dots(findings: Findings, measured: Measured) -> plots.Dots:
    return plots.Dots(
        _label(measured.metric.label, measured),
        {arm: _values(measured, arm) for arm in measured.table},
        {arm: estimate.value for arm, estimate in measured.estimates.items()},
        {arm: estimate.interval for arm, estimate in measured.estimates.items()},
        _lost(findings),
        findings.study.compare_with,
    )


def _ranges(findings: Findings, together: Sequence[Measured]) -> plots.Ranges:
    rising = sorted(together, key=lambda measured: (_range(measured) or range(0)).start)
    arms, what = findings.study.arms, "place" if rising[0].metric.score == "place_accuracy" else "words of the source"
    return plots.Ranges(
        f"{_label(_whole(rising[0]), rising[0])}, by {what}",
        [measured.metric.where for measured in rising],
        {arm: [_values(measured, arm) for measured in rising] for arm in arms},
        {arm: [measured.estimates[arm].value for measured in rising] for arm in arms},
        {arm: [measured.estimates[arm].interval for measured in rising] for arm in arms},
        findings.study.compare_with,
    )


def _law(judged: Judged, first: Measured) -> plots.Law:
    sizes = zip(judged.claim.arms, judged.claim.sizes, strict=True)
    runs = [(size, score) for arm, size in sizes for score in _values(first, arm)]
    curve = judged.law
    text = "{:.3g} + {:.3g} / N^{:.3g}".format(*curve) if curve else "no law fitted"
    return plots.Law(first.metric.label, [size for size, _ in runs], [score for _, score in runs], curve, text)


def _lost(findings: Findings) -> dict[str, str]:
    """Of each arm, how many runs have no score and why."""
    counts = {arm: Counter(row.status for row in findings.runs(arm) if row.status != "finished") for arm in findings.study.arms}
    return {arm: ", ".join(f"{count} {status}" for status, count in lost.items()) for arm, lost in counts.items() if lost}
