"""Updates on real sentences, whose lengths differ: real tokens a second, packed and padded, against `torch.nn.Transformer`.

    python -m experiments.benchmarks.train_text --directory=DIR

DIR has train.en and train.de (Multi30k). A turn trains on the first 2,048 pairs once, in updates of at most 2,048 target slots,
with a vocabulary of 10,000; the model is that of train_step.py. Batches are made within the turn. Packed: several sentences in
a row, with a single shape. Padded: sentences of similar length together, in 8 shapes; torch gets exactly the same batches. The
rate counts target tokens without padding.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks import data as text
from experiments.benchmarks import race
from experiments.benchmarks.race import Contender
from experiments.benchmarks.train_step import CONFIG, parts, torch_parts
from transformer.config import DataInfo
from transformer.data.corpus import Ragged
from transformer.runtime.memory import keep_freed_memory

PAIRS, BATCH_TOKENS = 2048, 2048
DATA_INFO = DataInfo(source_size=text.ENTRIES, target_size=text.ENTRIES, source_rows=text.ENTRIES, target_rows=text.ENTRIES)


def read(directory: str) -> dict[str, Ragged]:
    """The first pairs."""
    whole = text.read(Path(directory))
    return {side: Ragged(rows.values[: rows.offsets[PAIRS]], rows.offsets[: PAIRS + 1]) for side, rows in whole.items()}


def tokens(made: Any) -> int:
    """Of the targets, in one turn."""
    from transformer.data import pipeline

    return sum(pipeline.count(made[number], text.OBJECTIVE)["tokens"] for number in range(len(made)))


def ours(corpus: dict[str, Ragged], batching: str) -> Callable[[], None]:
    """The trainer's updates, batches read ahead by a thread."""
    import jax

    from transformer.data import pipeline
    from transformer.runtime.devices import Runtime

    runtime, made = Runtime(CONFIG.parallel), text.planned(corpus, batching, BATCH_TOKENS)
    train_step, init = parts(CONFIG, DATA_INFO, text.OBJECTIVE)
    step, state = runtime.compile_train(train_step), [runtime.create(lambda: init(0))]

    def turn() -> None:
        metrics = None
        for batch in pipeline.read(made, 0, len(made), workers=0):
            state[0], metrics = step(state[0], runtime.place_batch(batch))
        jax.block_until_ready(metrics)

    return turn


def torch(corpus: dict[str, Ragged]) -> Callable[[], None]:
    """The same of padded batches."""
    made = text.planned(corpus, "bucketed", BATCH_TOKENS)
    model, optimizer, loss_of = torch_parts(CONFIG, text.ENTRIES, max(text.OBJECTIVE.limits))
    import torch  # pyright: ignore[reportMissingImports]

    def turn() -> None:
        for number in range(len(made)):
            batch = {name: torch.from_numpy(array) for name, array in made[number].items()}
            targets = torch.where(batch["segments"] > 0, batch["targets"], -100).long()
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(batch["source"].long(), batch["inputs"].long(), batch["source_segments"] == 0), targets).backward()
            optimizer.step()

    return turn


def main() -> None:
    """Races them and prints the table."""
    keep_freed_memory()  # inherited by all processes that are started, before they import NumPy
    parser = race.arguments(__doc__)
    parser.add_argument("--directory", required=True, help="folder of train.en and train.de")
    asked = parser.parse_args()
    corpus = read(asked.directory)
    made = {batching: text.planned(corpus, batching, BATCH_TOKENS) for batching in ("packed", "bucketed")}
    work = {batching: {"target tokens/s": tokens(each)} for batching, each in made.items()}
    contenders = {
        "ours, packed": Contender(ours, (corpus, "packed"), work["packed"]),
        "ours, padded": Contender(ours, (corpus, "bucketed"), work["bucketed"]),
        "torch.nn.Transformer, padded": Contender(torch, (corpus,), work["bucketed"]),
    }
    times = race.take_turns(contenders, asked.rounds, 1, asked.threads)
    shares = ", ".join(f"{name} {each.padding:.1%} padding" for name, each in made.items())
    race.report(f"{PAIRS:,} pairs of Multi30k ({shares})", times, contenders, asked.threads, asked.output)


if __name__ == "__main__":
    main()
