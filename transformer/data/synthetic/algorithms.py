"""Synthetic algorithmic tasks, whose target is a simple function of the source, at lengths that are settings.

    copy       d a c h            d a c h
    reverse    d a c h            h c a d
    sort       d a c h            a c d h      in the order of `LETTERS`
    list       d a c h            e b d i      each item is translated to the next letter, the last to the first
    recall     a 3 b 7 c 1 ? b    7            keys differ, and the query is one of them
    addition   3 7 + 5 8          5 9          37 + 58 = 95, written from the last digit on

Each item is a word of one character. So `config.data.vocabulary` bpe with 200 entries has one token per item and no unknown
tokens at any length; `characters` also has tokens for the spaces, and `unigram` may split a rare item in two.

The length is the number of items, of pairs (recall), or of each number's digits (addition). It is drawn uniformly, as in
Kazemnejad et al. 2023, who train and validate on lengths up to 20 and test up to 40, by exact match. They write a sum from the
highest digit. Written from the last digit, each digit and the carry depend on three digits (Lee et al. 2023, "Teaching
Arithmetic to Small Transformers").

`list` tests whether one vector can hold a long sentence: items are independent and uniform, so the previous output does not
help to predict the next item, and k items need k log2(alphabet) bits of memory. The order of words does not change, so
attention only has to point to the next item.
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

LETTERS = string.ascii_letters  # an alphabet is the beginning of this string
Lengths = tuple[int, int]  # from, to, inclusive
Pair = tuple[Sequence[str], Sequence[str]]  # the words of a source and of its target


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """`draw(rng, length, letters)` gives a pair, with uniform sources; `sources(length, letters)`: the number of sources."""

    draw: Callable[[random.Random, int, str], Pair]
    sources: Callable[[int, str], int]


def _of_items(target: Callable[[list[str], str], Sequence[str]]) -> Algorithm:
    """An algorithm whose target is `target(items, letters)`."""

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
    """The numbers with `length` digits; 0 has one digit."""
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
    """All lengths in a random order, then again in another order, and so on."""
    every = range(lengths[0], lengths[1] + 1)
    while True:
        yield from rng.sample(every, len(every))


def _splits(data: Data) -> dict[str, tuple[Lengths, int]]:
    """Lengths and number of examples of each split, in the order in which they are drawn."""
    train, test = data.algorithm_train_lengths, data.algorithm_test_lengths or data.algorithm_train_lengths
    size = data.synthetic_test_size
    return {"test": (test, size), "validation": (train, size), "train": (train, data.synthetic_train_size)}


def check(data: Data) -> None:
    """UserError if a length has fewer different sources than the splits need."""
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
    """Examples {"source", "target"}; no source occurs twice. In any initial part of a split, all lengths are equally frequent.

    Test is drawn first, then validation, then train, so that the size of a later split does not change the earlier ones.
    UserError if there are not enough sources.
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
