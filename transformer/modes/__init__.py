"""One function a mode: where all the rest meets."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from transformer.errors import UserError
from transformer.modes.ablate import ablate, report
from transformer.modes.alignment import align
from transformer.modes.costs import describe
from transformer.modes.lines import generate, predict, translate
from transformer.modes.pictures import attend
from transformer.modes.scoring import evaluate
from transformer.modes.training import train
from transformer.modes.weights import export_weights, import_weights
from transformer.runtime import hosts

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
    "report",
    "train",
    "translate",
]


TOGETHER = ("train", "evaluate")  # what several processes can do as one


def run(mode: str, config: Any, workdir: Path, overrides: Mapping[str, str], flags: Any) -> None:
    """The mode, with the flags that it has. `config`: what train and describe read, for ablate and report a study; the others
    have the workdir's own."""
    actions = {
        "train": lambda: train(config, workdir),
        "describe": lambda: describe(config, flags.devices, flags.memory_gib),
        "ablate": lambda: ablate(config, workdir, flags.dry_run, flags.workers),
        "report": lambda: report(config, workdir),
        "evaluate": lambda: evaluate(workdir, overrides, flags.split),
        "translate": lambda: translate(workdir, overrides, flags.input, flags.output),
        "predict": lambda: predict(workdir, overrides, flags.input, flags.output),
        "generate": lambda: generate(workdir, overrides, flags.prompt, flags.num_samples, flags.seed, flags.output),
        "align": lambda: align(workdir, overrides),
        "import": lambda: import_weights(workdir, overrides, flags.source),
        "export": lambda: export_weights(workdir, overrides, flags.output),
        "attend": lambda: attend(workdir, overrides, flags.source, flags.target, flags.output),
    }
    several = {name: flags[name].value for name in ("coordinator", "num_processes", "process_id")}
    given = [f"--{name}={value}" for name, value in several.items() if value is not None]
    if given and mode not in TOGETHER:
        raise UserError(f"--mode={mode} is for one process: leave {' '.join(given)} away")
    try:
        with hosts.joined(*several.values()) if mode in TOGETHER else contextlib.nullcontext():
            actions[mode]()
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(
                f"--mode={mode}: there is not enough memory; lower config.train.batch_tokens or .loss_chunk to train, "
                "config.search.batch_size to translate, or choose a smaller model"
            ) from error
        raise
