"""Tables for papers beside a report: summary.csv and summary.tex, a row an arm and metric.

Columns of numbers hold numbers; what the runs do not tell is empty there.
"""

import csv
import math
import re
from pathlib import Path
from typing import Any

from transformer.files import new_file
from transformer.studies.findings import Findings, Measured
from transformer.studies.markdown import Digits
from transformer.studies.statistics import Interval

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


def write(findings: Findings, folder: Path) -> None:
    """summary.csv and summary.tex of what a report says."""
    rows = summary(findings)
    with new_file(folder / f"{SUMMARY}.csv") as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with new_file(folder / f"{SUMMARY}.tex") as new:
        new.write_text(tex(findings), encoding="utf-8", newline="\n")


def summary(findings: Findings) -> list[dict[Any, Any]]:
    """Each metric's means and differences, by the names of `COLUMNS`. `p` is adjusted, as the report says of its kind."""
    result = []
    for measured in findings.measured:
        for arm, estimate in measured.estimates.items():
            difference = measured.differences.get(arm)
            row = {
                "metric": measured.metric.label,
                "better": "higher" if measured.metric.higher_is_better else "lower",
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
    """Empty: not known, or, of an end of an interval, no bound."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def tex(findings: Findings) -> str:
    """A `tabular` for each metric, to be read with `\\input`; it needs the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for measured in findings.measured:
        number = Digits(measured.noise, [mean for mean, *_ in measured.estimates.values() if mean is not None])
        better = "higher" if measured.metric.higher_is_better else "lower"
        parts += [f"% {measured.metric.label}, {better} is better", *_tabular(measured, number)]
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
    """A name as TeX sets it."""
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)
