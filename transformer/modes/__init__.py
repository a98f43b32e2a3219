"""One function for each mode. A function and its dependencies are imported when it is first used."""

import contextlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from transformer.errors import UserError, say
from transformer.runtime import compilation_cache, hosts

HOMES = {  # function -> file
    "ablate": "ablation",
    "align": "alignment",
    "attend": "pictures",
    "check": "checking",
    "compare": "comparison",
    "describe": "costs",
    "evaluate": "scoring",
    "export_weights": "weights",
    "generate": "lines",
    "import_weights": "weights",
    "predict": "lines",
    "report": "ablation",
    "train": "training",
    "translate": "lines",
}
TOGETHER = ("train", "evaluate")  # modes that can run as several processes


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)


def run(mode: str, config: Any, workdir: Path, overrides: Mapping[str, str], flags: Any, notices: Sequence[str] = ()) -> None:
    """Runs a mode with its flags. `config`: the settings for train, describe and check, and a study for ablate and report;
    the other modes read those of the workdir. `notices`: messages for the user about these settings."""
    modes: Any = sys.modules[__name__]
    actions = {
        "train": lambda: modes.train(config, workdir, flags.profile, notices=notices),
        "describe": lambda: (modes.describe(config, flags.devices, flags.memory_gib), *map(say, notices)),
        "check": lambda: (modes.check(config), *map(say, notices)),
        "ablate": lambda: modes.ablate(config, workdir, flags.dry_run, flags.workers, flags.ray, flags.vmap_seeds),
        "compare": lambda: modes.compare(flags.workdir.split(",") if flags.workdir else [], flags.split, flags.output),
        "report": lambda: modes.report(config, workdir),
        "evaluate": lambda: modes.evaluate(workdir, overrides, flags.split),
        "translate": lambda: modes.translate(workdir, overrides, flags.input, flags.output),
        "predict": lambda: modes.predict(workdir, overrides, flags.input, flags.output),
        "generate": lambda: modes.generate(workdir, overrides, flags.prompt, flags.num_samples, flags.seed, flags.output),
        "align": lambda: modes.align(workdir, overrides),
        "import": lambda: modes.import_weights(workdir, overrides, flags.source),
        "export": lambda: modes.export_weights(workdir, overrides, flags.output),
        "attend": lambda: modes.attend(workdir, overrides, flags.source, flags.target, flags.output, flags.input),
    }
    several = [flags[name].value for name in ("coordinator", "num_processes", "process_id")]
    try:
        with hosts.joined(*several) if mode in TOGETHER else contextlib.nullcontext():
            compilation_cache.enable()
            actions[mode]()
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(
                f"--mode={mode}: there is not enough memory; lower config.train.batch_tokens or .loss_chunk to train, "
                "config.search.batch_size to translate, or choose a smaller model"
            ) from error
        raise
