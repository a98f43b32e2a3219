"""All that is to be measured on an accelerator, in a few minutes, the most valuable first.

    python -m experiments.benchmarks.accelerator [--minutes=4] [--output=FILE.json] [--small]

In this order: ten updates of every family against the CPU's losses; fused attention against plain; updates of
Transformer-big and of decoders of 350 M and 1.3 B (jobs.py), with the share of the device's published peak (their MFU), against
`torch.compile` with torch's fused attention, whose rows have no mask of segments; decoding, greedy and beam 4; eight seeds side
by side (`vmap`); then studies with `--vmap_seeds`, in the folder `--studies`, while minutes remain. `--steps` names some of
them. What there is no time for is left out, and so is a library that is not installed. A table is printed, and the JSON file
written, as soon as there is one. Needs no network and no data.
--small: toy sizes, to see on a laptop that all of it runs; its times say nothing.
"""

import argparse
import dataclasses
import gc
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.benchmarks import jobs, race
from transformer.errors import first_line, say

UPDATES = 10
STUDIES = ("norm_order", "positions", "regularization", "attention_scale")
ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Session:
    """What was asked for, the time that is left, and what was found so far: rows by the title of their table."""

    small: bool
    end: float
    output: Path | None
    studies: Path
    machine: Mapping[str, Any]
    tables: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def row(self, title: str, **values: Any) -> None:
        """Adds a row to a table, and writes the file."""
        self.tables.setdefault(title, []).append(values)
        say(f"[{self.left:,.0f} s left] {title}: {', '.join(f'{name} {_shown(value)}' for name, value in values.items())}")
        self._write()

    def leave_out(self, what: str, why: str) -> None:
        self.left_out[what] = why
        say(f"left out: {what}: {why}")
        self._write()

    def show(self, title: str) -> None:
        """Prints a table."""
        rows = self.tables.get(title, [])
        names = list(dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, list)))
        table = Table(*names, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(_shown(row.get(name, "")) for name in names))
        Console(width=160).print(table)

    def _write(self) -> None:
        if self.output is not None:
            found = {"machine": self.machine, "small": self.small, "tables": self.tables, "left_out": self.left_out}
            new = self.output.with_suffix(".new")
            new.write_text(json.dumps(found, indent=1) + "\n")
            new.replace(self.output)


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def timed(turn: Callable[[], Any], seconds: float = 6.0) -> list[float]:
    """Seconds of each turn after two: at least three, and as many as fit in `seconds`, ten at most."""
    found: list[float] = []
    for number in range(12):
        begin = time.perf_counter()
        turn()
        if number > 1:
            found.append(time.perf_counter() - begin)
        if len(found) >= 3 and sum(found) > seconds:
            break
    return found


def free() -> None:
    """Gives back what a contender held."""
    import jax

    gc.collect()
    jax.clear_caches()


# --- what is measured --------------------------------------------------------------------------------------------------


def families(session: Session) -> None:
    """Losses of the same updates from the same state, here and on the CPU."""
    import jax
    import numpy as np

    from transformer.components import fused
    from transformer.runtime.devices import Runtime

    title = f"{UPDATES} updates of tiny models in fp32, against the CPU"
    for name in ("encoder_decoder", "decoder_only", "encoder_only", "recurrent"):
        losses = {}
        job = jobs.family(name)
        first: Any = None
        for device, backend in ((jax.devices("cpu")[0], "plain"), (jax.devices()[0], "auto")):
            model = dataclasses.replace(job.config.model, attention_backend=backend)
            config = dataclasses.replace(job.config, model=model)
            step, init = jobs.parts(dataclasses.replace(job, config=config))
            with jax.default_device(device), fused.choices() as chosen:
                first = jax.device_get(init(0)) if first is None else first
                runtime = Runtime(jobs.ONE, [device])
                update, placed = runtime.compile_train(step), runtime.place_batch(jobs.batch(job))
                state = runtime.place_state(first)
                found = []
                for _ in range(UPDATES):
                    state, metrics = update(state, placed)
                    found.append(runtime.fetch(metrics)["loss_sum"])
            losses[backend] = np.asarray(found)
        difference = float(np.max(np.abs(losses["auto"] / losses["plain"] - 1)))
        attention = "; ".join(f"{where}: {', '.join(each)}" for where, each in chosen.items()) or "plain"
        values = {"first loss": float(losses["auto"][0]), "last loss": float(losses["auto"][-1])}
        session.row(title, family=name, **values, **{"greatest relative difference": difference, "attention": attention})
    session.show(title)


def forward_and_backward(pairs: Any, backend: Any, dtype: Any) -> Callable[..., Any]:
    """Attention of queries, keys and values: gradients of the sum of squares, and the outputs."""
    import jax
    import jax.numpy as jnp

    from transformer.components.attention import Backend, attend

    def total(query: Any, key: Any, value: Any) -> Any:
        heads = attend(query, key, value, pairs, backend=Backend(backend, dtype=dtype))
        return jnp.sum(heads.astype(jnp.float32) ** 2), heads

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))


