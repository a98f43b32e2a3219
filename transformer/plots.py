"""Every picture: learning curves and attention maps, as PNG. Nothing is computed here but where ink goes.

Figures are built through matplotlib's object API, without pyplot's global state; the same input gives the same bytes.
Letters: L layers, H heads, T queries (rows), S keys (columns).
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.errors import UserError

DPI = 150
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#9A5BA6"  # told apart by the colour-blind too
GREY = "#5A5A5A"
NOISY = 150  # points of a curve from which on it is drawn faintly, under its running mean
THICK: dict[str, Any] = {"lw": 1.6, "ms": 3.5, "solid_capstyle": "round", "clip_on": False}
THIN: dict[str, Any] = {"lw": 0.7, "alpha": 0.35}
SMALLEST = 1.2  # inches of a picture's maps, at least: the names of its axes are about as long
COLOURS = "viridis"  # perceptually uniform: the brightest cell is the largest weight
# Fonts to look in, where they are installed, for what matplotlib's own lacks.
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
}

# What the panels of a learning curve show: row key, label, factor, colour.
Series = tuple[tuple[str, str, float, str], ...]
LOSSES: Series = (("train/loss", "training", 1.0, BLUE), ("validation/loss", "validation", 1.0, ORANGE))
SCORES: Series = (  # on a scale of 0 to 100
    ("validation/accuracy", "token accuracy", 100.0, GREEN),
    ("validation/exact_match", "exact match", 1.0, ORANGE),
    ("validation/bleu", "BLEU", 1.0, PURPLE),
    ("validation/chrf", "chrF", 1.0, BLUE),
)


@contextlib.contextmanager
def _picture(path: Path) -> Iterator[Any]:
    """A figure that is saved when the block ends. UserError where it cannot be written."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = STYLE | {"font.family": [name for name, _ in _fonts()]}
    with matplotlib.rc_context(style):
        figure = Figure(dpi=DPI, facecolor="white")
        yield figure
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without metadata, which names matplotlib's version.
            figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; choose another place for the picture") from error


# --- learning curves ---------------------------------------------------------------------------------------------------


def learning_curve(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Losses against the step and, where there are any, validation scores beside them.

    Args:
        rows: lines of metrics.jsonl; each has `step` and some metrics, None where one was not finite.
        path: of the PNG.
        title: above the picture.
    """
    panels: list[tuple[str, Series]] = [("loss (nats per token)", LOSSES)]
    if any(row.get(key) is not None for row in rows for key, *_ in SCORES):
        plain = all(row.get(key) is None for row in rows for key in ("validation/bleu", "validation/chrf"))
        panels.append(("validation (percent)" if plain else "validation score (0 to 100)", SCORES))
    height, top, bottom, left, right = 3.3, 0.5 if title else 0.2, 0.55, 0.7, 1.45  # inches; on the right are the labels
    width = 6.5 if len(panels) == 1 else 9.6
    share = width / len(panels)
    with _picture(path) as figure:
        figure.set_size_inches(width, height)
        for number, (unit, series) in enumerate(panels):
            box = [(number * share + left) / width, bottom / height, (share - left - right) / width]
            axes = figure.add_axes((*box, (height - top - bottom) / height))
            _curves(axes, rows, series)
            axes.set_ylabel(unit)
            axes.set_xlim(0, max((row["step"] for row in rows), default=0) or 1)
        _write_title(figure, title)


def _curves(axes: Any, rows: Sequence[Mapping[str, Any]], series: Series) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    drawn = []  # (label, colour, last step, last value)
    lows, highs = [], []
    for key, label, factor, colour in series:
        points = [(row["step"], math.nan if row[key] is None else factor * row[key]) for row in rows if key in row]
        steps, values = np.array(points, dtype=float).reshape(-1, 2).T
        finite = np.isfinite(values)
        if not finite.any():
            continue
        marker = "o" if len(values) <= 30 else None
        axes.plot(steps, values, color=colour, marker=marker, **(THICK if len(values) <= NOISY else THIN))
        if len(values) > NOISY:
            values = _smooth(values)
            axes.plot(steps, values, color=colour, **THICK)
        drawn.append((label, colour, steps[finite][-1], values[finite][-1]))
        lows.append(values[finite].min())
        highs.append(values[finite].max())
    axes.set_xlabel("step (updates)")
    axes.grid(axis="y", color="#E4E4E4", lw=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if not drawn:
        axes.text(0.5, 0.5, "nothing was reported", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    # Where a loss falls by an order of magnitude, a linear axis shows only its first steps.
    if series is LOSSES and min(lows) > 0 and max(highs) > 10 * min(lows):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _label_ends(axes, drawn)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over a fiftieth of the curve around each point, fewer at its ends; NaN where the value is NaN."""
    reach = len(values) // 100
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, constant_values=np.nan), 2 * reach + 1)
    counts = np.isfinite(windows).sum(-1)
    means = np.nan_to_num(windows).sum(-1) / np.maximum(counts, 1)
    return np.where(np.isfinite(values), means, np.nan)


