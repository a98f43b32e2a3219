"""Learning curves of a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.plots.style import BLUE, DPI, GREEN, GREY, ORANGE, picture, write_title

NOISY = 150  # a curve with more points is drawn faintly, under its running mean
THICK: dict[str, Any] = {"lw": 1.6, "ms": 3.5, "solid_capstyle": "round", "clip_on": False}
THIN: dict[str, Any] = {"lw": 0.7, "alpha": 0.35}

# The curves of a panel: key of a row, label, colour.
Series = tuple[tuple[str, str, str], ...]
LOSSES: Series = (("train/loss", "training", BLUE), ("validation/loss", "validation", ORANGE))
ACCURACY: Series = (("validation/token_accuracy", "validation", GREEN),)


def learning_curve(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Losses against the step and, if it was measured, the accuracy of validation tokens in a second panel.

    Args:
        rows: lines of metrics.jsonl; each has `step` and some metrics, None where one was not finite.
        path: of the PNG.
        title: above the picture.
    """
    panels: list[tuple[str, Series]] = [("loss (nats per token)", LOSSES)]
    if any(row.get(key) is not None for row in rows for key, *_ in ACCURACY):
        panels.append(("token accuracy (percent)", ACCURACY))
    height, top, bottom, left, right = 3.3, 0.5 if title else 0.2, 0.55, 0.7, 1.45  # inches; the labels are on the right
    width = 6.5 if len(panels) == 1 else 9.6
    share = width / len(panels)
    with picture(path) as figure:
        figure.set_size_inches(width, height)
        for number, (unit, series) in enumerate(panels):
            box = [(number * share + left) / width, bottom / height, (share - left - right) / width]
            axes = figure.add_axes((*box, (height - top - bottom) / height))
            _curves(axes, rows, series)
            axes.set_ylabel(unit)
            axes.set_xlim(0, max((row["step"] for row in rows), default=0) or 1)
        write_title(figure, title)


def _curves(axes: Any, rows: Sequence[Mapping[str, Any]], series: Series) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    drawn = []  # (label, colour, last step, last value)
    lows, highs = [], []
    for key, label, colour in series:
        points = [(row["step"], math.nan if row[key] is None else row[key]) for row in rows if key in row]
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
    label_ends(axes, drawn)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over a fiftieth of the curve around each point, fewer at its ends; NaN where the value is NaN."""
    reach = len(values) // 100
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, constant_values=np.nan), 2 * reach + 1)
    counts = np.isfinite(windows).sum(-1)
    means = np.nan_to_num(windows).sum(-1) / np.maximum(counts, 1)
    return np.where(np.isfinite(values), means, np.nan)


def label_ends(axes: Any, ends: Sequence[tuple[str, str, float, float]]) -> None:
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
    box, lift = axes.get_window_extent(), 0.0
    if placed:  # not next to the axis's numbers, nor next to the title
        lift = min(0.0, box.y1 * 72 / DPI - placed[-1])
        lift = max(lift, box.y0 * 72 / DPI - placed[0])
    for i, height in zip(order, placed, strict=True):
        label, colour, x, y = ends[i]
        axes.annotate(
            f"{label} {y:.3g}",
            (x, y),
            xytext=(6, height + lift - wanted[i]),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )
