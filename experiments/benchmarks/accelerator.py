"""All that is to be measured on an accelerator, in a few minutes, the most valuable first.

    python -m experiments.benchmarks.accelerator [--minutes=4] [--output=FILE.json] [--small]

In this order: ten updates of every family against the CPU's losses; fused attention against plain; the fused loss against
slices of logits; updates of Transformer-big and of decoders of 350 M and 1.3 B (jobs.py), with the share of the device's
published peak (their MFU), against `torch.compile` with torch's fused attention, whose rows have no mask of segments; decoding,
greedy and beam 4; eight seeds side by side (`vmap`); then studies with `--vmap_seeds`, in the folder `--studies`, while minutes
remain. `--steps` names some of them. What there is no time for, what fails, and a library that is not installed are left out,
and the others are measured all the same. The JSON file is written with every row, and a table is printed as soon as it is
complete. Needs no network and no data.
--small: toy sizes, to see on a laptop that all of it runs (give it --minutes=15); its times say nothing.
"""

import argparse
import dataclasses
import functools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks import jobs, race
from experiments.benchmarks.kernels import attention, families, loss
from experiments.benchmarks.session import Session, aside, timed
from transformer.errors import first_line

STUDIES = ("norm_order", "positions", "regularization", "attention_scale")
ROOT = Path(__file__).resolve().parents[2]


# --- what is measured --------------------------------------------------------------------------------------------------


def training(session: Session) -> None:
    """Updates of large models, ours and torch's."""
    import jax

    from transformer.runtime.devices import peak_flops

    title, peak, small = "updates in bf16", peak_flops(jax.devices()[:1]), session.small
    large = {
        "Transformer-big, packed rows of 512": lambda: jobs.translator(small),
        "decoder of 350 M, rows of 1,024": lambda: jobs.decoder(*(jobs.TOY if small else (24, 1024, 16, 1024, 50_304))),
        "decoder of 1.3 B, rows of 1,024": lambda: jobs.decoder(*(jobs.TOY if small else (24, 2048, 8, 1024, 50_304))),
    }

    def row(what: str, who: str, job: jobs.Job, seconds: list[float]) -> Mapping[str, Any]:
        median = statistics.median(seconds)
        rates = {"ms": 1e3 * median, "tokens/s": job.tokens / median, "TFLOP/s": job.flops / median / 1e12}
        share = {} if peak is None else {"share of the peak": job.flops / median / peak}
        return {"model": what, "contender": who, **rates, **share, "seconds": [round(each, 5) for each in seconds]}

    def ours(what: str, job: jobs.Job, backend: str, remat: str) -> None:
        who = f"ours, attention {backend}, remat {remat}"
        model = dataclasses.replace(job.config.model, attention_backend=backend, remat=remat)
        changed = dataclasses.replace(job, config=dataclasses.replace(job.config, model=model))
        session.part(title, f"{what}, {who}", 40, lambda: row(what, who, job, timed(jobs.ours(changed))))

    def theirs(what: str, job: jobs.Job) -> None:
        found = aside(jobs.torch, (job,), min(60, session.left - (0 if small else 60)))
        if isinstance(found, str):
            return session.leave_out(f"{title}: {what}, torch, compiled", found)
        session.part(title, f"{what}, torch, compiled", 0, lambda: row(what, "torch, compiled", job, found))

    made = {what: make() for what, make in large.items()}
    for turn in (
        lambda what, job: ours(what, job, "fused", "none"),
        theirs,
        lambda what, job: ours(what, job, "plain", "none"),
        lambda what, job: ours(what, job, "fused", "dots"),
    ):
        for what, job in made.items():
            turn(what, job)


