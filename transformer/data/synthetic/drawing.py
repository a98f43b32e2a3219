"""The definition of a synthetic task, and the sampling of its examples, so that no two splits share one.

Each task has its own file; `tasks.py` contains the table of tasks and stores their data on disk.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformer.config import Data
from transformer.errors import UserError

PATIENCE = 1000  # consecutive draws without a new example, after which the task has (almost) no new ones


def words(text: str) -> list[str]:
    """The list of words in a text."""
    return text.split()


def synthetic_name(data: Data) -> str:
    return f"train_{data.synthetic_train_size}-test_{data.synthetic_test_size}"


def synthetic_notice(data: Data) -> str:
    held = data.synthetic_test_size
    return f"examples: {data.synthetic_train_size:,} for training, {held:,} for validation, {held:,} for the test"


@dataclasses.dataclass(frozen=True)
class Task:
    """A synthetic task. The same settings give the same examples; increase `version` if the examples change.

    `make(data)` gives the examples of train, validation and test in random order; `texts` and `numbers` are their fields;
    `name` is a folder name that contains all that the examples depend on, except the version; `notice` is printed when they are
    trained on.
    """

    description: str
    version: str
    texts: tuple[str, ...]
    make: Callable[[Data], Mapping[str, Iterable[Mapping[str, Any]]]]
    numbers: tuple[str, ...] = ()
    name: Callable[[Data], str] = synthetic_name
    notice: Callable[[Data], str] = synthetic_notice


def distinct(
    data: Data, draw: Callable[[random.Random, bool], Mapping[str, str]], field: str = "text"
) -> dict[str, list[Mapping[str, str]]]:
    """The splits of a task; no two examples have the same `field`.

    `draw(rng, held)` gives an example; `held` is true for validation and test. These are drawn first, so that they do not
    depend on the number of training examples. UserError if there are not enough different examples.
    """
    seen: set[str] = set()

    def several(rng: random.Random, held: bool, count: int, setting: str) -> list[Mapping[str, str]]:
        result, failed = [], 0
        while len(result) < count:
            example = draw(rng, held)
            failed = failed + 1 if example[field] in seen else 0
            if failed == PATIENCE:
                raise UserError(
                    f"config.data.{setting} {getattr(data, setting)}: {data.source} has only about "
                    f"{len(seen)} examples for all splits together; lower it"
                )
            if not failed:
                seen.add(example[field])
                result.append(example)
        return result

    size = data.synthetic_test_size
    held = several(random.Random(0), True, 2 * size, "synthetic_test_size")
    train = several(random.Random(1), False, data.synthetic_train_size, "synthetic_train_size")
    splits = {"train": train, "validation": held[:size], "test": held[size:]}
    texts = [example[field] for examples in splits.values() for example in examples]
    assert len(set(texts)) == len(texts), "an example is in two splits"
    return splits
