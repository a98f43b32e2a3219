"""One function a mode: where all the rest meets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer.modes.ablate import ablate
from transformer.modes.alignment import align
from transformer.modes.costs import describe
from transformer.modes.lines import generate, predict, translate
from transformer.modes.pictures import attend
from transformer.modes.scoring import evaluate
from transformer.modes.training import train
from transformer.modes.weights import export_weights, import_weights

__all__ = [
    "ablate",
    "align",
    "attend",
    "describe",
    "evaluate",
    "export_weights",
    "generate",
    "import_weights",
    "predict",
    "train",
    "translate",
]


def run(mode: str, config: Any, workdir: Path, overrides: Mapping[str, str], flags: Any) -> None:
    """The mode, with the flags that it has. `config`: what train and describe read, a study for ablate; the others have the
    workdir's own."""
    actions = {
        "train": lambda: train(config, workdir),
        "describe": lambda: describe(config),
        "ablate": lambda: ablate(config, workdir, flags.dry_run, flags.workers),
        "evaluate": lambda: evaluate(workdir, overrides, flags.split),
        "translate": lambda: translate(workdir, overrides, flags.input, flags.output),
        "predict": lambda: predict(workdir, overrides, flags.input, flags.output),
        "generate": lambda: generate(workdir, overrides, flags.prompt, flags.num_samples, flags.seed, flags.output),
        "align": lambda: align(workdir, overrides),
        "import": lambda: import_weights(workdir, overrides, flags.source),
        "export": lambda: export_weights(workdir, overrides, flags.output),
        "attend": lambda: attend(workdir, overrides, flags.source, flags.target, flags.output),
    }
    actions[mode]()