def decoding(session: Session) -> None:
    """Transformer-big, 64 sentences of 24 tokens, 32 output tokens each, which the end is none of."""
    import numpy as np

    from transformer import families
    from transformer.config import Search as SearchSettings
    from transformer.data.objectives import Translate
    from transformer.inference.decoding import Search

    rows, source, length = (4, 8, 8) if session.small else (64, 24, 32)
    title, job = f"decoding, {rows} sentences, {length} output tokens", jobs.translator(session.small)
    config = dataclasses.replace(job.config, model=dataclasses.replace(job.config.model, logits_bias=True))
    model = families.FAMILIES["encoder_decoder"].model(config, job.data_info)
    params = families.init_params(model, Translate(source, length), seed=0)
    params["logits"]["bias"] = params["logits"]["bias"].at[job.data_info.end].add(-1e4)
    ids = np.random.default_rng(0).integers(4, job.entries, (rows, source)).tolist()

    def measure(beams: int) -> Mapping[str, Any]:
        asked = dataclasses.replace(config, search=SearchSettings(beam_size=beams, batch_size=rows, max_extra=length - source))
        search = Search(model, asked, job.data_info)
        seconds = timed(lambda: [each.tokens_BxNxL for _, each in search(params, ids, scored=False)], 3)
        values = {"ms": 1e3 * statistics.median(seconds), "output tokens/s": rows * length / statistics.median(seconds)}
        return {"search": "greedy" if beams == 1 else f"beam {beams}", **values}

    for beams in (1, 4):
        session.part(title, f"beam {beams}", 20, functools.partial(measure, beams))


def seeds(session: Session) -> None:
    """Updates of small decoders by one program, and one after the other."""
    title = f"an update of {jobs.SEEDS} seeds of a small decoder (2 layers, d_model 64)"
    job = jobs.decoder(2, 64, 8, 64, 500)

    def measure(name: str, together: bool) -> Mapping[str, Any]:
        seconds = statistics.median(timed(jobs.seeds(job, together), 2))
        return {"seeds": name, "ms": 1e3 * seconds, "tokens/s": jobs.SEEDS * job.tokens / seconds}

    for name, together in (("side by side", True), ("in turn", False)):
        session.part(title, name, 15, functools.partial(measure, name, together))


def studies(session: Session) -> None:
    """Trains runs of studies, which the same command resumes."""
    title = "studies"
    for name in STUDIES:
        if session.small or session.left < 30:
            session.leave_out(f"study {name}", "toy sizes" if session.small else "no time")
            continue
        command = [sys.executable, "launch.py", "--mode=ablate", f"--config=experiments/ablations/{name}.py"]
        command += [f"--workdir={session.studies / name}", f"--vmap_seeds={jobs.SEEDS}"]
        begin = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            process.wait(session.left - 15)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        done = "finished" if process.returncode == 0 else f"status {process.returncode}"
        session.row(title, study=name, seconds=time.monotonic() - begin, ended=done, workdir=str(session.studies / name))


STEPS: Mapping[Callable[[Session], None], float] = {  # and the seconds without which one is not begun
    families: 30,
    attention: 20,
    loss: 20,
    training: 40,
    decoding: 30,
    seeds: 20,
    studies: 30,
}


def main(arguments: list[str] | None = None) -> None:
    """Takes the steps while there is time."""
    names = {step.__name__: (step, least) for step, least in STEPS.items()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="that all of it may take")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--studies", type=Path, default=Path("runs/accelerator"), help="folder of the studies' workdirs")
    parser.add_argument("--steps", default=",".join(names), help="some of them, between commas")
    parser.add_argument("--small", action="store_true", help="toy sizes: does it run?")
    asked = parser.parse_args(arguments)
    if wrong := [name for name in asked.steps.split(",") if name not in names]:
        parser.error(f"--steps: {', '.join(wrong)}: not one of {', '.join(names)}")
    end = time.monotonic() + 60 * asked.minutes
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share the device's memory
    import jax

    kind = jax.devices()[0].device_kind
    machine = {"device": kind, "devices": jax.device_count(), "processor": race.processor(), "versions": race.versions()}
    session = Session(asked.small, end, asked.output, asked.studies.absolute(), machine)
    for step, least in (names[name] for name in asked.steps.split(",")):
        if session.left < (0 if asked.small else least):
            session.leave_out(step.__name__, "no time")
            continue
        before = set(session.tables)
        try:
            step(session)
        except Exception as error:  # the other steps say something all the same
            session.leave_out(step.__name__, f"{type(error).__name__}: {first_line(error)}")
        for title in session.tables:
            if title not in before:
                session.show(title)
    print(f"{kind}, {', '.join(f'{name} {version}' for name, version in machine['versions'].items())}")
    for what, why in session.left_out.items():
        print(f"left out: {what}: {why}")


if __name__ == "__main__":
    main()
