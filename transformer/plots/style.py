"""Shared by all figures: colours, fonts, saving, titles, and text that any font can show."""

import contextlib
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer.errors import UserError

DPI = 150
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#9A5BA6"  # distinguishable for colour-blind readers
GREY = "#5A5A5A"
# Fonts, if installed, for glyphs that matplotlib's own font does not have.
FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Arial Unicode MS")
STYLE = {
    "font.size": 9,
    "text.usetex": False,
    "text.parse_math": False,  # a "$" in a token is a dollar
    "text.color": "#222222",
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "picture",
}


@contextlib.contextmanager
def picture(*paths: Path) -> Iterator[Any]:
    """A figure that is saved as PNG or SVG when the block ends. UserError: it cannot be written."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = STYLE | {"font.family": [name for name, _ in _fonts()]}
    with matplotlib.rc_context(style):
        figure = Figure(dpi=DPI, facecolor="white")
        yield figure
        for path in paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Without metadata, which would contain matplotlib's version and the date.
                if path.suffix == ".svg":
                    path.write_text(_svg(figure), encoding="utf-8")
                else:
                    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}; choose another path for the figure") from error


def _svg(figure: Any) -> str:
    """The figure as SVG, the same on all machines; its numbers are rounded to a hundredth of a point."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})

    def rounded(number: re.Match[str]) -> str:
        return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")

    markup = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", rounded, tag[0]), file.getvalue())
    markup = re.sub(r"font-family: [^;]*", "font-family: 'DejaVu Sans', Verdana, sans-serif", markup)  # Verdana is as wide
    return "".join(line.strip() + "\n" for line in markup.splitlines())


def width_of(text: str, size: float = STYLE["font.size"]) -> float:
    """Width of a line of text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / 72


def write_title(figure: Any, title: str) -> None:
    width, height = figure.get_size_inches()
    text = printable(title, longest=int(width * 72 / 6.5)) if title else ""
    figure.text(0.15 / width, 1 - 0.1 / height, text, weight="bold", size=10.5, va="top")


@functools.cache
def _fonts() -> list[tuple[str, Any]]:
    """The fonts of FONTS that are installed: name and font."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    installed = {font.name for font in fontManager.ttflist}
    return [(name, get_font(findfont(name))) for name in FONTS if name in installed]


def printable(token: str, longest: int = 18) -> str:
    """A token as a label: characters without a glyph are escaped or shown as a box, so that they are visible and break no
    line."""

    def shown(character: str) -> str:
        if not character.isprintable():
            return character.encode("unicode_escape").decode()
        if any(font.get_char_index(ord(character)) for _, font in _fonts()):
            return character
        return "_" if character == "▁" else "□"

    text = "".join(map(shown, token)) if token.strip(" ") else "␣" * len(token) or "∅"
    return text if len(text) <= longest else text[: longest - 1] + "…"
