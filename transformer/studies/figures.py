"""Converts findings into the panels of a study's figure, which `plots` draws, and into tables for papers: summary.csv and
summary.tex, with a row for each arm and metric. Columns of numbers hold only numbers; unknown values are empty."""

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer import plots
from transformer.files import new_file
from transformer.inference import scores
from transformer.statistics.contrasts import Interval
from transformer.statistics.scaling_laws import Optimal
from transformer.studies import results
from transformer.studies.findings import Findings, Judged, Measured
from transformer.studies.markup import Digits
from transformer.studies.verdicts import Data

RANGES = 3  # from this many ranges of length or position on, a score is drawn as one line, not as a panel for each range


def panels(findings: Findings) -> list[plots.Panel]:
    """A panel for each metric or score by length or position, for each claim about an exponent, and for learning curves, if
    any."""
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
    result += _by_size(findings)
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
    return name + measured.direction


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


def _by_size(findings: Findings) -> list[plots.BySize]:
    """A panel for each metric that claims say rises or falls with the size; a line for the common part of a claim's arm
    names."""
    lines: dict[str, dict[str, list[tuple[float, list[float]]]]] = {}
    for judged in findings.judged:
        claim, data = judged.claim, judged.data
        for arms in (claim.arms, claim.beyond) if claim.kind in ("rises", "falls") else ():
            points = [
                (size, _values(data, arm)) for size, arm in sorted(zip(claim.sizes, arms, strict=False)) if arm in data.table
            ]
            if any(values for _, values in points):
                lines.setdefault(data.name, {})[os.path.commonprefix(arms).strip(" ,") or claim.text] = points
    return [plots.BySize(name, of_metric) for name, of_metric in lines.items()]


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
    """For each arm, how many runs have no score and why."""
    counts = {arm: Counter(row.status for row in findings.runs(arm) if row.status != "finished") for arm in findings.study.arms}
    return {arm: ", ".join(f"{count} {status}" for status, count in lost.items()) for arm, lost in counts.items() if lost}


# --- tables for papers -------------------------------------------------------------------------------------------------


SUMMARY = "summary"
COLUMNS = (
    "metric",
    "better",
    "arm",
    "runs",
    "mean",
    "low",
    "high",
    "against",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "planned",
    "not_reached",
    "diverged",
    "failed",
)


def write_tables(findings: Findings, folder: Path) -> None:
    """Writes summary.csv and summary.tex, the numbers of a report."""
    rows = summary(findings)
    with new_file(folder / f"{SUMMARY}.csv") as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with new_file(folder / f"{SUMMARY}.tex") as new:
        new.write_text(tex(findings), encoding="utf-8", newline="\n")


def summary(findings: Findings) -> list[dict[Any, Any]]:
    """Each metric's means and differences, by the names of `COLUMNS`. `p` is adjusted as the report describes."""
    result = []
    for measured in findings.measured:
        for arm, estimate in measured.estimates.items():
            difference = measured.differences.get(arm)
            row = {
                "metric": measured.metric.label,
                "better": measured.better,
                "arm": arm,
                "runs": estimate.count,
                "mean": _number(estimate.value),
                "not_reached": measured.unreached[arm],
                "diverged": len(findings.runs(arm, "diverged")),
                "failed": len(findings.runs(arm, "failed")),
                **_ends(estimate.interval, ""),
            }
            if difference is not None:
                row |= {"against": findings.study.against(arm), "difference": _number(difference.value)}
                row |= {"p": _number(difference.p), "planned": int(difference.planned)}
                row |= _ends(difference.interval, "difference_")
            result.append(row)
    return result


def _ends(interval: Interval | None, name: str) -> dict[str, str]:
    return {} if interval is None else {f"{name}low": _number(interval.low), f"{name}high": _number(interval.high)}


def _number(value: float | None) -> str:
    """The number as text; empty if it is unknown or if an interval has no bound there."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def tex(findings: Findings) -> str:
    """A `tabular` for each metric, for `\\input`; it needs the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for measured in findings.measured:
        parts += [f"% {measured.metric.label}{measured.direction}", *_tabular(measured, measured.digits)]
    return "\n".join(parts) + "\n"


def _tabular(measured: Measured, number: Digits) -> list[str]:
    lines = ["\\begin{tabular}{lrlrlr}", "\\toprule"]
    lines += ["arm & mean & 95\\,\\% interval & difference & interval & $p$ \\\\", "\\midrule"]
    for arm, estimate in measured.estimates.items():
        difference = measured.differences.get(arm)
        cells = [_escaped(arm), _cell(number, estimate.value), _between(number, estimate.interval)]
        if difference is None:
            cells += ["", "", ""]
        else:
            p = difference.p
            cells += [_cell(number, difference.value), _between(number, difference.interval)]
            cells.append("" if p is None else "$<$0.001" if p < 0.001 else f"{p:.3f}")
        lines.append(" & ".join(cells) + " \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _cell(number: Digits, value: float | None) -> str:
    return "" if value is None else f"${number(value).replace(',', '{,}')}$"


def _between(number: Digits, interval: Interval | None) -> str:
    if interval is None:
        return ""
    ends = (
        ("-\\infty" if interval.low == -math.inf else number(interval.low)),
        ("\\infty" if interval.high == math.inf else number(interval.high)),
    )
    return f"$[{ends[0]}, {ends[1]}]$".replace(",", "{,}").replace("{,} ", ", ")


def _escaped(text: str) -> str:
    """A name, escaped for TeX."""
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)
