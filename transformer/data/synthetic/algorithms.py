"""The synthetic task of algorithms: sources whose target a line of code knows, at lengths that are settings.

    copy       d a c h            d a c h
    reverse    d a c h            h c a d
    sort       d a c h            a c d h      in the order of `LETTERS`
    list       d a c h            e b d i      each item translated: to the letter behind it, the last to the first
    recall     a 3 b 7 c 1 ? b    7            keys differ, and the one asked for is there
    addition   3 7 + 5 8          5 9          37 + 58 = 95, written from the units on

Each item is a word of one character. So `config.data.vocabulary` bpe, with 200 entries, has one token an item and nothing
unknown at any length; characters has the blanks too, and unigram may cut a rare item in two.

The length is the number of items, of pairs (recall), or of each number's digits (addition). It is drawn evenly, as Kazemnejad
et al. 2023 do, who train on lengths to 20, validate on the same, and test to 40, by exact match. They write a sum from its
highest digit; from its units on, each digit and the carry follow from three digits (Lee et al. 2023, "Teaching Arithmetic
to Small Transformers").

`list` asks whether one vector holds a long sentence: items are drawn evenly and each on its own, so the output so far does not
help to guess the next one, and k items need k log2(alphabet) bits of memory. Words stand in order, so all that attention has to
do is to point at the next one.
"""

import collections
import dataclasses
import itertools
import math
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence

from transformer.config import Data
from transformer.data.synthetic.drawing import Task
from transformer.errors import UserError, counted

LETTERS = string.ascii_letters  # an alphabet is the first so many
Lengths = tuple[int, int]  # from, to, both included
Pair = tuple[Sequence[str], Sequence[str]]  # the words of a source and of its target


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """`draw(rng, length, letters)` gives a pair, all sources as likely; `sources(length, letters)`: how many there are."""

    draw: Callable[[random.Random, int, str], Pair]
    sources: Callable[[int, str], int]


def _of_items(target: Callable[[list[str], str], Sequence[str]]) -> Algorithm:
    """What `target(items, letters)` makes of letters."""

    def draw(rng: random.Random, length: int, letters: str) -> Pair:
        items = rng.choices(letters, k=length)
        return items, target(items, letters)

    return Algorithm(draw, lambda length, letters: len(letters) ** length)


def _translated(items: list[str], letters: str) -> list[str]:
    return [letters[(letters.index(item) + 1) % len(letters)] for item in items]


def _recall(rng: random.Random, length: int, letters: str) -> Pair:
    values = {key: rng.choice(string.digits) for key in rng.sample(letters, length)}
    asked = rng.choice(list(values))
    return [*itertools.chain.from_iterable(values.items()), "?", asked], values[asked]


def _numbers(length: int) -> range:
    """Those of so many digits; 0 has one."""
    return range(10 ** (length - 1) if length > 1 else 0, 10**length)


def _addition(rng: random.Random, length: int, letters: str) -> Pair:
    first, second = (rng.randrange(_numbers(length).start, _numbers(length).stop) for _ in range(2))
    return [*str(first), "+", *str(second)], str(first + second)[::-1]


ALGORITHMS: Mapping[str, Algorithm] = {
    "copy": _of_items(lambda items, letters: items),
    "reverse": _of_items(lambda items, letters: items[::-1]),
    "sort": _of_items(lambda items, letters: sorted(items, key=letters.index)),
    "list": _of_items(_translated),
    "recall": Algorithm(_recall, lambda length, letters: math.perm(len(letters), length) * 10**length * length),
    "addition": Algorithm(_addition, lambda length, letters: (_numbers(length).stop - _numbers(length).start) ** 2),
}


def _even(rng: random.Random, lengths: Lengths) -> Iterator[int]:
    """The lengths round after round, each round in another order."""
    every = range(lengths[0], lengths[1] + 1)
    while True:
        yield from rng.sample(every, len(every))


def _splits(data: Data) -> dict[str, tuple[Lengths, int]]:
    """Lengths and number of examples of each split, in the order in which they are drawn."""
    train, test = data.algorithm_train_lengths, data.algorithm_test_lengths or data.algorithm_train_lengths
    size = data.synthetic_test_size
    return {"test": (test, size), "validation": (train, size), "train": (train, data.synthetic_train_size)}


def check(data: Data) -> None:
    """UserError: there are not as many sources of a length as the splits need, no two alike."""
    letters = LETTERS[: data.algorithm_alphabet]
    wanted: collections.Counter[int] = collections.Counter()
    for (low, high), size in _splits(data).values():
        wanted.update(dict.fromkeys(range(low, high + 1), math.ceil(size / (high - low + 1))))
    for length, count in sorted(wanted.items()):
        if count > (there := ALGORITHMS[data.algorithm].sources(length, letters)):
            low, high = data.algorithm_train_lengths
            side = "train" if low <= length <= high else "test"
            low, high = getattr(data, f"algorithm_{side}_lengths")
            more = "" if data.algorithm == "addition" else " or raise config.data.algorithm_alphabet"
            remedy = f"raise the first, lower config.data.synthetic_{side}_size{more}" if there else f"lower the second{more}"
            raise UserError(
                f"config.data.algorithm_{side}_lengths {low},{high}: needs {counted(count, 'source')} of length {length}, "
                f"and {data.algorithm} has {there:,}; {remedy}"
            )


def make(data: Data) -> dict[str, list[Mapping[str, str]]]:
    """Examples {"source", "target"}; no source is there twice. Any first examples of a split have all lengths equally often.

    Test is drawn first, then validation, then train: how many examples these have changes none of the others.
    UserError if there are not as many sources.
    """
    check(data)
    letters = LETTERS[: data.algorithm_alphabet]
    seen: set[str] = set()
    result: dict[str, list[Mapping[str, str]]] = {}
    for seed, (split, (lengths, size)) in enumerate(_splits(data).items()):
        rng, result[split] = random.Random(seed), []
        for length in itertools.islice(_even(rng, lengths), size):
            source = ""
            while not source or source in seen:
                source, target = (" ".join(words) for words in ALGORITHMS[data.algorithm].draw(rng, length, letters))
            seen.add(source)
            result[split].append({"source": source, "target": target})
    return {split: result[split] for split in ("train", "validation", "test")}


def name(data: Data) -> str:
    """A folder name that contains all that the data set depends on, except its version."""
    parts = {split: f"{split}_{size}_of_{low}_{high}" for split, ((low, high), size) in _splits(data).items()}
    return f"{data.algorithm}-alphabet_{data.algorithm_alphabet}-{parts['train']}-{parts['test']}"


TASK = Task("Inputs and outputs of algorithms.", "1.0.0", ("source", "target"), make, name=name)
