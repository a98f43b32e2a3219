"""The figure of a study: panels in a column that fits the width of a phone and of a page of paper."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer.plots.curves import label_ends
from transformer.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, picture, printable, width_of

WIDTH = 5.2  # inches
LEFT, RIGHT, BETWEEN = 0.75, 0.2, 0.25  # inches; without the names
ROW = 0.3  # inches for each arm
NAMED = 28  # maximum characters of an arm's name
SMALL = 8  # points
BLACK = "#222222"
# The arm that the others are compared with is the first.
COLOURS = (BLACK, BLUE, ORANGE, GREEN, PURPLE, "#8A6D00", "#3A8FB7", "#B0457B")
STYLES = ("-", "--", ":", "-.")  # for further arms, once all colours are used


@dataclass(frozen=True)
class Dots:
    """The values of a metric by arm: each run, the mean and its interval. `notes`: text next to an arm."""

    label: str
    values: Mapping[str, Sequence[float]]
    means: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None]
    notes: Mapping[str, str]
    compare_with: str

    def height(self) -> float:
        return 0.55 + ROW * len(self.values)

    def draw(self, axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        colours = styles(self.values, self.compare_with)
        for place, arm in enumerate(self.values):
            colour, mean, interval = colours[arm][0], self.means[arm], self.intervals[arm]
            axes.plot(self.values[arm], [place + 0.24] * len(self.values[arm]), "o", ms=4, color=colour, alpha=0.45, mew=0)
            if interval:
                axes.plot(interval, [place, place], color=colour, lw=1.8, solid_capstyle="butt")
            if mean is not None:
                axes.plot([mean], [place], "D", ms=5, color=colour)
            if note := self.notes.get(arm):
                where: Any = {"transform": axes.get_yaxis_transform(), "va": "center"}
                axes.text(1.02, place, note, size=SMALL, color=ORANGE, **where)
        if (middle := self.means[self.compare_with]) is not None:
            axes.axvline(middle, color=GREY, lw=0.8, ls=":", zorder=0)
        axes.set_ylim(len(self.values) - 0.4, -0.5)
        axes.set_yticks(range(len(self.values)), [printable(arm, NAMED) for arm in self.values], color=BLACK)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", color="#E4E4E4", lw=0.8)
        axes.set_xlabel(printable(self.label, 80))
        if not any(self.values.values()):
            axes.set_xticks([])

    def names(self) -> tuple[float, float]:
        """Width in inches of the names on the left and on the right."""
        notes = max((width_of(note, SMALL) for note in self.notes.values()), default=0.0)
        return max(width_of(printable(arm, NAMED)) for arm in self.values), notes


@dataclass(frozen=True)
class Ranges:
    """A score by range, such as the source length: each arm's runs, a line through their means, and intervals of the means.

    `values`, `means`, `intervals`: by arm, for each of `ranges`.
    """

    label: str
    ranges: Sequence[str]
    values: Mapping[str, Sequence[Sequence[float]]]
    means: Mapping[str, Sequence[float | None]]
    intervals: Mapping[str, Sequence[tuple[float, float] | None]]
    compare_with: str

    def height(self) -> float:
        return max(2.7, 0.6 + 0.2 * len(self.values))

    def draw(self, axes: Any) -> None:
        colours, ends = styles(self.values, self.compare_with), []
        for arm, runs in self.values.items():
            colour, style = colours[arm]
            for place, each in enumerate(runs):
                axes.plot([place] * len(each), each, "o", ms=4, color=colour, alpha=0.45, mew=0)
                if interval := self.intervals[arm][place]:
                    axes.plot([place, place], interval, color=colour, lw=1.8, solid_capstyle="butt")
            known = [(place, mean) for place, mean in enumerate(self.means[arm]) if mean is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, lw=1.6, ls=style)
                ends.append((printable(arm, NAMED), colour, *known[-1]))
        axes.set_xlabel(printable(self.label, 80))
        if not ends:
            empty_panel(axes)
            return
        axes.set_xlim(-0.2, len(self.ranges) - 0.8)
        axes.set_xticks(range(len(self.ranges)), self.ranges)
        axes.grid(axis="y", color="#E4E4E4", lw=0.8)
        axes.set_axisbelow(True)
        label_ends(axes, ends)

    def names(self) -> tuple[float, float]:
        return 0.0, named_ends(self.values)


@dataclass(frozen=True)
class Law:
    """Losses of runs against the size of their arm, and the fitted curve `floor` + `scale` / N^`exponent`, or None without a
    fit."""

    label: str
    sizes: Sequence[float]
    losses: Sequence[float]
    curve: tuple[float, float, float] | None
    text: str

    def height(self) -> float:
        return 2.9

    def draw(self, axes: Any) -> None:
        axes.set_xlabel("size N")
        axes.set_ylabel(printable(self.label, 40))
        if not self.losses:
            empty_panel(axes)
            return
        axes.plot(self.sizes, self.losses, "o", ms=4, color=BLUE, alpha=0.6, mew=0)
        axes.set_xscale("log")
        if min(self.losses) > 0:
            axes.set_yscale("log")
        if self.curve:
            floor, scale, exponent = self.curve
            sizes = np.geomspace(min(self.sizes) / 1.15, max(self.sizes) * 1.15, 60)
            axes.plot(sizes, floor + scale / sizes**exponent, color=ORANGE, lw=1.4)
        axes.text(1, 1.02, self.text, transform=axes.transAxes, ha="right", size=SMALL, color=ORANGE)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                few_ticks(axis)
        grid(axes)

    def names(self) -> tuple[float, float]:
        return 0.0, 0.0


@dataclass(frozen=True)
class BySize:
    """A metric against the size of arms, on log scales if possible: each run, and lines through the means.

    `lines`: by label, the values of the runs for each size.
    """

    label: str
    lines: Mapping[str, Sequence[tuple[float, Sequence[float]]]]

    def height(self) -> float:
        return 2.9

    def draw(self, axes: Any) -> None:
        colours, ends = styles(list(self.lines), ""), []
        for name, points in self.lines.items():
            colour, style = colours[name]
            known = [(size, values) for size, values in points if values]
            axes.plot(
                *zip(*((size, value) for size, values in known for value in values), strict=True), "o", ms=3, color=colour
            )
            means = [(size, float(np.mean(values))) for size, values in known]
            axes.plot(*zip(*means, strict=True), color=colour, lw=1.4, ls=style)
            ends.append((printable(name, NAMED), colour, *means[-1]))
        axes.set_xlabel("size")
        axes.set_ylabel(printable(self.label, 40))
        axes.set_xscale("log")
        if all(value > 0 for points in self.lines.values() for _, values in points for value in values):
            axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                few_ticks(axis)
        grid(axes)
        label_ends(axes, ends)

    def names(self) -> tuple[float, float]:
        return 0.0, named_ends(self.lines)


@dataclass(frozen=True)
class Profiles:
    """IsoFLOP profiles (Hoffmann et al. 2022, figure 3): losses against size, a colour and a parabola for each budget.

    `runs`: by budget, (size, loss). `parabolas`: coefficients of 1, x and x^2 for log loss as a function of log size. `best`:
    the sizes at the minima.
    """

    label: str
    runs: Sequence[Sequence[tuple[float, float]]]
    parabolas: Sequence[Sequence[float]]
    budgets: Sequence[float]
    best: Sequence[float]

    def height(self) -> float:
        return 3.2

    def draw(self, axes: Any) -> None:
        axes.set_xlabel("size N")
        axes.set_ylabel(printable(self.label, 40))
        axes.set_xscale("log")
        for place, (runs, parabola, budget, best) in enumerate(
            zip(self.runs, self.parabolas, self.budgets, self.best, strict=True)
        ):
            colour = COLOURS[place % len(COLOURS)]
            sizes, losses = np.array(runs).T
            line = np.geomspace(sizes.min() / 1.1, sizes.max() * 1.1, 60)

            def curve(at: Any, parabola: Sequence[float] = parabola) -> Any:
                return np.exp(np.polyval(parabola[::-1], np.log(at)))

            axes.plot(sizes, losses, "o", ms=4, color=colour, alpha=0.6, mew=0)
            axes.plot(line, curve(line), color=colour, lw=1.2, label=f"C = {budget:.2g}")
            axes.plot([best], [curve(best)], "*", ms=9, color=colour, mec="white", mew=0.6)
        few_ticks(axes.xaxis)
        axes.legend(loc="upper right", fontsize=SMALL, frameon=False)
        grid(axes)

    def names(self) -> tuple[float, float]:
        return 0.0, 0.0


@dataclass(frozen=True)
class Optima:
    """The size with the lowest loss against the budget: minima, a line through them, and a line with the published exponent."""

    label: str
    budgets: Sequence[float]
    best: Sequence[float]
    exponent: float
    published: float
    text: str

    def height(self) -> float:
        return 2.9

    def draw(self, axes: Any) -> None:
        axes.set_xlabel(printable(f"budget C; {self.label}", 56))
        axes.set_ylabel("size N of the lowest loss")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot(self.budgets, self.best, "o", ms=5, color=BLUE, mew=0)
        x, y = np.log(self.budgets), np.log(self.best)
        line = np.linspace(x.min(), x.max(), 2)
        for name, exponent, colour, style in (("fit", self.exponent, BLUE, "-"), ("published", self.published, ORANGE, "--")):
            fitted = np.exp(y.mean() + exponent * (line - x.mean()))
            axes.plot(np.exp(line), fitted, color=colour, lw=1.3, ls=style, label=name)
        axes.text(1, 1.02, self.text, transform=axes.transAxes, ha="right", size=SMALL, color=BLUE)
        axes.legend(loc="lower right", fontsize=SMALL, frameon=False)
        few_ticks(axes.xaxis)
        few_ticks(axes.yaxis)
        grid(axes)

    def names(self) -> tuple[float, float]:
        return 0.95, 0.0  # numbers up to 9,999,999, and the name of the axis


@dataclass(frozen=True)
class Lines:
    """Learning curves: a thin line for each run (dashed if it diverged), and each arm's mean over finished runs.

    `curves`: by arm, for each run (update, value), and whether it finished.
    """

    label: str
    curves: Mapping[str, Sequence[tuple[Sequence[tuple[int, float]], bool]]]
    compare_with: str

    def height(self) -> float:
        return max(2.7, 0.6 + 0.2 * len(self.curves))

    def draw(self, axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator, StrMethodFormatter

        colours, ends, drawn = styles(self.curves, self.compare_with), [], []
        for arm, runs in self.curves.items():
            colour, style = colours[arm]
            for points, finished in runs:
                steps, values = np.array(points, dtype=float).reshape(-1, 2).T
                axes.plot(steps, values, color=colour, lw=0.7, alpha=0.4, ls="-" if finished else "--")
                drawn.extend(values[np.isfinite(values)])
            if mean := _mean([dict(points) for points, finished in runs if finished]):
                marker = "o" if len(mean) <= 12 else None
                axes.plot(*zip(*mean, strict=True), color=colour, lw=1.6, ls=style, marker=marker, ms=3)
                ends.append((printable(arm, NAMED), colour, *mean[-1]))
        axes.set_xlabel("updates")
        axes.set_ylabel(printable(self.label, 40))
        if not drawn:
            empty_panel(axes)
            return
        if min(drawn) > 0 and max(drawn) > 10 * min(drawn):
            axes.set_yscale("log")
            few_ticks(axes.yaxis)
        axes.set_xlim(0, max((step for runs in self.curves.values() for points, _ in runs for step, _ in points), default=1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(axis="y", color="#E4E4E4", lw=0.8)
        axes.set_axisbelow(True)
        label_ends(axes, ends)

    def names(self) -> tuple[float, float]:
        return 0.0, named_ends(self.curves)


Panel = Dots | Ranges | Law | BySize | Profiles | Optima | Lines


def study_figure(panels: Sequence[Panel], *paths: Path) -> None:
    """Draws the panels in a column, into files of the types that their names end in (.png, .svg)."""
    heights = [panel.height() for panel in panels]
    height = sum(heights) + BETWEEN * len(panels)
    with picture(*paths) as figure:
        figure.set_size_inches(WIDTH, height)
        top = BETWEEN / 2
        for panel, tall in zip(panels, heights, strict=True):
            left, right = panel.names()
            left, right = max(LEFT, left + 0.12), RIGHT + right
            bottom = top + tall - 0.45
            axes = figure.add_axes((left / WIDTH, 1 - bottom / height, (WIDTH - left - right) / WIDTH, (tall - 0.55) / height))
            panel.draw(axes)
            top += tall + BETWEEN


def named_ends(arms: Iterable[str]) -> float:
    """Width in inches of the names and last values of lines on the right."""
    return 0.1 + max(width_of(f"{printable(arm, NAMED)} 0.0000") for arm in arms)


def empty_panel(axes: Any) -> None:
    """Draws a panel without numbers."""
    axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def styles(arms: Sequence[str] | Mapping[str, Any], compare_with: str) -> dict[str, tuple[str, str]]:
    """Colour and line style of each arm."""
    others = [arm for arm in arms if arm != compare_with]
    cycle = COLOURS[1:]
    found = {arm: (cycle[i % len(cycle)], STYLES[i // len(cycle) % len(STYLES)]) for i, arm in enumerate(others)}
    return found | {compare_with: (COLOURS[0], STYLES[0])}


def grid(axes: Any) -> None:
    """Draws pale grid lines in the background."""
    axes.grid(color="#E4E4E4", lw=0.8)
    axes.set_axisbelow(True)


def few_ticks(axis: Any) -> None:
    """Three to six plain numbers on a logarithmic axis: powers of ten, with values between them if needed; else evenly
    spaced."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    choices = [
        [m * power for power in powers for m in marks if low <= m * power <= high] for marks in ((1,), (1, 3), (1, 2, 5))
    ]
    marks = next((marks for marks in choices if 3 <= len(marks) <= 6), None)
    axis.set_major_locator(FixedLocator(marks) if marks else MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if 100 <= value < 1e7 else f"{value:g}"))


def _mean(curves: Sequence[Mapping[int, float]]) -> list[tuple[int, float]]:
    """The mean of curves, at updates for which all have a finite value."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    means = [(step, float(np.mean([curve[step] for curve in curves]))) for step in steps]
    return [(step, mean) for step, mean in means if math.isfinite(mean)]
