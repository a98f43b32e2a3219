"""Attention maps. Letters: L layers, H heads, T queries (rows), S keys (columns)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.plots.style import GREY, picture, printable, width_of, write_title

SMALLEST = 1.2  # minimum size of the maps in inches: the names of the axes are about that long
COLOURS = "viridis"  # perceptually uniform: the brightest cell is the largest weight


def attention(weights_LxHxTxS: np.ndarray, columns: Sequence[str], rows: Sequence[str], path: Path, title: str) -> None:
    """A map for every layer and head, all with the same colour scale.

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
    """One large map of a head or of a mean over heads; arguments as in `attention`."""
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
    """A grid of maps with the panel size in inches and the `names` of the grid's rows and columns."""
    weights = np.asarray(weights_LxHxTxS, np.float32)
    layers, heads, length_T, length_S = weights.shape
    if (length_T, length_S) != (len(rows), len(columns)):
        raise ValueError(f"weights of {length_T} x {length_S} tokens, {len(rows)} row and {len(columns)} column labels")
    top_value = float(np.nan_to_num(weights).max()) or 1.0
    with picture(path) as figure:
        ticks_T, ticks_S = _Ticks(rows, panel_height), _Ticks(columns, panel_width)
        gap, right = 0.1, 0.85  # the colour scale is on the right
        layer_names = 0.25 if names[0][0] else 0.0
        left = 0.4 + layer_names + ticks_T.extent
        bottom = 0.4 + ticks_S.extent
        top = 0.62 if names[1][0] else 0.45
        inner_width = heads * (panel_width + gap) - gap
        inner_height = layers * (panel_height + gap) - gap
        width = max(left + inner_width + right, 4.5)  # at least the width of the title
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
                axes.set_facecolor("#BBBBBB")  # for weights that are NaN
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
        write_title(figure, title)


class _Ticks:
    """Names of the cells of an axis of this length in inches; if they are too close to read, only every second, third, ..."""

    def __init__(self, tokens: Sequence[str], inches: float):
        self.pitch = 72 * inches / len(tokens)  # points between two cells
        self.size = min(9.0, max(6.0, 0.8 * self.pitch))
        every = max(1, math.ceil(1.15 * self.size / self.pitch))
        self.places = range(0, len(tokens), every)
        self.labels = [printable(token) for token in tokens[::every]]
        self.extent = max(width_of(label, self.size) for label in self.labels)

    def draw(self, axis: Any, **style: Any) -> None:
        axis.set_ticks(self.places, self.labels, size=self.size, color="#222222", **style)


def _write_values(axes: Any, weights_TxS: np.ndarray, top_value: float) -> None:
    """Writes the largest weights into their cells."""
    for (row, column), value in np.ndenumerate(weights_TxS):
        if value >= 0.1:
            colour = "black" if value > 0.6 * top_value else "white"
            axes.text(column, row, f"{value:.2f}".removeprefix("0"), ha="center", va="center", size=7.5, color=colour)
