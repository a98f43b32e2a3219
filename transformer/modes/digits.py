"""Scores of number words by number of digits, and of the small numbers, which are training numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformer.config import Config, Data
from transformer.data.sources.pairs import prefixer
from transformer.data.synthetic import number_words
from transformer.inference import scores

SCORE = "exact_match"
TRAINED = f"{SCORE}@trained_below_{number_words.SMALL}"
Examples = Sequence[Mapping[str, Any]]


def _name(digits: int) -> str:
    return f"{SCORE}@{digits}_digits"


def names(config: Config) -> list[str]:
    """The names of the scores of `of_split`, if there are enough numbers."""
    if config.data.source != "number_words":
        return []
    low, high = config.data.number_test_range or config.data.number_range
    return [*map(_name, range(len(str(low)), len(str(high - 1)) + 1)), TRAINED]


def of_split(
    data: Data, translate: Callable[[Examples], list[str]], examples: Examples, outputs: list[str]
) -> dict[str, float]:
    """Percentage of correct numbers by number of digits, and of the training numbers below `number_words.SMALL`.

    A score of fewer than `scores.FEWEST` numbers means little and is left out.
    """
    if data.source != "number_words":
        return {}
    by_name: dict[str, tuple[list[str], list[str]]] = {}
    for example, output in sorted(zip(examples, outputs, strict=True), key=lambda pair: len(pair[0]["number"])):
        predicted, right = by_name.setdefault(_name(len(example["number"])), ([], []))
        predicted.append(output)
        right.append(example["target"])
    put = prefixer(data.prefix, data.lowercase)
    trained = [put(dict(example)) for example in number_words.trained(data)] if data.train == "train" else []
    if trained:
        by_name[TRAINED] = translate(trained), [example["target"] for example in trained]
    enough = {name: texts for name, texts in by_name.items() if len(texts[0]) >= scores.FEWEST}
    return {name: scores.score(SCORE, *texts).value for name, texts in enough.items()}
