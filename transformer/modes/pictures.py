"""Attention maps of one text, as PNG files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformer import plots
from transformer.errors import UserError, say
from transformer.inference import predict
from transformer.runtime import workdir as workdirs


def attend(path: Path, overrides: Mapping[str, str], source: str | None, target: str | None, output: str | None) -> None:
    """Attention maps of one sentence, whose files' names go to stdout. `target` none: what the model says, if it does."""
    if not source or not source.strip():
        raise UserError("--mode=attend needs --source='a sentence'")
    workdir = workdirs.open_existing(path)
    predictor = predict.load(path, overrides, "attend")
    folder = Path(output) if output else workdir.pictures
    if not draw_attention(predictor, source, target, folder, lambda text: print(text, flush=True)):
        raise UserError("--mode=attend: this model has no attention to draw (config.model.recurrent.attention is none)")


def draw_attention(
    predictor: Any, source: str, target: str | None, folder: Path, tell: Callable[[str], None] = lambda text: None
) -> bool:
    """One picture a stack with every layer and head, and one of the last layer's cross-attention. False: there is none."""
    if target is None and hasattr(predictor, "translate"):
        target = next(predictor.translate([source]))[0].text
    title = source if target is None else f"{source} → {target}"
    maps = predictor.attention(source, target)
    if not maps:
        return False
    say(f"attention maps of: {title}")
    for notice in predictor.notices:
        say(notice)
    for each in maps:
        file = folder / f"attention_{each.name.replace(' ', '_')}.png"
        plots.attention(each.weights_LxHxTxS, each.across, each.down, file, f"{each.name}: {title}")
        tell(str(file))
        if "cross" in each.name:
            file, caption = (
                folder / "cross_attention.png",
                "cross-attention while each token is said, last layer, mean of heads",
            )
            plots.attention_map(each.weights_LxHxTxS[-1].mean(axis=0), each.across, each.down, file, caption)
            tell(str(file))
    return True
