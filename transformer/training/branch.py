"""Resuming a run with other settings, and branches of a run in new workdirs: past updates must stay the same.

A run with the settings of its workdir would have made the same updates: a change of the learning rates of the past is refused.
A branch begins with a copy of another run's past. To train further or to let the learning rate decay, branch from a checkpoint
of the stable phase of a `wsd` schedule (Hu et al. 2024; Hägele et al. 2024).
"""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from transformer import settings
from transformer.config import Config
from transformer.errors import UserError, no_failure, say
from transformer.files import new_file, new_folder
from transformer.runtime import workdir as workdirs
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.workdir import Workdir
from transformer.training import optimizer

# Settings in which a branch may differ from its origin, in addition to the free ones.
OWN = ("train.schedule", "train.branch_from", "train.branch_step")


def rates(config: Config, updates: int) -> np.ndarray:
    """The learning rates of the first updates."""
    return np.asarray(jax.vmap(optimizer.make_schedule(config.train, config.model))(jnp.arange(updates)))


def check_past(old: Config, new: Config, done: int, where: str) -> None:
    """UserError: with the settings `new` the first `done` updates would have had other learning rates than with `old`."""
    before, after = rates(old, done), rates(new, done)
    if not (changed := np.flatnonzero(before != after)).size:
        return
    first = int(changed[0])
    names = [line for line in settings.differences(old, new, free=True) if line.startswith("train.")]
    raise UserError(
        f"{where}: config.{', config.'.join(names)} would change the learning rate of past updates (update "
        f"{first + 1:,} had {before[first]:.4g} and would have {after[first]:.4g}); set the old value, choose another "
        "--workdir, or use config.train.schedule=wsd and branch from a checkpoint before its decay (config.train.branch_from)"
    )


def begin(config: Config, workdir: Workdir, checkpoints: Checkpoints) -> None:
    """With `train.branch_from`, copies the past of the other run, up to update `train.branch_step`, into a workdir that has
    not begun. UserError: that checkpoint is missing or damaged, or this run's past would have been different."""
    origin, step = config.train.branch_from, config.train.branch_step
    if origin is None or step is None or (checkpoints.latest() or 0) >= step:
        return
    other = workdirs.open_existing(Path(origin).expanduser())
    made, where = other.config(), f"config.train.branch_from {origin}"
    fixed = [line for line in settings.differences(made, config) if line.split(":")[0] not in OWN]
    if fixed:
        raise UserError(f"{where}: it was made with other settings: {', '.join(fixed)}; set the old values")
    check_past(made, config, step, where)
    theirs = Checkpoints(other.checkpoints, made.checkpoint)
    steps = theirs.steps()
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise UserError(
            f"{where}: it has no checkpoint of step {step} (config.train.branch_step), only {known}; "
            "a larger config.checkpoint.keep_last keeps more"
        )
    if problem := theirs.problem(step):
        raise UserError(f"{where}: checkpoint {step} is damaged ({problem}); choose another config.train.branch_step")
    with no_failure(where, "copied"):
        for file in (
            "data_info_file",
            "record_file",
            "metrics_file",
        ):  # metrics of later updates are dropped when training begins
            if getattr(other, file).exists():
                with new_file(getattr(workdir, file)) as new:
                    shutil.copyfile(getattr(other, file), new)
        if not workdir.vocabulary.is_dir():
            with new_folder(workdir.vocabulary) as new:
                shutil.copytree(other.vocabulary, new, dirs_exist_ok=True)
        for each in steps:  # ascending: the branch starts from the last one
            target = checkpoints.folder / str(each)
            if each <= step and theirs.problem(each) is None and not target.exists():
                with new_folder(target) as new:
                    shutil.copytree(theirs.folder / str(each), new, dirs_exist_ok=True)
    theirs.close()
    say(f"branches from {origin} after step {step:,}")
