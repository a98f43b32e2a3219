"""Figures, read back as pixels, and the Matplotlib figures behind them: positions of elements, and no overlapping text."""

import itertools
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from transformer import plots
from transformer.errors import UserError
from transformer.inference.scores import token_scores
from transformer.plots import style

WORDS = ["▁Das", "▁Mädchen", "läuft", "▁über", "die", "▁Straße", ",", "▁und", "sieht", "▁Hunde"]
ODD = [
    "$x^2$",
    "$\\frac{",
    "_",
    "^",
    "😀",
    "مرحبا",
    "שלום",
    "中文",
    "\n",
    "\t",
    "\x00",
    "\u200d",
    "\ud800",
    "",
    " ",
    "⠀",
    "\\",
    "%",
    "&#",
]
BRIGHT, DARK = (253, 231, 36), (68, 1, 84)  # viridis's ends


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, in order."""
    from matplotlib.figure import Figure

    saved = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (savefig(self, *args, **kwargs), saved.append(self)))
    return saved


def pixels(path: Path) -> np.ndarray:
    """Height x width x RGB, 0 to 255."""
    from matplotlib.image import imread

    return np.round(imread(path)[..., :3] * 255).astype(int)


def where(image: np.ndarray, colour: str | tuple[int, int, int]) -> np.ndarray:
    """Height x width: True for pixels of exactly this colour."""
    if isinstance(colour, str):
        colour = (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))
    return (image == np.array(colour)).all(-1)


def spans(filled: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def texts(figure) -> list:
    """All visible texts."""
    from matplotlib.text import Text

    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [(tick, sorted(axis.get_view_interval())) for axis in axes for tick in axis.get_major_ticks()]
    beyond = {tick.label1 for tick, (low, high) in ticks if not low <= tick.get_loc() <= high}  # these are not drawn
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in beyond]


def check_legible(figure) -> None:
    """All text is inside the figure, has at least six points, and does not overlap other text."""
    width, height = figure.bbox.size
    boxes = []
    for text in texts(figure):
        box = text.get_window_extent()
        assert text.get_size() >= 6
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
        boxes.append((text.get_text(), box))
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, up) <= 1, (first, second)  # a pixel is rounding


def curve(steps: int, every: int, scored: int) -> list[dict]:
    rows = []
    for step in range(every, steps + 1, every):
        rows.append({"step": step, "train/loss": 0.3 + 6 * np.exp(-5 * step / steps), "time": 1.0})
        if step % scored == 0:
            rows.append({"step": step, "validation/loss": 0.31 + 6 * np.exp(-5 * step / steps)})
    return rows


# --- learning curves ---------------------------------------------------------------------------------------------------


def test_loss_falls(tmp_path, figures):
    plots.learning_curve(curve(1000, 10, 100), path := tmp_path / "deep" / "curve.png", "A title")
    image = pixels(path)
    assert image.shape[1] == pytest.approx(975, abs=2) and 400 < image.shape[0] < 600
    for colour in (plots.BLUE, plots.ORANGE):
        rows, columns = np.nonzero(where(image, colour)[:, : image.shape[1] * 2 // 3])  # without the labels
        assert rows[columns.argmin()] < 0.6 * image.shape[0] < rows[columns.argmax()]
    assert not where(image, plots.GREEN).any()
    (figure,) = figures
    check_legible(figure)
    labels = {t.get_text() for t in texts(figure)}
    assert {"A title", "training 0.34", "validation 0.35", "step (updates)", "loss (nats per token)"} <= labels
    assert len(figure.axes) == 1 and figure.axes[0].get_yscale() == "log"


def test_labels_of_equal_lines_do_not_overlap(tmp_path):
    rows = [{"step": s, "train/loss": 2.0 - s / 100, "validation/loss": 2.0 - s / 100} for s in (10, 20)]
    plots.learning_curve(rows, path := tmp_path / "curve.png")
    image = pixels(path)
    right = image[:, round(0.82 * image.shape[1]) :]
    blue, orange = (set(np.nonzero(where(right, c))[0]) for c in (plots.BLUE, plots.ORANGE))
    assert blue and orange and not blue & orange


def test_the_accuracy_that_a_run_reports_has_a_panel(tmp_path, figures):
    """Under the name and in the unit of its scores."""
    sums = {"loss_sum": 1.0, "nll_sum": 1.0, "weight_sum": 8.0}
    scores = [
        {f"validation/{name}": value for name, value in token_scores(sums | {"correct_sum": right}).items()} | {"step": step}
        for step, right in ((50, 1.0), (100, 7.0))
    ]
    plots.learning_curve([*curve(100, 10, 50), *scores], path := tmp_path / "curve.png", "A title")
    assert 1200 < pixels(path).shape[1] < 1500
    (figure,) = figures
    check_legible(figure)
    labels = {t.get_text() for t in texts(figure)}
    assert {"validation 87.5", "token accuracy (percent)"} <= labels
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim() == (0, 100)


def test_null_is_a_gap(tmp_path, figures):
    rows = [{"step": s, "train/loss": None if s in (3, 4, 9) else 2.0} for s in range(1, 10)]
    plots.learning_curve(rows, tmp_path / "curve.png")
    (line,) = figures[0].axes[0].lines
    assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [2, 3, 8]
    assert "training 2" in {t.get_text() for t in texts(figures[0])}


def test_long_noisy_curve_gets_its_mean(tmp_path, figures):
    noise = np.random.default_rng(0).normal(size=1000)
    rows = [{"step": s + 1, "train/loss": None if s == 500 else 3 + noise[s] / 4} for s in range(1000)]
    plots.learning_curve(rows, tmp_path / "curve.png")
    raw, mean = (line.get_ydata() for line in figures[0].axes[0].lines)
    assert np.isnan(mean[500]) and np.isnan(mean).sum() == 1
    for i in (0, 5, 300, 495, 999):
        near = raw[max(0, i - 10) : i + 11]
        assert mean[i] == pytest.approx(near[~np.isnan(near)].mean())


@pytest.mark.parametrize("rows", [[], [{"step": 0}], [{"step": 5, "train/loss": None}], [{"step": 5, "train/loss": 2.0}]])
def test_few_rows(tmp_path, rows, figures):
    plots.learning_curve(rows, path := tmp_path / "curve.png", "Few")
    assert np.ptp(pixels(path)) > 100
    assert ("nothing was reported" in {t.get_text() for t in texts(figures[0])}) == (
        rows[-1:] != [{"step": 5, "train/loss": 2.0}]
    )


# --- attention maps ----------------------------------------------------------------------------------------------------


def test_brightest_cell_is_the_largest_weight(tmp_path):
    weights_TxS = np.zeros((4, 6))
    weights_TxS[1, 4] = 0.8
    plots.attention_map(weights_TxS, WORDS[:6], WORDS[:4], path := tmp_path / "map.png", "A title")
    image = pixels(path)
    filled = where(image, DARK) | where(image, BRIGHT)
    (top, bottom), (left, right) = spans(filled.sum(1) > 50)[0], spans(filled.sum(0) > 50)[0]
    assert right - left > 200 and bottom - top > 150
    rows, columns = np.nonzero(where(image, BRIGHT)[top:bottom, left:right])
    assert set(np.floor(4 * rows / (bottom - top))) == {1} and set(np.floor(6 * columns / (right - left))) == {4}
    assert len(rows) > 0.5 * (bottom - top) * (right - left) / 24


def test_layers_go_down_and_heads_across(tmp_path, figures):
    weights_LxHxTxS = np.zeros((2, 3, 4, 5), np.float32)
    weights_LxHxTxS[1, 2, 3, 0] = 0.5
    weights_LxHxTxS[0, 1, 0, 4] = 0.25
    plots.attention(weights_LxHxTxS, WORDS[:5], WORDS[:4], path := tmp_path / "grid.png", "A title")
    image = pixels(path)
    filled = where(image, DARK) | where(image, BRIGHT)
    across, down = (spans(filled.sum(axis) > 50) for axis in (0, 1))
    assert len(across) == 3 and len(down) == 2
    for (layer, (top, bottom)), (head, (left, right)) in itertools.product(enumerate(down), enumerate(across)):
        panel = where(image[top:bottom, left:right], DARK)
        assert panel.mean() > 0.9
        if panel.all():
            assert (layer, head) not in {(0, 1), (1, 2)}
            continue
        rows, columns = np.nonzero(~panel)
        seen = (layer, head, *{int(4 * r / (bottom - top)) for r in rows}, *{int(5 * c / (right - left)) for c in columns})
        assert seen == ((0, 1, 0, 4) if layer == 0 else (1, 2, 3, 0))
        assert where(image[top:bottom, left:right], BRIGHT).any() == (layer == 1)  # one scale for all panels
    labels = [t.get_text() for t in texts(figures[0])]
    assert {"layer 1", "layer 2", "head 1", "head 2", "head 3", "0.5", "A title"} <= set(labels)
    assert labels.count("▁Mädchen") == 3 + 2  # under each column and beside each row


LARGE = pytest.param((6, 8, 60, 60), marks=pytest.mark.slow)


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (2, 4, 5, 5), (6, 8, 5, 5), LARGE, (1, 8, 1, 30), (2, 4, 24, 3)])
def test_legible_grid(tmp_path, figures, shape):
    layers, heads, length_T, length_S = shape
    weights_LxHxTxS = np.random.default_rng(0).random((layers, heads, length_T, length_S))
    columns, rows = (WORDS * 6)[:length_S], (WORDS[::-1] * 6)[:length_T]
    plots.attention(weights_LxHxTxS, columns, rows, tmp_path / "grid.png", "Attention of every layer and head")
    check_legible(figures[0])
    assert figures[0].bbox.width < 1350 and figures[0].bbox.height < 2300


@pytest.mark.parametrize(("length_T", "length_S"), [(1, 1), (5, 8), (12, 11), (60, 50), (200, 3), (150, 200)])
def test_legible_map(tmp_path, figures, length_T, length_S):
    weights_TxS = np.random.default_rng(0).random((length_T, length_S))
    columns, rows = (WORDS * 20)[:length_S], (WORDS[::-1] * 20)[:length_T]
    plots.attention_map(weights_TxS, columns, rows, tmp_path / "map.png", "A title that is " + "very " * 60 + "long")
    check_legible(figures[0])
    named = [t.get_text() for t in figures[0].axes[0].get_xticklabels()]
    assert (named == columns) == (length_S < 100)  # all tokens of an ordinary sentence are named


def test_large_weights_are_written_in_their_cells(tmp_path, figures):
    plots.attention_map(np.array([[0.96, 0.04], [0.5, 0.5]]), ["a", "b"], ["c", "d"], tmp_path / "map.png", "")
    assert sorted(t.get_text() for t in figures[0].axes[0].texts) == [".50", ".50", ".96"]


@pytest.mark.parametrize("draw", ["grid", "map"])
def test_odd_characters_stay_text(tmp_path, figures, draw):
    weights_TxS = np.full((len(ODD), len(ODD)), 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as matplotlib's "Glyph missing from font"
        if draw == "map":
            plots.attention_map(weights_TxS, ODD, ODD, tmp_path / "odd.png", "$x$ 😀 𓀀 \n \x07 _")
        else:
            plots.attention(weights_TxS[None, None], ODD, ODD, tmp_path / "odd.png", "$x$ 😀 𓀀 \n \x07 _")
    assert not any(t.get_parse_math() for t in texts(figures[0]))
    shown = [t.get_text() for t in figures[0].axes[0].get_xticklabels()]
    kept = {"$x^2$": "$x^2$", "$\\frac{": "$\\frac{", "_": "_", "\n": "\\n", "\x00": "\\x00", "\u200d": "\\u200d"}
    kept |= {"\ud800": "\\ud800", "": "∅", " ": "␣", "%": "%"}
    named = dict(zip(ODD, shown, strict=True)) if draw == "map" else {t: plots.printable(t) for t in ODD}
    assert kept.items() <= named.items()
    assert any(t.get_text().startswith("$x$ ") and t.get_text().endswith("\\n \\x07 _") for t in texts(figures[0]))


def test_printable():
    assert plots.printable("▁Straße") == "▁Straße"
    assert plots.printable("\u202ex") == "\\u202ex"
    assert plots.printable("\U0001f9ff\U00013000x")[-1] == "x" and "\U00013000" not in plots.printable("\U00013000")
    assert plots.printable("a" * 30, longest=10) == "a" * 9 + "…"


def test_word_mark_without_a_glyph(monkeypatch):
    monkeypatch.setattr(style, "_fonts", lambda: [])
    assert plots.printable("▁x") == "_□"


def test_weights_that_are_not_numbers(tmp_path):
    weights_TxS = np.array([[np.nan, 0.0], [0.0, 0.0]])
    plots.attention_map(weights_TxS, ["a", "b"], ["c", "d"], path := tmp_path / "map.png", "")
    assert where(pixels(path), "#BBBBBB").sum() > 1000  # grey: neither large nor small


def test_labels_must_fit_the_weights(tmp_path):
    with pytest.raises(ValueError, match="2 x 3 tokens, 3 row and 2 column"):
        plots.attention_map(np.ones((2, 3)), ["a", "b"], ["a", "b", "c"], tmp_path / "map.png", "")


# --- files -------------------------------------------------------------------------------------------------------------


def test_same_input_same_bytes(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    for name in ("a.png", "b.png"):
        plots.learning_curve(curve(100, 10, 50), tmp_path / name, "Title")
        with matplotlib.rc_context({"font.size": 30, "axes.spines.top": True}):
            plots.attention_map(np.eye(3), WORDS[:3], WORDS[:3], tmp_path / f"map_{name}", "Title")
    for kind in ("", "map_"):
        data = (tmp_path / f"{kind}a.png").read_bytes()
        assert data == (tmp_path / f"{kind}b.png").read_bytes() and data.startswith(b"\x89PNG")
        assert b"tEXt" not in data and b"tIME" not in data
    assert dict(matplotlib.rcParams) == before


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        plots.learning_curve([], tmp_path / "file" / "curve.png")


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    code = (
        "import sys; from pathlib import Path; import numpy as np; from transformer import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.learning_curve([{'step': 1, 'train/loss': 1.0}], Path('a.png'))\n"
        "plots.attention(np.ones((1, 1, 1, 1)), ['a'], ['b'], Path('b.png'), '')\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    path = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": path}, check=True, capture_output=True)
