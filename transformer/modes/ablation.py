"""Studies: trains missing runs and compares all runs, or only writes the report of existing results."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Literal

import jax

from transformer.config import Config, Parallel
from transformer.errors import UserError, counted, say
from transformer.modes.scoring import check_evaluate, reported
from transformer.modes.training import train, train_vmapped
from transformer.runtime.lock import only_run
from transformer.studies import plan as plans
from transformer.studies import report as reports
from transformer.studies import resampling, runs
from transformer.studies.study import Study, arm_configs
from transformer.studies.workers import Processes, joined
from transformer.training.optimizer import warm_up_warning


def ablate(
    study: Study,
    workdir: Path,
    dry_run: Literal["plan", "measure"] | None = None,
    workers: int | None = None,
    ray: str | None = None,
    vmap_seeds: int = 1,
) -> None:
    """Trains the missing runs of a study in `workdir`, and writes results.csv and the report; exit status 1 if some failed.

    `workers` runs at a time (default 1), or on the Ray cluster at an address (default: as many as it has room for). With
    `vmap_seeds`, this many seeds of an arm count as one run: one program makes their updates. A dry run only prints the plan:
    what would be trained, its cost and the differences that it can find; "measure": also the time on this machine, from a few
    updates of each arm. UserError: `vmap_seeds` on a cluster, with batches of several shapes, or with settings of
    `config.parallel`.
    """
    if vmap_seeds > 1:
        _check_together(study, ray)
    jax.config.update("jax_platforms", "cpu")  # the runs use the devices; this process only counts
    if workers and workers > 1 and ray is None:
        os.environ.setdefault(
            "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
        )  # otherwise the first run takes all memory of an accelerator
    plan = plans.make(study, reported)
    for arm, config in plan.configs.items():
        check_evaluate(config)
        for warning in warm_up_warning(config.train, config.model):
            say(f"arm {arm!r}: {warning}")
    if dry_run == "measure":
        paces = {}
        for number, (arm, config) in enumerate(plan.configs.items(), 1):
            say(f"measuring arm {number} of {len(plan.configs)}, {arm}")
            paces[arm] = runs.measure(config, _train)
        print(plans.table(plan, paces, workers or 1))
        return
    if dry_run:
        print(plans.table(plan))
        return
    with (
        contextlib.nullcontext(Processes(workers or 1, vmap_seeds, train_vmapped))
        if ray is None
        else joined(ray, workers) as place
    ):
        with only_run(workdir):
            pass  # a workdir that cannot be used is reported before the plan, in one line
        say(f"{plans.table(plan)}\neach run is a workdir in {workdir / 'runs'}; its output is in a .log next to it\n")
        results = runs.run_all(plan, workdir, _train, place)
    resampling.write(plan, workdir, results.outcomes)
    if results.stopped:
        say(f"stopped, {counted(len(results.outcomes), 'run')} done; the same command resumes there")
        return
    if failed := [run.arm for run, found in results.outcomes.items() if found.status == "failed"]:
        say(f"failed: {counted(len(failed), 'run')}, of {', '.join(dict.fromkeys(failed))}; the same command tries them again")
    if any(run.part == "study" for run in results.outcomes):  # else each arm's search lacks a run
        report(study, workdir)
    if failed:
        sys.exit(1)


def _train(config: Config, path: Path) -> None:
    """A run of a study, in a process of its own."""
    train(config, path, pictures=False)


def _check_together(study: Study, ray: str | None) -> None:
    if ray is not None:
        raise UserError("--vmap_seeds and --ray: on a cluster each seed has a process of its own; leave one of them out")
    for arm, config in arm_configs(study).items():
        if config.parallel != Parallel():
            raise UserError(
                f"--vmap_seeds: config.parallel of arm {arm!r} would have no effect, as devices are shared by seeds; leave its "
                "settings at their defaults, or leave the flag out"
            )
        if config.data.batching == "bucketed" and config.data.buckets > 1:
            raise UserError(
                f"--vmap_seeds: batches of arm {arm!r} have {config.data.buckets} shapes (config.data.buckets), and seeds "
                "would not have the same one at an update; set config.base.data.batching=packed or config.base.data.buckets=1, "
                "or leave the flag out"
            )


def report(study: Study, workdir: Path) -> None:
    """Writes the report of the results.csv in a folder into that folder, and prints its verdicts. UserError: there is none, or
    it belongs to another study."""
    for sentence in reports.write(study, workdir):
        print(sentence)
    say(f"report: {workdir / 'report.md'}, report.html, figure.png and .svg; tables: summary.csv and .tex, curves.csv")
