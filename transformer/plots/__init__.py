"""All figures: learning curves, attention maps and their page, and the figure of a study. Only the drawing is done here.

Figures are built through matplotlib's object API, without pyplot's global state; the same input gives the same bytes.
"""

from transformer.plots.curves import learning_curve
from transformer.plots.maps import attention, attention_map
from transformer.plots.study import BySize, Dots, Law, Lines, Optima, Panel, Profiles, Ranges, study_figure
from transformer.plots.style import BLUE, GREEN, ORANGE, printable
from transformer.plots.viewer import AttentionPage, View

__all__ = [
    "AttentionPage",
    "BLUE",
    "GREEN",
    "ORANGE",
    "BySize",
    "Dots",
    "Law",
    "Lines",
    "Optima",
    "Panel",
    "Profiles",
    "Ranges",
    "View",
    "attention",
    "attention_map",
    "learning_curve",
    "printable",
    "study_figure",
]
