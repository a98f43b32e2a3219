"""Markdown for text, numbers and tables that GitHub renders correctly and that is readable as plain text, and HTML made from
it: one self-contained file with its figures and without scripts, for screens, phones and paper."""

import html
import math
import re
from collections.abc import Mapping, Sequence

from markdown_it import MarkdownIt

from transformer.statistics.contrasts import Interval

ABSENT = "–"  # an unknown value; never 0


def plain(text: str) -> str:
    """Escapes text from elsewhere, so that no part of it is read as markup."""
    escaped = re.sub(r"([\\`*\[\]<>|~$&])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)  # no markup inside a word


def code(text: str) -> str:
    """A name, formatted as code."""
    text = " ".join(text.split())
    marks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    edge = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{marks}{edge}{text}{edge}{marks}"


def listed(texts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose columns are also aligned in plain text: the first `texts` columns to the left, numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        pairs = enumerate(zip(row, widths, strict=True))
        return f"| {' | '.join(cell.ljust(width) if i < texts else cell.rjust(width) for i, (cell, width) in pairs)} |"

    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


class Digits:
    """The number format of a metric: as many decimals as its noise needs to have two digits."""

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
    """A number with three digits; an integer in full."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if abs(value) < 1e9 and float(value).is_integer() else f"{value:.3g}"


# --- HTML --------------------------------------------------------------------------------------------------------------


STYLE = """
:root { color-scheme: light; }
body { max-width: 54rem; margin: 0 auto; padding: 1rem 1rem 3rem; color: #222; background: #fff; }
body { font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-top: 1.6rem; }
blockquote { margin: 1rem 0; padding: 0 0 0 0.9rem; border-left: 3px solid #bbb; color: #444; }
code { font: 0.88em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
code { background: #f3f3f3; border-radius: 3px; padding: 0.05em 0.25em; }
pre { background: #f3f3f3; padding: 0.7rem; border-radius: 4px; white-space: pre-wrap; } pre code { padding: 0; }
.table { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } td[style*="right"] { white-space: nowrap; }
td:first-child code, th code { white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8.5pt; } .table { overflow: visible; }
  th, td { padding: 0.15rem 0.35rem; } h2, h3 { break-after: avoid; } tr, figure, blockquote { break-inside: avoid; }
}
"""


def page(title: str, markdown: str, figures: Mapping[str, str]) -> str:
    """The HTML page. `figures`: the SVG of each figure that the Markdown names."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(self, tokens, index, options, env) -> str:
        token = tokens[index]
        svg = figures[str(token.attrs["src"])]
        return f'<span role="img" aria-label="{html.escape(token.content)}">{svg[svg.index("<svg") :]}</span>'

    reader.add_render_rule("image", image)
    reader.add_render_rule("table_open", lambda *arguments: '<div class="table"><table>\n')
    reader.add_render_rule("table_close", lambda *arguments: "</table></div>\n")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{reader.render(markdown)}</body>\n</html>\n"
    )