def _label_ends(axes: Any, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Each line's name and last value at its right end, pushed apart where they would overlap."""
    gap = 13.0  # points between two labels
    axes.autoscale_view()
    wanted = [axes.transData.transform((x, y))[1] * 72 / DPI for _, _, x, y in ends]
    order = sorted(range(len(ends)), key=lambda i: wanted[i])
    placed = [wanted[i] for i in order]
    for _ in range(100):
        for i in range(1, len(placed)):
            overlap = gap - (placed[i] - placed[i - 1])
            if overlap > 1e-6:
                placed[i - 1] -= overlap / 2
                placed[i] += overlap / 2
    for i, height in zip(order, placed, strict=True):
        label, colour, x, y = ends[i]
        axes.annotate(
            f"{label} {y:.3g}",
            (x, y),
            xytext=(6, height - wanted[i]),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )


# --- attention maps ----------------------------------------------------------------------------------------------------


def attention(weights_LxHxTxS: np.ndarray, columns: Sequence[str], rows: Sequence[str], path: Path, title: str) -> None:
    """A map for every layer and head, all in one colour scale.

    Args:
        weights_LxHxTxS: attention weights, 0 to 1.
        columns: the S tokens that are attended to.
        rows: the T tokens that attend.
        path: of the PNG.
        title: above the picture.
    """
    layers, heads, length_T, length_S = weights_LxHxTxS.shape
    width = min(3.5, max(0.7, 6.4 / heads - 0.1))
    height = max(width * min(2.0, max(0.5, length_T / length_S)), SMALLEST / layers - 0.1)
    names = [f"layer {i + 1}" for i in range(layers)], [f"head {i + 1}" for i in range(heads)]
    _maps(weights_LxHxTxS, columns, rows, path, title, width, height, names)


def attention_map(weights_TxS: np.ndarray, columns: Sequence[str], rows: Sequence[str], path: Path, title: str) -> None:
    """One large map, of a head or of a mean over heads; arguments as in `attention`."""
    length_T, length_S = weights_TxS.shape
    cell = min(0.42, max(0.125, 6.0 / max(length_T, length_S)))
    width, height = (min(10.0, max(SMALLEST, cell * length)) for length in (length_S, length_T))
    _maps(weights_TxS[None, None], columns, rows, path, title, width, height, ([""], [""]))


def _maps(
    weights_LxHxTxS: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str],
    path: Path,
    title: str,
    panel_width: float,
    panel_height: float,
    names: tuple[Sequence[str], Sequence[str]],
) -> None:
    """A grid of maps; a panel's size in inches, `names` of the grid's rows and columns."""
    weights = np.asarray(weights_LxHxTxS, np.float32)
    layers, heads, length_T, length_S = weights.shape
    if (length_T, length_S) != (len(rows), len(columns)):
        raise ValueError(f"weights of {length_T} x {length_S} tokens, {len(rows)} row and {len(columns)} column labels")
    top_value = float(np.nan_to_num(weights).max()) or 1.0
    with _picture(path) as figure:
        ticks_T, ticks_S = _Ticks(rows, panel_height), _Ticks(columns, panel_width)
        gap, right = 0.1, 0.85  # on the right is the colour scale
        layer_names = 0.25 if names[0][0] else 0.0
        left = 0.4 + layer_names + ticks_T.extent
        bottom = 0.4 + ticks_S.extent
        top = 0.62 if names[1][0] else 0.45
        inner_width = heads * (panel_width + gap) - gap
        inner_height = layers * (panel_height + gap) - gap
        width = max(left + inner_width + right, 4.5)  # at least what a title needs
        height = bottom + inner_height + top
        margin = (width - left - inner_width - right) / 2
        left += margin
        figure.set_size_inches(width, height)

        def add_axes(x: float, y: float, w: float, h: float) -> Any:
            """Axes with their upper left corner `y` inches under the top of the figure."""
            return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

        def write_upwards(x: float, y: float, text: str, **options: Any) -> None:
            figure.text(x / width, 1 - y / height, text, rotation=90, va="center", ha="center", **options)

        image = None
        for layer in range(layers):
            for head in range(heads):
                x, y = left + head * (panel_width + gap), top + layer * (panel_height + gap)
                axes = add_axes(x, y, panel_width, panel_height)
                image = axes.imshow(weights[layer, head], cmap=COLOURS, vmin=0, vmax=top_value, aspect="auto")
                axes.set_facecolor("#BBBBBB")  # of weights that are NaN
                axes.spines[:].set_visible(False)
                axes.tick_params(length=0, pad=3)
                axes.set_xticks([])
                axes.set_yticks([])
                if layer == 0 and names[1][head]:
                    axes.set_title(names[1][head], size=9, weight="normal", loc="center", pad=4)
                if layer == layers - 1:
                    ticks_S.draw(axes.xaxis, rotation=90)
                if head == 0:
                    ticks_T.draw(axes.yaxis)
                    write_upwards(margin + 0.4, y + panel_height / 2, names[0][layer])
                if min(ticks_T.pitch, ticks_S.pitch) >= 24:
                    _write_values(axes, weights[layer, head], top_value)
        bar_height = min(inner_height, 1.8)
        bar = figure.colorbar(image, cax=add_axes(left + inner_width + 0.12, top, 0.1, bar_height))
        bar.outline.set_visible(False)
        bar.set_ticks([0, top_value], labels=["0", f"{top_value:.2g}"])
        bar.ax.tick_params(length=0, pad=3, labelsize=8)
        bar.set_label("attention weight", size=8, labelpad=2)
        figure.text((left + inner_width / 2) / width, 0.12 / height, "attended to (key)", ha="center", color=GREY)
        write_upwards(margin + 0.2, top + inner_height / 2, "attending (query)", color=GREY)
        _write_title(figure, title)


