"""An update on 1 to 8 devices, and the exchange of gradients and the placement of a batch by themselves.

    python -m experiments.benchmarks.scaling [--devices=1,2,4,8] [--batch=64] [--mode=pmap|mesh] [--real]

The model is that of train_step.py; a batch of `--batch` rows is divided over the devices. Without --real the devices are
simulated on the CPU and share its cores, so nothing gets faster, and the times show the cost of the division. With --real they
are the first devices of an accelerator; larger batches show how well a device is used.
"""

from collections.abc import Callable
from typing import Any

from experiments.benchmarks import race
from experiments.benchmarks.race import Contender
from experiments.benchmarks.train_step import CONFIG, T, build, updates
from transformer.config import Parallel
from transformer.runtime.memory import keep_freed_memory


def runtime(count: int, mode: str, real: bool) -> Any:
    """Of so many devices; one is jit's."""
    keep_freed_memory()
    import jax

    from transformer.runtime import devices

    if not real:
        devices.simulate(count)
    return devices.Runtime(Parallel(mode="jit" if count == 1 else mode), jax.devices()[:count])  # type: ignore[arg-type]


def update(count: int, mode: str, real: bool, rows: int) -> Callable[[], None]:
    """As the trainer's, the batch placed in the turn."""
    used = runtime(count, mode, real)
    return updates(CONFIG, *build(CONFIG, rows), used)


def exchange(count: int, mode: str, real: bool) -> Callable[[], None]:
    """A mean over the devices of arrays with the shapes of the gradients."""
    used = runtime(count, mode, real)
    import jax
    import jax.numpy as jnp

    shapes = jax.tree.leaves(jax.eval_shape(build(CONFIG)[1]).params)
    given = [jnp.ones((count, *leaf.shape), leaf.dtype) for leaf in shapes]
    mean: Any = jax.pmap(lambda leaves: jax.lax.pmean(leaves, "d"), axis_name="d", devices=used.devices)
    given = mean(given)  # one on each

    def turn() -> None:
        jax.block_until_ready(mean(given))

    return turn


def placing(count: int, mode: str, real: bool, rows: int) -> Callable[[], None]:
    """A batch to the devices."""
    used, (_, _, batch) = runtime(count, mode, real), build(CONFIG, rows)
    import jax

    def turn() -> None:
        jax.block_until_ready(used.place_batch(batch))

    return turn


def main() -> None:
    """Races them and prints the table."""
    parser = race.arguments(__doc__)
    parser.add_argument("--devices", default="1,2,4,8", help="how many, with commas")
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch, of all devices together")
    parser.add_argument("--mode", choices=("pmap", "mesh"), default="pmap", help="of several devices")
    parser.add_argument("--real", action="store_true", help="an accelerator's devices")
    asked = parser.parse_args()
    contenders = {}
    for count in map(int, asked.devices.split(",")):
        device, chosen = f"{count} device{'s' * (count > 1)}", (count, asked.mode, asked.real)
        contenders[f"{device}: update"] = Contender(update, (*chosen, asked.batch), {"target tokens/s": asked.batch * T})
        contenders[f"{device}: placing alone"] = Contender(placing, (*chosen, asked.batch))
        if count > 1:
            contenders[f"{device}: exchange alone"] = Contender(exchange, chosen)
    times = race.take_turns(contenders, asked.rounds, 2, asked.threads)
    title = f"One update of {asked.batch} rows, {asked.mode}, {'real' if asked.real else 'simulated'} devices"
    race.report(title, times, contenders, asked.threads, asked.output)


if __name__ == "__main__":
    main()