def attention(session: Session) -> None:
    """One attention, forward and backward, in bf16; errors are those to plain attention in fp32."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from transformer.components import fused
    from transformer.components.masks import All, Causal, Pairs, Sizes, Tokens

    title = "attention, forward and backward, 16 heads of 64, bf16"
    shapes = {"packed texts of 32": (48, 512, 32, All()), "causal": (8, 2048, 2048, Causal())}
    if session.small:
        shapes = {"packed texts of 32": (2, 128, 32, All()), "causal": (2, 128, 128, Causal())}
    for what, (rows, slots, text, mask) in shapes.items():
        own = np.broadcast_to(np.arange(slots, dtype=np.int32), (rows, slots))
        tokens = Tokens(jnp.asarray(own % text), jnp.asarray(own // text + 1))
        pairs = Pairs(tokens, tokens, mask=mask, sizes=Sizes(1024, 16, 16, 64, 64, 0), aligned=True)
        draw = np.random.default_rng(0)
        arrays = [jnp.asarray(draw.normal(size=(rows, slots, 16, 64)), jnp.bfloat16) for _ in range(3)]
        exact: Any = None
        for backend, dtype in (("plain", jnp.float32), ("fused", jnp.bfloat16), ("plain", jnp.bfloat16)):
            both = forward_and_backward(pairs, backend, dtype)
            given = [each.astype(dtype) for each in arrays]
            with fused.choices() as chosen:
                found = jax.tree.map(lambda x: np.asarray(x, np.float32), both(*given))
            if dtype == jnp.float32:
                exact = found
                continue
            same = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
            errors = [float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in same]
            seconds = timed(lambda both=both, given=given: jax.block_until_ready(both(*given)), 1)
            values = {"ms": 1e3 * statistics.median(seconds), "error of outputs": errors[-1]}
            values["error of gradients"] = max(errors[:-1])
            by = ", ".join(*chosen.values()) if chosen else backend
            session.row(title, rows=f"{what}, {rows} x {slots}", backend=backend, by=by, **values)
    session.show(title)


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

    def row(what: str, who: str, job: jobs.Job, seconds: list[float]) -> None:
        median = statistics.median(seconds)
        rates = {"ms": 1e3 * median, "tokens/s": job.tokens / median, "TFLOP/s": job.flops / median / 1e12}
        share = {} if peak is None else {"share of the peak": job.flops / median / peak}
        session.row(title, model=what, contender=who, **rates, **share, seconds=[round(each, 5) for each in seconds])

    def ours(what: str, job: jobs.Job, backend: str, remat: str) -> None:
        who = f"ours, attention {backend}, remat {remat}"
        if not small and session.left < 40:
            return session.leave_out(f"{what}, {who}", "no time")
        model = dataclasses.replace(job.config.model, attention_backend=backend, remat=remat)
        changed = dataclasses.replace(job, config=dataclasses.replace(job.config, model=model))
        try:
            row(what, who, job, timed(jobs.ours(changed)))
        except Exception as error:  # such as a device that does not hold it
            session.leave_out(f"{what}, {who}", first_line(error))
        free()

    def theirs(what: str, job: jobs.Job) -> None:
        found = aside(jobs.torch, (job,), min(60, session.left - 60))
        if isinstance(found, str):
            return session.leave_out(f"{what}, torch, compiled", found)
        row(what, "torch, compiled", job, found)

    made = {what: make() for what, make in large.items()}
    for turn in (
        lambda what, job: ours(what, job, "fused", "none"),
        theirs,
        lambda what, job: ours(what, job, "plain", "none"),
        lambda what, job: ours(what, job, "fused", "dots"),
    ):
        for what, job in made.items():
            turn(what, job)
    session.show(title)


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
    for beams in (1, 4):
        asked = dataclasses.replace(config, search=SearchSettings(beam_size=beams, batch_size=rows, max_extra=length - source))
        search = Search(model, asked, job.data_info)
        seconds = timed(lambda search=search: [each.tokens_BxNxL for _, each in search(params, ids, scored=False)], 3)
        median = statistics.median(seconds)
        values = {"ms": 1e3 * median, "output tokens/s": rows * length / median}
        session.row(title, search="greedy" if beams == 1 else f"beam {beams}", **values)
    session.show(title)
    free()


def seeds(session: Session) -> None:
    """Updates of small decoders by one program, and one after the other."""
    title = f"an update of {jobs.SEEDS} seeds of a small decoder (2 layers, d_model 64)"
    job = jobs.decoder(2, 64, 8, 64, 500)
    for together in (True, False):
        seconds = statistics.median(timed(jobs.seeds(job, together), 2))
        values = {"ms": 1e3 * seconds, "tokens/s": jobs.SEEDS * job.tokens / seconds}
        session.row(title, seeds="side by side" if together else "in turn", **values)
    session.show(title)
    free()


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
    session.show(title)


# --- contenders of their own -------------------------------------------------------------------------------------------


def aside(make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], seconds: float) -> list[float] | str:
    """`timed(make(*arguments))` in a process of its own; or why not: it fails, or takes longer than `seconds`."""
    if seconds <= 0:
        return "no time"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_aside, args=(theirs, make, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else f"not done in {seconds:.0f} s"
    except EOFError:
        return "its process died"
    finally:
        process.kill()
        process.join()


def _aside(pipe: Any, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send(timed(make(*arguments)))
    except ImportError as error:
        pipe.send(f"{error.name} is not installed")
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {first_line(error)}")


STEPS: Mapping[Callable[[Session], None], float] = {  # and the seconds without which one is not begun
    families: 30,
    attention: 20,
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
        if not asked.small and session.left < least:
            session.leave_out(step.__name__, "no time")
            continue
        try:
            step(session)
        except Exception as error:  # the other steps say something all the same
            session.leave_out(step.__name__, f"{type(error).__name__}: {first_line(error)}")
    print(f"{kind}, {', '.join(f'{name} {version}' for name, version in machine['versions'].items())}")
    for what, why in session.left_out.items():
        print(f"left out: {what}: {why}")


if __name__ == "__main__":
    main()
