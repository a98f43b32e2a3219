"""Fake trainers that write the files of `modes.train` at once: a number to which each update adds, saved after each update."""

import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from transformer import settings
from transformer.config import Config
from transformer.runtime.workdir import Workdir, write_json
from transformer.training.loop import Stop
from transformer.training.telemetry import read_metrics


def nll(config: Config) -> float:
    """What a whole run ends at: of the seed, the width, and the learning rate, 0.3 being the best."""
    rate = 0.3 if config.train.learning_rate is None else config.train.learning_rate
    return sum(1 / (step + config.model.d_model) for step in range(config.train.steps)) + config.train.seed + abs(rate - 0.3)


def train(config: Config, path: Path) -> None:
    """A setting that nothing else here reads selects the behaviour: continue, fail, be killed, diverge, or be slow."""
    workdir, does = Workdir(path), config.data.source_language
    path.mkdir(exist_ok=True)
    write_json(workdir.config_file, settings.to_dict(config))
    with (path / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if does == "fail":
        raise ZeroDivisionError("nothing to\ndivide by")
    if does == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    rows = read_metrics(workdir.metrics_file)
    total = rows[-1]["total"] if rows else 0.0
    with Stop() as stop, workdir.metrics_file.open("a") as file:
        for step in range(len(rows), config.train.steps):
            total += 1 / (step + config.model.d_model)
            loss = "null" if does == "diverge" and step > 0 else str(total)
            file.write(f'{{"step": {step + 1}, "train/loss": {loss}, "total": {total}, "time": {step}.0}}\n')
            file.flush()
            time.sleep(float(os.environ.get("PAUSE", 0)) if does == "slow" else 0)
            if stop:
                return
    (workdir.checkpoints / str(config.train.steps)).mkdir(parents=True, exist_ok=True)
    new, end = max(config.train.steps - len(rows), 0), nll(config)
    (path / "trained").write_text(str(new))
    if new:
        workdir.samples_file("test").parent.mkdir(exist_ok=True)
        workdir.samples_file("test").write_text("said\n")
    with workdir.metrics_file.open("a") as file:
        for value in (end - 1, end) if new and config.data.validation else ():
            file.write(f'{{"step": {config.train.steps}, "validation/nll": {value}, "total": {total}, "time": 9.0}}\n')
    split = "validation" if config.data.test is None else "test"
    if config.data.test is config.data.validation is None:
        return
    write_json(workdir.evaluation_file(split), {"scores": {"nll": end + 0.5, "bleu": 100 - end, "perplexity": None}})


def count_threads(config: Config, path: Path) -> None:
    """Writes with how many threads XLA computes on the CPU."""
    jax.block_until_ready(jnp.ones((8, 8)) @ jnp.ones((8, 8)))
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    path.write_text(str(names.count("tf_XLAEigen")))


def trained(folder: Path) -> int:
    """How many updates a run did when it was last started."""
    return int((folder / "trained").read_text())


def starts(folder: Path) -> list[int]:
    """The processes of a run, as many as it has begun."""
    return [int(line) for line in (folder / "starts").read_text().split()]
