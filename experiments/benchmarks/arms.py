"""Decoding time and cache of the arms of a study: greedy decoding with random weights, so no run is needed.

    python -m experiments.benchmarks.arms --study=experiments/ablations/heads.py [--tokens=32] [--rows=64]

A turn decodes `rows` rows of `tokens` tokens each; an encoder-decoder first reads sources of as many tokens. The cache counts
keys and values for one row: of its own tokens, and of its source.
"""

from collections.abc import Callable
from typing import Any

from experiments.benchmarks import race
from experiments.benchmarks.race import Contender
from transformer.config import Config
from transformer.runtime.memory import keep_freed_memory


def decoding(config: Config, rows: int, tokens: int) -> Callable[[], None]:
    """A turn decodes `rows` rows of `tokens` tokens with random weights."""
    import jax
    from flax import traverse_util

    from transformer import families
    from transformer.inference.simple import generate
    from transformer.training import costs

    keep_freed_memory()
    data_info, family = costs.assumed_data_info(config), families.FAMILIES[config.family]
    model = family.model(config, data_info)
    shapes = costs.parameter_shapes(config, data_info)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    leaves = {
        name: 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for (name, leaf), key in zip(shapes.items(), keys, strict=True)
    }
    params = traverse_util.unflatten_dict(leaves, sep="/")
    source_BxS = jax.random.randint(jax.random.key(1), (rows, tokens), 4, data_info.source_size) if family.encodes else None
    start_Bx1 = jax.numpy.full((rows, 1), data_info.start)

    @jax.jit
    def decode(params: Any) -> jax.Array:
        return generate(model, params, start_Bx1, tokens, source_BxS=source_BxS)

    def turn() -> None:
        jax.block_until_ready(decode(params))

    return turn


def main() -> None:
    parser = race.arguments(__doc__)
    parser.add_argument("--study", required=True, help="file of a study")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each row, and of its source")
    parser.add_argument("--rows", type=int, default=64, help="rows that are decoded together")
    asked = parser.parse_args()
    from transformer.studies.study import arm_configs, read
    from transformer.training import costs

    arms = arm_configs(read(asked.study, {}))
    work = {"tokens/s": asked.rows * asked.tokens}
    contenders = {arm: Contender(decoding, (config, asked.rows, asked.tokens), work) for arm, config in arms.items()}
    times = race.take_turns(contenders, asked.rounds, 2, asked.threads)
    title = f"Greedy decoding of {asked.tokens} tokens, {asked.rows} rows"
    race.report(title, times, contenders, asked.threads, asked.output)
    print("bytes kept for one row:")
    for arm, config in arms.items():
        kept = costs.generating_bytes(config, costs.assumed_data_info(config), asked.tokens, asked.tokens)
        print(f"  {arm}: {', '.join(f'{name} {size:,}' for name, size in kept.items())}")


if __name__ == "__main__":
    main()
