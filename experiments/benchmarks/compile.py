"""Time from Python to machine code of a training step, by depth; and the start of `--mode=translate`.

    python -m experiments.benchmarks.compile [--workdir=DIR]

Layers are scanned, so depth should cost nothing: 2+2, 6+6 and 24+24 layers, with `unroll` 1 and 3 (as in train_step.py),
otherwise with the settings of train_step.py. Each turn traces, lowers and compiles again. With --workdir, the workdir of a
trained model, also the seconds of a whole process of `python launch.py --mode=translate` with one line.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

from experiments.benchmarks import race
from experiments.benchmarks.race import Contender
from experiments.benchmarks.train_step import CONFIG, MODEL, build
from transformer.config import Config

DEPTHS = (2, 6, 24)


def compiled(config: Config) -> Callable[[], None]:
    """Traces, lowers and compiles a training step."""
    import jax

    step, init, batch = build(config)
    state = jax.eval_shape(init)

    def turn() -> None:
        jax.clear_caches()
        jax.jit(step, donate_argnums=0).trace(state, batch).lower().compile()

    return turn


def started(workdir: str) -> Callable[[], None]:
    """A process that translates a line."""

    def turn() -> None:
        command = [sys.executable, "launch.py", "--mode=translate", f"--workdir={workdir}"]
        subprocess.run(command, input="one\n", text=True, check=True, capture_output=True, env=os.environ)

    return turn


def main() -> None:
    """Prints a table for the step, and one for the start."""
    parser = race.arguments(__doc__, rounds=5)
    parser.add_argument("--workdir", help="of a trained model")
    asked = parser.parse_args()
    contenders = {}
    for unroll in (1, 3):
        for depth in DEPTHS:
            model = dataclasses.replace(MODEL, num_encoder_layers=depth, num_decoder_layers=depth, unroll=min(unroll, depth))
            contenders[f"{depth}+{depth} layers, unroll {unroll}"] = Contender(
                compiled, (dataclasses.replace(CONFIG, model=model),)
            )
    times = race.take_turns(contenders, asked.rounds, 1, asked.threads)
    race.report("Trace, lower and compile a training step", times, contenders, asked.threads, asked.output)
    if asked.workdir:
        contenders = {"one line": Contender(started, (asked.workdir,))}
        times = race.take_turns(contenders, asked.rounds, 1, asked.threads)
        race.report("Start of --mode=translate, with a warm compilation cache", times, contenders, asked.threads, None)


if __name__ == "__main__":
    main()
