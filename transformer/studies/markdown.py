"""Markdown of text, numbers and tables that comes out as meant on GitHub and reads well as it stands."""

import math
import re
from collections.abc import Sequence

from transformer.studies.statistics import Interval

ABSENT = "–"  # what the runs do not tell; never 0


def plain(text: str) -> str:
    """Text of others, so that none of it is taken for markup."""
    escaped = re.sub(r"([\\`*\[\]<>|~$&])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)  # inside a word it is none


def code(text: str) -> str:
    """A name, as code."""
    text = " ".join(text.split())
    marks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    edge = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{marks}{edge}{text}{edge}{marks}"


def listed(texts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose columns are aligned in plain text too: the first `texts` of them to the left, numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        pairs = enumerate(zip(row, widths, strict=True))
        return f"| {' | '.join(cell.ljust(width) if i < texts else cell.rjust(width) for i, (cell, width) in pairs)} |"

    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


class Digits:
    """Numbers of a metric, all with as many decimals as show its noise with two digits."""

    def __init__(self, noise: float | None, values: Sequence[float]):
        spread = noise or (max(values) - min(values) if values else 0) / 100 or max(map(abs, values), default=0) / 1000 or 1.0
        self.decimals = min(max(1 - math.floor(math.log10(spread)), 0), 9)

    def __call__(self, value: float | None) -> str:
        if value is None:
            return ABSENT
        if not math.isfinite(value):
            return "no bound"
        text = f"{value:,.{self.decimals}f}"
        return text.removeprefix("-") if not float(text.replace(",", "")) else text

    def interval(self, interval: Interval | None) -> str:
        return f"{self(interval.low)} to {self(interval.high)}" if interval else ABSENT


def p_value(p: float | None) -> str:
    return ABSENT if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def amount(value: float | None) -> str:
    """A number of three digits, or a whole one in full."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if abs(value) < 1e9 and float(value).is_integer() else f"{value:.3g}"
