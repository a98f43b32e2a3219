"""Peak bytes of a training step against length and vocabulary, and the longest text that fits.

    python -m experiments.benchmarks.memory [--memory_gib=16] [--output=FILE]

A decoder-only model with 4 layers, d_model 256, 4 heads, d_ff 1024, Adam, fp32, one text in a batch, and activations recomputed
in the backward pass (`remat=full`). Steps are compiled for this machine's CPU and not run: the bytes are the compiler's count
of state, gradients and temporary arrays.
"""

import argparse
import dataclasses
import functools
import json

from rich.console import Console
from rich.table import Table

from transformer.components.rotary import Rotary
from transformer.config import Config, Data, DataInfo, Model, Objective, Train
from transformer.modes import costs

LENGTHS = tuple(2**n for n in range(8, 15))
VOCABULARIES = tuple(1000 * 2**n for n in range(3, 9))
TEXT = 4096  # tokens of the text for growing vocabularies
MODEL = Model(
    num_decoder_layers=4,
    d_model=256,
    d_ff=1024,
    num_heads=4,
    positions=Rotary(),
    dropout_rate=0.0,
    tying="two_way",
    remat="full",
)


@functools.cache
def needed(length: int, entries: int, attention: str, slots: int) -> int:
    """Bytes of a step on one text; `slots`: tokens whose logits exist at once."""
    model = dataclasses.replace(MODEL, attention_backend=attention)
    config = Config(
        family="decoder_only",
        model=model,
        objective=Objective("causal_lm"),
        data=Data(source="documents", row_length=length, max_target_length=length),
        train=Train(batch_tokens=length, loss_chunk=slots),
    )
    found = costs.memory(config, DataInfo(entries, entries, entries, entries), length)
    return sum(found.held.values()) + found.temporary


def longest(gib: float, attention: str, slots: int) -> int:
    """The longest text, a power of two, whose step fits in this memory."""
    length = LENGTHS[0]
    while needed(2 * length, 8000, attention, slots) <= gib * costs.GIB:
        length *= 2
    return length


def main() -> None:
    """Prints three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory_gib", type=float, default=16.0, help="of a device, for the longest text that fits")
    parser.add_argument("--output", help="JSON file to write")
    asked = parser.parse_args()
    by_length = {n: {kind: needed(n, 8000, kind, 512) for kind in ("plain", "chunked")} for n in LENGTHS}
    by_entries = {
        n: {name: needed(TEXT, n, "chunked", slots) for name, slots in (("whole", TEXT), ("chunked", 512))}
        for n in VOCABULARIES
    }
    fits = {kind: longest(asked.memory_gib, kind, 512) for kind in ("plain", "chunked")}
    _print("Tokens of the text", "attention", by_length)
    _print(f"Entries of the vocabulary, {TEXT:,} tokens", "loss", by_entries)
    lines = ", ".join(f"{length:,} with {kind} attention" for kind, length in fits.items())
    Console().print(f"longest text (a power of two) in {asked.memory_gib:g} GiB: {lines}")
    if asked.output:
        with open(asked.output, "w") as file:
            json.dump({"bytes_by_length": by_length, "bytes_by_entries": by_entries, "longest": fits}, file, indent=1)


def _print(rows: str, what: str, found: dict[int, dict[str, int]]) -> None:
    kinds = list(next(iter(found.values())))
    table = Table(rows, *(f"{kind} {what}, MB" for kind in kinds), title="Peak memory of a training step")
    for number, each in found.items():
        table.add_row(f"{number:,}", *(f"{each[kind] / 1e6:,.0f}" for kind in kinds))
    Console().print(table)


if __name__ == "__main__":
    main()
