"""The synthetic task of translation: numbers in words, from one language to another.

`num2words` writes the words. The alignment of words is in number_alignment.py.
"""

import copy
import importlib.metadata
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import num2words

from transformer.config import Data
from transformer.data.synthetic.drawing import Task
from transformer.errors import UserError, counted, nearest

HELD_PART = 0.25  # of the numbers of each count of digits, at most, are drawn for validation and test by digits
SMALL = 100  # numbers below this are rarely drawn, but are what a person tries first
MOST = 10**18  # an int64 holds them


def draw(data: Data) -> dict[str, list[int]]:
    """The numbers of each split, in random order; no number is in two splits. The same settings give the same numbers.

    Validation and test are drawn before the training numbers, so they do not depend on the settings of training. The fractions
    `data.number_train_by_digits` and `data.number_test_by_digits` are drawn uniformly over the number of digits, the others
    uniformly over their range. A uniform draw of 40,000 numbers below a million has only four below a hundred. A model trained
    on it made no error on uniform test numbers, but was wrong on every seventh number below a hundred ("fourteen"), which a
    person types first. `data.number_small_copies` repeats these numbers. Every split has the size in the settings, including
    copies.

    UserError if a range is too small for the numbers drawn from it.
    """
    if data.number_range[1] > MOST:
        raise UserError(f"config.data.number_range {data.number_range[0]},{data.number_range[1]}: numbers must be below 10^18")
    held_range, train_range = (range(*(r or data.number_range)) for r in (data.number_test_range, data.number_train_range))
    size, train_size = data.number_test_size, data.number_train_size
    if 2 * size > len(held_range):
        raise UserError(
            f"config.data.number_test_size {size}: validation and test need {2 * size} numbers, but "
            f"config.data.number_test_range {held_range.start},{held_range.stop} has {len(held_range)}; lower the first or "
            "widen the second"
        )
    rng = random.Random(0)
    short = _by_digits(rng, held_range, round(2 * size * data.number_test_by_digits), HELD_PART)
    held = list(dict.fromkeys(short + rng.sample(held_range, 2 * size)))[: 2 * size]
    if short:  # else they are already in random order
        rng.shuffle(held)
    taken = {n for n in held if n in train_range}
    if train_size > len(train_range) - len(taken):
        raise UserError(
            f"config.data.number_train_size {train_size}: config.data.number_train_range {train_range.start},"
            f"{train_range.stop} has {counted(len(train_range) - len(taken), 'number')} besides those of validation and test; "
            "lower the first or widen the second"
        )
    rng = random.Random(1)
    short = _by_digits(rng, train_range, int(train_size * data.number_train_by_digits))
    even = rng.sample(train_range, train_size + len(taken))  # enough, even if it contains all of `taken`
    train = [n for n in dict.fromkeys(short + even) if n not in taken][:train_size]
    if (copies := data.number_small_copies) > 1:
        small, others = [n for n in train if n < SMALL], [n for n in train if n >= SMALL]
        if copies * len(small) > train_size:
            raise UserError(
                f"config.data.number_small_copies {copies}: {copies} copies of {len(small)} numbers below {SMALL} are more "
                f"than config.data.number_train_size {train_size}; lower the first or raise the second"
            )
        train = copies * small + others[: train_size - copies * len(small)]
    rng.shuffle(train)
    splits = {"train": train, "validation": held[:size], "test": held[size:]}
    assert len(train) == train_size and len({*held}) == 2 * size and not {*held} & {*train}, "a number is in two splits"
    return splits


def _by_digits(rng: random.Random, numbers: range, count: int, part: float = 1.0) -> list[int]:
    """About `count` of the numbers, as many of each count of digits, but of none more than `part`."""
    powers = [0] + [10**digits for digits in range(1, len(str(numbers.stop)) + 1)]
    lengths = [range(max(a, numbers.start), min(b, numbers.stop)) for a, b in zip(powers, powers[1:], strict=False)]
    lengths = [r for r in lengths if r]
    return [n for r in lengths for n in rng.sample(r, min(count // len(lengths), int(part * len(r))))]


def speller(language: str, setting: str, below: int) -> Callable[[int], str]:
    """What writes the numbers from 0 to `below` (excluded) in words. UserError if `language` is none that it knows."""
    known = num2words.CONVERTER_CLASSES
    if language not in known:
        hint = nearest(language, known) or f"; it knows {', '.join(sorted(known))}"
        raise UserError(f"config.data.{setting} {language}: num2words has no such language{hint}")
    # A converter tries its words for powers of ten from the greatest down: without those that are never used (up to
    # 10^600 in German) it is ten times as fast and writes the same.
    converter = copy.copy(known[language])
    if hasattr(converter, "cards"):
        converter.cards = type(converter.cards)((n, word) for n, word in converter.cards.items() if n <= below)

    def spell(number: int) -> str:
        try:
            return " ".join(converter.to_cardinal(number).split())
        except Exception as error:  # each converter fails in its own way
            raise UserError(f"config.data.{setting} {language}: num2words cannot write {number} ({error})") from error

    return spell


def make(data: Data) -> Mapping[str, Iterator[Mapping[str, Any]]]:
    """Examples {"number": int, "source": text, "target": text} of the numbers drawn, written as they are asked for."""
    return {split: _spelled(data, numbers) for split, numbers in draw(data).items()}


def trained(data: Data) -> list[Mapping[str, Any]]:
    """The training examples of numbers below `SMALL`, in order, each once."""
    return list(_spelled(data, sorted({n for n in draw(data)["train"] if n < SMALL})))


def _spelled(data: Data, numbers: Sequence[int]) -> Iterator[Mapping[str, Any]]:
    spell_source = speller(data.source_language, "source_language", data.number_range[1])
    spell_target = speller(data.target_language, "target_language", data.number_range[1])
    for number in numbers:
        yield {"number": number, "source": spell_source(number), "target": spell_target(number)}


def name(data: Data) -> str:
    """A folder name that contains all that the data set depends on, except its version."""

    def part(split: str, size: int, limits: tuple[int, int] | None, by_digits: float) -> str:
        low, high = limits or data.number_range
        return f"{split}_{size}_of_{low}_{high}_by_digits_{by_digits:g}"

    copies = f"small_copies_{data.number_small_copies}"
    return "-".join(
        (
            f"{data.source_language}_to_{data.target_language}",
            part("train", data.number_train_size, data.number_train_range, data.number_train_by_digits) + "_" + copies,
            part("test", data.number_test_size, data.number_test_range, data.number_test_by_digits),
            "num2words_" + importlib.metadata.version("num2words"),
        )
    )


def notice(data: Data) -> str:
    """How much of the range is trained on."""
    size, among, held = data.number_train_size, data.number_range[1] - data.number_range[0], data.number_test_size
    copies = f", {data.number_small_copies} copies of each below {SMALL}" if data.number_small_copies > 1 else ""
    train = f"{size:,} of {among:,} numbers ({size / among:.1%}{copies}) for training"
    return f"{train}, {held:,} for validation, {held:,} for the test"


TASK = Task(
    "Numbers in words, in two languages.", "1.0.0", ("source", "target"), make, numbers=("number",), name=name, notice=notice
)
