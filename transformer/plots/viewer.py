"""An interactive page of attention: one self-contained HTML file. Its template is viewer.html.

Letters: L layers, H heads, T queries (rows), S keys (columns).
"""

import base64
import dataclasses
import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer.errors import no_failure
from transformer.files import new_file

TEMPLATE = Path(__file__).with_name("viewer.html")


@dataclasses.dataclass(frozen=True)
class View:
    """Weights of a stack, 0 to 1, with the attended tokens (`across`) and the attending tokens (`down`). `steps`: rows are
    steps of decoding."""

    name: str
    weights_LxHxTxS: np.ndarray
    across: Sequence[str]
    down: Sequence[str]
    steps: bool


@dataclasses.dataclass(frozen=True)
class AttentionPage:
    """Sentences, each with a title and its views. A notebook displays the page."""

    sentences: Sequence[tuple[str, Sequence[View]]]

    def html(self) -> str:
        """The page. A weight takes one byte: it is rounded to 1/255."""
        data = [{"title": title, "maps": [_plain(view) for view in views]} for title, views in self.sentences]
        # "<" could end the script element that holds the data.
        text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
        before, _, rest = TEMPLATE.read_text(encoding="utf-8").partition("TITLE")
        between, _, after = rest.partition("DATA")
        return f"{before}{html.escape(f'Attention: {self.sentences[0][0]}')}{between}{text}{after}"

    def save(self, path: str | Path) -> None:
        """Writes the page to a file. UserError: it cannot be written."""
        with no_failure(str(path), "written", "name"), new_file(Path(path).expanduser()) as file:
            file.write_text(self.html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html())}" style="width:100%;height:46rem;border:1px solid #ccc"></iframe>'


def _plain(view: View) -> dict[str, object]:
    layers, heads, length_T, length_S = view.weights_LxHxTxS.shape
    if (length_T, length_S) != (len(view.down), len(view.across)):
        raise ValueError(
            f"{view.name}: weights of {length_T} x {length_S} tokens, {len(view.down)} and {len(view.across)} labels"
        )
    weights = np.nan_to_num(np.asarray(view.weights_LxHxTxS, np.float32))
    rounded = np.rint(255 * np.clip(weights, 0, 1)).astype(np.uint8)
    return {
        "name": view.name,
        "layers": layers,
        "heads": heads,
        "across": list(view.across),
        "down": list(view.down),
        "steps": view.steps,
        "weights": base64.b64encode(rounded.tobytes()).decode("ascii"),
    }