class _Ticks:
    """Names of the cells of an axis of that many inches; where they are too close to read, every second, third, ..."""

    def __init__(self, tokens: Sequence[str], inches: float):
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import text_to_path

        self.pitch = 72 * inches / len(tokens)  # points between two cells
        self.size = min(9.0, max(6.0, 0.8 * self.pitch))
        every = max(1, math.ceil(1.15 * self.size / self.pitch))
        self.places = range(0, len(tokens), every)
        self.labels = [printable(token) for token in tokens[::every]]
        font = FontProperties(size=self.size)
        widths = [text_to_path.get_text_width_height_descent(label, font, ismath=False)[0] for label in self.labels]
        self.extent = max(widths) / 72  # inches that the longest takes

    def draw(self, axis: Any, **style: Any) -> None:
        axis.set_ticks(self.places, self.labels, size=self.size, color="#222222", **style)


def _write_values(axes: Any, weights_TxS: np.ndarray, top_value: float) -> None:
    """The numbers that matter, in their cells."""
    for (row, column), value in np.ndenumerate(weights_TxS):
        if value >= 0.1:
            colour = "black" if value > 0.6 * top_value else "white"
            axes.text(column, row, f"{value:.2f}".removeprefix("0"), ha="center", va="center", size=7.5, color=colour)


def _write_title(figure: Any, title: str) -> None:
    width, height = figure.get_size_inches()
    text = printable(title, longest=int(width * 72 / 6.5)) if title else ""
    figure.text(0.15 / width, 1 - 0.1 / height, text, weight="bold", size=10.5, va="top")


# --- text --------------------------------------------------------------------------------------------------------------


@functools.cache
def _fonts() -> list[tuple[str, Any]]:
    """The installed ones of FONTS: name and font."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    installed = {font.name for font in fontManager.ttflist}
    return [(name, get_font(findfont(name))) for name in FONTS if name in installed]


def printable(token: str, longest: int = 18) -> str:
    """A token as a label: what has no glyph is escaped or shown as a box, so that it neither vanishes nor breaks a line."""

    def shown(character: str) -> str:
        if not character.isprintable():
            return character.encode("unicode_escape").decode()
        if any(font.get_char_index(ord(character)) for _, font in _fonts()):
            return character
        return "_" if character == "▁" else "□"

    text = "".join(map(shown, token)) if token.strip(" ") else "␣" * len(token) or "∅"
    return text if len(text) <= longest else text[: longest - 1] + "…"
