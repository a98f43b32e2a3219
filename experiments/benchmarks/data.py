"""The data pipeline alone: tokens per second of batches, planning of 5 M pairs, padding.

    python -m experiments.benchmarks.data [--directory=DIR]

The pairs are random, with lengths like those of everyday text (log-normal, 25 tokens, spread 0.5; the target about as long as
the source). With --directory, a folder of train.en and train.de, also the padding of these, with a vocabulary of 10,000.
"""

import argparse
import time
import tracemalloc
from pathlib import Path

import numpy as np

from transformer.config import Data
from transformer.data import pipeline, sources
from transformer.data.corpus import Ragged, tokenize
from transformer.data.objectives import Translate
from transformer.data.pipeline import Batches
from transformer.data.tokenizers import training

PAIRS, ENTRIES, BATCH_TOKENS = 5_000_000, 10_000, 4096
OBJECTIVE = Translate(max_source_length=256, max_target_length=256)


def drawn(pairs: int) -> dict[str, Ragged]:
    """Token ids of random pairs."""
    rng = np.random.default_rng(0)
    source_N = np.clip(rng.lognormal(np.log(25), 0.5, pairs), 1, 250).astype(np.int64)
    target_N = np.clip(source_N * rng.normal(1.0, 0.15, pairs), 1, 250).astype(np.int64)

    def side(lengths_N: np.ndarray) -> Ragged:
        return Ragged(rng.integers(3, ENTRIES, lengths_N.sum(), np.int32), np.concatenate([[0], np.cumsum(lengths_N)]))

    return {"source": side(source_N), "target": side(target_N)}


def read(directory: Path) -> dict[str, Ragged]:
    """train.en and train.de, in pieces of one vocabulary."""
    data = Data(source="text", directory=str(directory), train="train", vocabulary_size=ENTRIES)
    split = sources.read(data, "train", directory)
    assert split is not None  # `data.train` is set
    made = training.train(data, [example[side] for example in split.examples for side in ("source", "target")], print)
    return tokenize(split.examples, {"source": made, "target": made})


def planned(corpus: dict[str, Ragged], batching: str, batch_tokens: int = BATCH_TOKENS) -> Batches:
    """One run's batches."""
    data = Data(batching=batching, buckets=8)  # type: ignore[arg-type]
    batches, _ = pipeline.plan(corpus, OBJECTIVE, data, batch_tokens, 1, seed=0, training=True)
    return batches


def pace(batches: Batches, seconds: float = 5.0) -> float:
    """Source and target tokens per second of batches that are made one after the other in this process."""
    begin, tokens, number = time.perf_counter(), 0, 0
    while time.perf_counter() - begin < seconds:
        batch = batches[number]
        tokens, number = tokens + int((batch["source_segments"] > 0).sum() + (batch["segments"] > 0).sum()), number + 1
    return tokens / (time.perf_counter() - begin)


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="folder of train.en and train.de")
    asked = parser.parse_args()
    corpora = {f"{PAIRS:,} drawn pairs": drawn(PAIRS)}
    if asked.directory:
        corpora[str(asked.directory)] = read(asked.directory)
    for name, corpus in corpora.items():
        for batching in ("packed", "bucketed"):
            begin = time.perf_counter()
            batches = planned(corpus, batching)
            seconds = time.perf_counter() - begin
            tracemalloc.start()  # separate from the timing, which it slows
            planned(corpus, batching)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            print(
                f"{name}, {batching}: planned in {seconds:.1f} s with {peak / 2**30:.2f} GiB beside the tokens, "
                f"padding {batches.padding:.1%}, {pace(batches):,.0f} tokens/s"
            )


if __name__ == "__main__":
    main()
