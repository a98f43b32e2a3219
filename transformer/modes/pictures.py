"""Figures: attention of a text, as PNG files and as an interactive page, and the figures of a finished run."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer import families, plots, registry, settings
from transformer.data import prepare
from transformer.errors import UserError, launcher, optional, say
from transformer.inference import loading, predict
from transformer.modes.common import file_name, kept_as, lines, reader
from transformer.runtime import workdir as workdirs
from transformer.runtime.workdir import Workdir
from transformer.training.telemetry import read_metrics

FURTHER = """
your own text, two files of sentences, DIR/train.en and DIR/train.de, and the same for validation and test:
  {command} --config=experiments/parallel_text.py --workdir=runs/mine --config.data.directory=DIR
your own question, arms with several seeds and a report; this prints the plan of one such study:
  {command} --mode=ablate --config=experiments/ablations/causal_mask.py --dry_run"""


def attend(
    path: Path, overrides: Mapping[str, str], source: str | None, target: str | None, output: str | None, input_: str | None
) -> None:
    """Draws the attention of one sentence, as figures and an interactive page, or of each line of `input_` on one page. The
    names of the files go to stdout. `target` none: the model's own output."""
    if input_ is None and (not source or not source.strip()):
        raise UserError("--mode=attend needs --source='a sentence', or --input=FILE with one on each line")
    if input_ is not None and (source is not None or target is not None):
        raise UserError(
            "--input: each line is a sentence, or a sentence, a tab and its target; leave --source and --target out"
        )
    workdir = workdirs.open_existing(path)
    folder = Path(output) if output else workdir.pictures
    workdirs.check_writable("--output" if output else "--workdir", output or path, folder)
    predictor = predict.load(path, overrides, "attend")
    pairs = [(source or "", target)] if input_ is None else _pairs(input_)
    if not output:
        text = source or "" if target is None else f"{source} {target}"
        name = text.strip() if input_ is None else Path(input_).stem
        folder /= kept_as(file_name(name), workdir.config(), predictor.config)[0]
    found = [attended(predictor, *pair) for pair in pairs]
    check_any(found, "--mode=attend")
    if input_ is None:
        _pictures(found[0], folder, lambda text: print(text, flush=True))
    print(_page(found, folder), flush=True)


def _pairs(input_: str) -> list[tuple[str, str | None]]:
    """Lines of a file, each a source or a source, a tab and a target. UserError: there is none."""
    with reader(input_) as file:
        rows = [line.split("\t", 1) for line in lines(file, input_) if line.strip()]
    if not rows:
        raise UserError(f"--input={input_}: it has no line with a sentence")
    return [(row[0], row[1] if len(row) > 1 else None) for row in rows]


@dataclasses.dataclass(frozen=True)
class Attended:
    """A title (a sentence or a pair) and its maps, or None if the model has no attention."""

    title: str
    maps: Sequence[loading.Map]


def attended(predictor: Any, source: str, target: str | None) -> Attended:
    """Attention while `target` is decoded; `target` none: the model's own output, if it has one."""
    if target is None and hasattr(predictor, "translate"):
        target = next(predictor.translate([source]))[0].text
    title = source if target is None else f"{source} → {target}"
    maps = predictor.attention(source, target)
    if maps:
        say(f"attention maps of: {title}")
        for notice in predictor.notices:
            say(notice)
    return Attended(title, maps)


def check_any(found: Sequence[Attended], where: str) -> None:
    """UserError, beginning with `where`: the model has no attention."""
    if not found[0].maps:
        raise UserError(f"{where}: this model has no attention to draw (config.model.recurrent.attention is none)")


def page(found: Sequence[Attended]) -> plots.AttentionPage:
    """The interactive page of attention."""
    return plots.AttentionPage(
        [
            (
                each.title,
                [plots.View(m.name, m.weights_LxHxTxS, m.across, m.down, m.name.startswith("decoder")) for m in each.maps],
            )
            for each in found
        ]
    )


def _page(found: Sequence[Attended], folder: Path) -> str:
    """Writes the page; returns the name of the file."""
    file = folder / "attention.html"
    page(found).save(file)
    return str(file)


def _pictures(found: Attended, folder: Path, tell: Callable[[str], None] = lambda text: None) -> None:
    """One figure of every layer and head for each stack, and one of the last layer's cross-attention."""
    for each in found.maps:
        file = folder / f"attention_{each.name.replace(' ', '_')}.png"
        plots.attention(each.weights_LxHxTxS, each.across, each.down, file, f"{each.name}: {found.title}")
        tell(str(file))
        if "cross" in each.name:
            file, caption = folder / "cross_attention.png", "cross-attention at each output token, last layer, mean of heads"
            plots.attention_map(each.weights_LxHxTxS[-1].mean(axis=0), each.across, each.down, file, caption)
            tell(str(file))


def show(
    workdir: Workdir,
    task: families.Task,
    splits: Mapping[str, prepare.Split],
    predictor: Any,
    outputs: Mapping[str, str],
) -> None:
    """Draws the figures of a finished run and prints commands to try next. `outputs`: known ones, by source."""
    with optional("picture of the learning curve"):
        curve = workdir.pictures / "learning_curve.png"
        plots.learning_curve(read_metrics(workdir.metrics_file), curve, title=workdir.path.name)
    some = next(splits[name] for name in ("test", "validation", "train") if name in splits).examples[:50]
    lines = [(line.strip(), e) for e in some for line in e[task.fields[0]][:5000].split("\n")]
    source, example = max(lines, key=lambda each: _readability(each[0]))
    target = example["text"] if task.fields[0] == "question" else None
    known = outputs.get(source) if hasattr(predictor, "translate") else None
    with optional("pictures of attention"):
        found = attended(predictor, source, target or known)
        if found.maps:
            _pictures(found, workdir.pictures)
            _page([found], workdir.pictures)
    launch, what = launcher(), shlex.quote(source)
    where, files = shlex.quote(str(workdir.path)), settings.sources(predictor.config)
    if files:
        where += f" --variants={shlex.quote(','.join(sorted(map(registry.short_name, files))))}"
    more = what if target is None else shlex.quote(f"{source}\t{target}")
    each = {
        "translate": f"echo {what} | {launch} --mode=translate --workdir={where}",
        "generate": f"{launch} --mode=generate --workdir={where} --prompt={what}",
        "predict": f"printf '%s\\n' {more} | {launch} --mode=predict --workdir={where}",
        "attend": f"{launch} --mode=attend --workdir={where} --source={what}"
        + ("" if target is None else f" --target={shlex.quote(target)}"),
        "evaluate": f"{launch} --mode=evaluate --workdir={where} --split={'validation' if 'validation' in splits else 'train'}",
    }
    shown = [line for mode, line in each.items() if mode in task.modes]
    say(
        f"\nsamples: {workdir.samples_file('test' if 'test' in splits else 'validation')}\n"
        f"pictures in {workdir.pictures}: {', '.join(sorted(file.name for file in workdir.pictures.iterdir()))}\nnext:\n"
        + "\n".join(f"  {line}" for line in [*shown, f"{launch} --help"])
    )
    if predictor.config.data.source == "number_words":
        say(FURTHER.format(command=launch))


def _readability(source: str) -> int:
    """How readable the attention map of a text is: best with about ten words."""
    return -abs(len(source.split()) - 10)
