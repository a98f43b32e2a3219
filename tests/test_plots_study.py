"""The figure of a study is legible with any arms, and each panel shows the data that it was given."""

import numpy as np
import pytest
from test_plots import check_legible, figures, texts  # noqa: F401  (figures is a fixture)

from transformer import plots

NAMES = ["8 heads", "1/sqrt(d_k)", "no positions, and a name that goes on and on", "a|b $x$ <i>", "中 𓀀"]


def panels(arms: list[str], runs: int) -> list[plots.Panel]:
    draw = np.random.default_rng(0)
    values = {arm: (2 + draw.normal(size=runs)).tolist() for arm in arms}
    means = {arm: float(np.mean(each)) if each else None for arm, each in values.items()}
    intervals = {arm: None if mean is None else (mean - 0.3, mean + 0.2) for arm, mean in means.items()}
    curves = {arm: [([(step, 9 / step + n / 9) for step in (10, 20, 30)], n != 1) for n in range(runs)] for arm in arms}
    sizes = np.repeat([1e3, 3e4, 1e6], runs).tolist()
    return [
        plots.Dots("validation/nll (lower is better)", values, means, intervals, {arms[-1]: "2 diverged, 1 failed"}, arms[0]),
        plots.Ranges(
            "test/bleu (higher is better), by words of the source",
            ["1-9", "10-19", "20-29"],
            {arm: [each, [], [x / 2 for x in each]] for arm, each in values.items()},
            {arm: [mean, None, mean and mean / 2] for arm, mean in means.items()},
            {arm: [intervals[arm], None, None] for arm in arms},
            arms[0],
        ),
        plots.Law("loss", sizes, [1 + 8 * size**-0.3 for size in sizes], (1.0, 8.0, 0.3) if runs else None, "1 + 8 / N^0.3"),
        plots.Lines("validation/nll", curves, arms[0]),
    ]


@pytest.mark.parametrize("count", [2, 12])
def test_legible(tmp_path, figures, count):  # noqa: F811
    arms = (NAMES + [f"arm {n}" for n in range(9)])[:count]
    plots.study_figure(panels(arms, 3), tmp_path / "a.svg", tmp_path / "a.png")
    check_legible(figures[0])
    assert (tmp_path / "a.svg").stat().st_size < 100_000 and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    named = [text.get_text() for text in texts(figures[0])]
    assert len([name for name in named if name.startswith("no positions, and")]) == (3 if count > 2 else 0)


def test_no_run_at_all_is_a_figure(tmp_path, figures):  # noqa: F811
    plots.study_figure(panels(NAMES[:2], 0), tmp_path / "a.svg")
    check_legible(figures[0])


def test_curves_are_runs_and_their_mean(tmp_path, figures):  # noqa: F811
    """The mean is over the runs that finished; a diverged run is dashed. The fitted law goes through its points."""
    plots.study_figure(panels(NAMES[:2], 3), tmp_path / "a.svg")
    dots, by_length, law, lines = figures[0].axes
    drawn = lines.lines[:4]
    assert [line.get_linestyle() for line in drawn] == ["-", "--", "-", "-"]
    assert drawn[3].get_ydata() == pytest.approx([9 / step + (0 + 2) / 2 / 9 for step in (10, 20, 30)])
    points, curve = law.lines
    assert (law.get_xscale(), law.get_yscale()) == ("log", "log")
    x, y = curve.get_data()
    assert np.interp(np.log(points.get_xdata()), np.log(x), y) == pytest.approx(points.get_ydata(), rel=1e-3)
    runs, ends, middle = (line.get_xdata() for line in dots.lines[:3])
    assert len(runs) == 3 and list(middle) == pytest.approx([np.mean(runs)]) and ends == pytest.approx(middle + [-0.3, 0.2])
    runs, interval, *_, line = by_length.lines[:5]
    assert [text.get_text() for text in by_length.get_xticklabels()] == ["1-9", "10-19", "20-29"]
    assert list(line.get_xdata()) == [0, 2] and line.get_ydata() == pytest.approx([middle[0], middle[0] / 2])
    assert set(runs.get_xdata()) == {0} and interval.get_ydata() == pytest.approx([middle[0] - 0.3, middle[0] + 0.2])


@pytest.mark.parametrize("budgets", [(1e13, 3e13, 1e14), (1e15, 1e16, 1e18), (1e13, 3e13)])
@pytest.mark.parametrize("scale", [2e5, 1.1e6, 4e7])
def test_the_best_sizes_have_readable_axes(tmp_path, figures, budgets, scale):  # noqa: F811
    """Budgets and sizes are plain numbers, and both lines are named."""
    best = [scale * (budget / budgets[0]) ** 0.46 for budget in budgets]
    label = "validation/nll (best): the best size grows with the budget like its square root"
    plots.study_figure([plots.Optima(label, budgets, best, 0.46, 0.5, "N ~ C^0.46; published 0.5")], tmp_path / "a.png")
    check_legible(figures[0])
    [axes] = figures[0].axes
    shown = [text.get_text() for axis in (axes.xaxis, axes.yaxis) for text in axis.get_ticklabels() if text.get_text()]
    assert len(shown) >= 4 and all(float(text.replace(",", "")) > 0 for text in shown)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["fit", "published"]
