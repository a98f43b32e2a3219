"""Compares two or more runs: settings that differ, scores with intervals of their differences, curves, outputs.

Intervals are paired: the same sentences are resampled for both runs (Koehn 2004). They are about other sentences, not about
other seeds, for which there are studies.

Letters: S sentences, K statistics of a sentence.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer import plots, settings
from transformer.config import Config
from transformer.errors import UserError, no_failure, readable, say
from transformer.files import new_file
from transformer.inference.scores import PREDICTION
from transformer.inference.sums import SUMS, of_sentences
from transformer.modes.common import file_name
from transformer.runtime import workdir as workdirs
from transformer.statistics import bootstrap
from transformer.studies import markup
from transformer.training.telemetry import read_metrics

RESAMPLINGS = 2000
SHOWN = 100  # maximum number of differing outputs on the page


@dataclasses.dataclass(frozen=True)
class Compared:
    """A run in the comparison: its name, settings, scores, outputs by sentence, reports of its training, and the checkpoints
    that were scored."""

    name: str
    config: Config
    scores: Mapping[str, float | None]
    outputs: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[int] = ()


def compare(paths: Sequence[str], split: str, output: str | None) -> None:
    """Prints a table to stdout and writes an HTML page with everything; its name is the last line."""
    paths = [str(Path(path.strip())) for path in paths if path.strip()]  # a/ is a
    if len(paths) < 2:
        raise UserError("--mode=compare needs --workdir=A,B,.., at least two workdirs, separated by commas")
    runs = [_read(path, split, paths) for path in dict.fromkeys(paths)]
    if len(runs) < 2:
        raise UserError(f"--workdir={','.join(paths)}: names one workdir twice; name at least two")
    first, notes = runs[0], []
    rows = [_row(name, runs, notes) for name in first.scores if all(name in run.scores for run in runs)]
    checkpoints = [", ".join(map(str, run.checkpoints)) for run in runs]
    rows.insert(0, ["checkpoint", *checkpoints, *[""] * (len(runs) - 1)])
    heads = ["score", *(run.name for run in runs), *(f"{run.name} - {first.name} (95 % interval)" for run in runs[1:])]
    changed = _changed(runs)
    print(_aligned([["setting", *(run.name for run in runs)], *changed]) if changed else "all settings are equal")
    print()
    print(_aligned([heads, *rows]))
    for note in dict.fromkeys(notes):
        say(note)
    name = file_name(f"compare-{split}-{'-'.join(run.name for run in runs)}") + ".html"
    file = Path(output) if output else workdirs.open_existing(paths[0]).path / "evaluation" / name
    workdirs.check_writable("--output" if output else "--workdir", output or paths[0], file.parent)
    with no_failure(str(file), "written", "--output"), new_file(file) as new:
        new.write_text(_page(runs, split, changed, [heads, *rows]), encoding="utf-8")
    print(f"\n{file}", flush=True)


def _read(path: str, split: str, paths: Sequence[str]) -> Compared:
    """UserError: the split was not scored there."""
    workdir = workdirs.open_existing(path)
    if not (file := workdir.evaluation_file(split)).is_file():
        raise UserError(f"--workdir={path}: {file} is missing; run --mode=evaluate --workdir={path} --split={split} to make it")
    scored, outputs = workdirs.read_json(file), []
    if (lines := workdir.outputs_file(split)).is_file():
        with no_failure(str(lines), "read"):
            outputs = [json.loads(line) for line in lines.read_text(encoding="utf-8").split("\n") if line]
    alone = len({Path(each).name for each in paths}) == len(set(paths))
    name, metrics = Path(path).name if alone else path, read_metrics(workdir.metrics_file)
    return Compared(name, workdir.config(), scored["scores"], outputs, metrics, scored["checkpoints"])


def _changed(runs: Sequence[Compared]) -> list[list[str]]:
    """Settings that differ between runs: the name, and the value in each run."""
    values = [{name: settings.text_of(value) for name, _, _, value in settings.fields(run.config)} for run in runs]
    names = dict.fromkeys(name for each in values for name in each)
    return [[name, *(each.get(name, "-") for each in values)] for name in names if len({each.get(name) for each in values}) > 1]


def _row(name: str, runs: Sequence[Compared], notes: list[str]) -> list[str]:
    """A score of each run, and its difference from the first run, with an interval if one can be computed."""
    first, cells = runs[0], [name]
    for run in runs:
        value = run.scores[name]
        cells.append("-" if value is None else readable(name, value, f"{value:,.4f}"))
    for run in runs[1:]:
        mine, theirs = run.scores[name], first.scores[name]
        if mine is None or theirs is None or ">" in cells[1]:
            cells.append("-")
            continue
        bounds = interval(name, run, first, notes)
        cells.append(f"{mine - theirs:+.4f}" + ("" if bounds is None else f" ({bounds[0]:+.2f} to {bounds[1]:+.2f})"))
    return cells


def interval(name: str, run: Compared, base: Compared, notes: list[str]) -> tuple[float, float] | None:
    """The 95 % interval of a difference by resampling sentences, the same for both runs. None if the score is not a sum over
    sentences, or, with a note, if the runs were scored on different sentences."""
    if name not in SUMS or not run.outputs or not base.outputs:
        return None
    texts = [[(row["source"], row["reference"]) for row in each.outputs] for each in (run, base)]
    if texts[0] != texts[1]:
        notes.append(f"{run.name} and {base.name} were scored on different sentences: their differences have no intervals")
        return None
    references, found = [str(reference) for _, reference in texts[0]], []
    for each in (run, base):
        predictions = [str(row[PREDICTION]) for row in each.outputs]
        if each.config.data.lowercase and not SUMS[name].labels:
            predictions = [text.lower() for text in predictions]
        statistics_SxK = of_sentences(name, predictions, references, each.config.evaluate.bleu_tokenize)
        found.append(bootstrap.resample(SUMS[name].score, statistics_SxK, RESAMPLINGS))
    return bootstrap.checkpoints(*found).interval


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


# --- the page ----------------------------------------------------------------------------------------------------------


def _page(runs: Sequence[Compared], split: str, changed: Sequence[Sequence[str]], scores: Sequence[Sequence[str]]) -> str:
    names = [run.name for run in runs]
    parts = [f"# {' and '.join(names)} on {split}", "## Scores", _table(scores)]
    parts += ["Intervals are about other sentences, not about other seeds: a study compares seeds."]
    parts += ["## Settings that differ", _table([["setting", *names], *changed]) if changed else "None."]
    figures = {}
    if (curves := _curves(runs)) is not None:
        parts += ["## Training", "![learning curves](curves.svg)"]
        figures["curves.svg"] = curves
    same = all([row.get("source") for row in run.outputs] == [row.get("source") for row in runs[0].outputs] for run in runs)
    if runs[0].outputs and same:
        together = list(zip(*(run.outputs for run in runs), strict=True))
        differ = [rows for rows in together if len({row[PREDICTION] for row in rows}) > 1]
        shown = differ[:SHOWN]
        parts.append("## Outputs that differ")
        parts.append(
            f"{len(differ):,} of {len(together):,}; {len(shown):,} are shown, words that are not in the reference in bold."
        )
        for rows in shown:
            lines = [["", "text"], ["source", _escaped(rows[0]["source"])], ["reference", _escaped(str(rows[0]["reference"]))]]
            lines += [[name, _marked(row[PREDICTION], str(row["reference"]))] for name, row in zip(names, rows, strict=True)]
            parts.append(_table(lines, escaped=True))
    return markup.page(f"{' and '.join(names)}", "\n\n".join(parts), figures)


def _curves(runs: Sequence[Compared]) -> str | None:
    """SVG of the validation losses, or of the training losses if there is no validation."""
    for metric in ("validation/nll", "train/loss"):
        found = {
            run.name: [([(row["step"], row[metric]) for row in run.metrics if row.get(metric) is not None], True)]
            for run in runs
        }
        if all(points for [(points, _)] in found.values()):
            with tempfile.TemporaryDirectory() as folder:
                plots.study_figure([plots.Lines(metric, found, runs[0].name)], Path(folder) / "curves.svg")
                return (Path(folder) / "curves.svg").read_text(encoding="utf-8")
    return None


def _marked(prediction: str, reference: str) -> str:
    known = set(reference.split())
    return " ".join(_escaped(word) if word in known else f"**{_escaped(word)}**" for word in prediction.split()) or "(empty)"


def _escaped(text: str) -> str:
    """Escapes text so that Markdown shows it unchanged."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>()#+-.!|~&" else sign for sign in text.replace("\n", " "))


def _table(rows: Sequence[Sequence[str]], escaped: bool = False) -> str:
    lines = [[cell if escaped else _escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
