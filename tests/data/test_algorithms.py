"""Algorithmic tasks: each target is computed again from the source in another way; lengths, splits and refused settings."""

import collections
import dataclasses
import hashlib
import json
import string

import pytest

from transformer import settings
from transformer.config import Config, Data, Evaluate
from transformer.data import sources
from transformer.data.synthetic import algorithms
from transformer.data.tokenizers import training, vocabulary
from transformer.errors import UserError
from transformer.validation import validate

NAMES = ("copy", "reverse", "sort", "list", "recall", "addition")
SMALL = Data(
    source="algorithms",
    synthetic_train_size=330,
    synthetic_test_size=90,
    algorithm_train_lengths=(4, 9),
    algorithm_test_lengths=(6, 24),
)


def given(algorithm: str = "copy", **changes) -> Data:
    return dataclasses.replace(SMALL, algorithm=algorithm, **changes)


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, list]]:
    return {name: algorithms.make(given(name)) for name in NAMES}


def every(splits: dict[str, list]) -> list[tuple[str, str]]:
    return [(e["source"], e["target"]) for examples in splits.values() for e in examples]


def length(algorithm: str, source: str) -> int:
    characters = source.count(" ") + 1
    return {"recall": (characters - 2) / 2, "addition": (characters - 1) / 2}.get(algorithm, characters)  # type: ignore


# --- the truth -----------------------------------------------------------------------------------------------------------


def test_copy_and_reverse(made):
    assert all(source == target for source, target in every(made["copy"]))
    for source, target in every(made["reverse"]):
        output = list(target)
        assert [output.pop() for _ in source] == list(source) and not output
    assert sum(source != target for source, target in every(made["reverse"])) > 450


def test_sorted_lists_have_the_same_items_in_order():
    """With letters in both cases, in the order of `LETTERS`, lower case first."""
    splits = algorithms.make(given("sort", algorithm_alphabet=52))
    order = {letter: place for place, letter in enumerate(string.ascii_lowercase + string.ascii_uppercase)}
    used = set()
    for source, target in every(splits):
        items, output = source.split(" "), target.split(" ")
        assert collections.Counter(items) == collections.Counter(output)
        assert all(order[a] <= order[b] for a, b in zip(output, output[1:], strict=False))
        used |= set(items)
    assert used == set(order)


def test_items_are_translated_by_the_next_letter():
    for size, last in ((26, "z"), (5, "e")):
        for source, target in every(algorithms.make(given("list", algorithm_alphabet=size))):
            assert len(source) == len(target)
            for a, b in zip(source, target, strict=True):
                assert b == {" ": " ", last: "a"}.get(a, chr(ord(a) + 1))


def test_recall_asks_for_an_existing_key(made):
    places = collections.Counter()
    for source, target in every(made["recall"]):
        pairs, asked = source.split(" ? ")
        words = pairs.split(" ")
        keys, values = words[::2], words[1::2]
        assert len(set(keys)) == len(keys) == len(values) and set("".join(values)) <= set(string.digits)
        assert dict(zip(keys, values, strict=True))[asked] == target
        places[10 * keys.index(asked) // len(keys)] += 1
    assert len(places) == 10 and max(places.values()) < 0.25 * 510  # no place in the list is asked for more than others
    targets = collections.Counter(target for _, target in every(made["recall"]))
    assert len(targets) == 10 and max(targets.values()) < 0.2 * 510


def test_sums(made):
    carried = 0
    for source, target in every(made["addition"]):
        first, second = (number.replace(" ", "") for number in source.split(" + "))
        assert len(first) == len(second) and "0" not in (first[0], second[0])
        assert int("".join(reversed(target.split(" ")))) == int(first) + int(second) and not target.endswith(" 0")
        carried += len(target.split(" ")) > len(first)
    assert 0.2 < carried / 510 < 0.8


def test_short_numbers():
    """There are 100 sums of numbers with one digit, including zero: all of them are drawn once."""
    drawn = algorithms.make(
        given(
            "addition",
            synthetic_train_size=80,
            synthetic_test_size=10,
            algorithm_train_lengths=(1, 1),
            algorithm_test_lengths=None,
        )
    )
    assert {source for source, _ in every(drawn)} == {f"{a} + {b}" for a in range(10) for b in range(10)}


@pytest.mark.parametrize(
    ("algorithm", "drawn"),
    [
        ("copy", "95704de29c0c5afd"),
        ("reverse", "e1e5d915c6b84d3c"),
        ("sort", "879701cb8f068e71"),
        ("list", "4636f0b1b3095763"),
        ("recall", "0b377fad110ed4e6"),
        ("addition", "0471ec253f3d5a71"),
    ],
)
def test_draws_do_not_change(made, algorithm, drawn):
    # Runs are compared over years: who draws otherwise must raise the task's version.
    assert hashlib.sha256(json.dumps(made[algorithm]).encode()).hexdigest()[:16] == drawn


# --- lengths and splits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", NAMES)
def test_lengths_are_drawn_evenly(made, algorithm):
    """Up to a difference of one, in each split and in its first examples; test lengths may exceed those of training and
    validation."""
    for split, (low, high) in {"train": (4, 9), "validation": (4, 9), "test": (6, 24)}.items():
        for examples in (made[algorithm][split], made[algorithm][split][:50]):
            counts = collections.Counter(length(algorithm, example["source"]) for example in examples)
            assert set(counts) == set(range(low, high + 1)) and max(counts.values()) - min(counts.values()) <= 1
    lengths = [length(algorithm, example["source"]) for example in made[algorithm]["train"]]
    assert lengths != sorted(lengths) and len({tuple(lengths[i : i + 6]) for i in range(0, 330, 6)}) > 40


@pytest.mark.parametrize("algorithm", NAMES)
def test_splits_are_disjoint_and_do_not_depend_on_training(made, algorithm):
    pairs = every(made[algorithm])
    assert len({source for source, _ in pairs}) == len(pairs) == 330 + 2 * 90
    fewer = algorithms.make(given(algorithm, synthetic_train_size=40))
    assert fewer["test"] == made[algorithm]["test"] and fewer["validation"] == made[algorithm]["validation"]
    assert fewer["train"] == made[algorithm]["train"][:40]


def test_items_are_independent(made):
    """No item of a list that one vector must hold can be predicted: every pair of consecutive items is equally frequent."""
    follows = collections.Counter()
    for source, _ in every(algorithms.make(given("list", algorithm_alphabet=3))):
        items = source.split(" ")
        follows.update(zip(items, items[1:], strict=False))
    total = sum(follows.values())
    assert total > 3000 and all(0.8 < 9 * follows[a, b] / total < 1.2 for a in "abc" for b in "abc")


def test_all_sources_can_be_drawn():
    """Each is drawn once, and the assignment to test and validation does not depend on the training split."""
    few = Data(
        source="algorithms", algorithm_alphabet=2, algorithm_train_lengths=(3, 3), synthetic_train_size=6, synthetic_test_size=1
    )
    drawn = algorithms.make(few)
    assert {source for source, _ in every(drawn)} == {f"{a} {b} {c}" for a in "ab" for b in "ab" for c in "ab"}
    for size in range(1, 6):
        fewer = algorithms.make(dataclasses.replace(few, synthetic_train_size=size))
        assert (fewer["test"], fewer["validation"]) == (drawn["test"], drawn["validation"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"algorithm_train_lengths": (1, 9), "synthetic_train_size": 270},
            "config.data.algorithm_train_lengths 1,9: needs 40 sources of length 1, and copy has 26; raise the "
            "first, lower config.data.synthetic_train_size or raise config.data.algorithm_alphabet",
        ),
        (
            {"algorithm_test_lengths": (1, 3)},
            "config.data.algorithm_test_lengths 1,3: needs 30 sources of length 1, and copy has 26; raise the first, "
            "lower config.data.synthetic_test_size or raise config.data.algorithm_alphabet",
        ),
        (
            {"algorithm": "recall", "algorithm_test_lengths": (6, 27)},
            "config.data.algorithm_test_lengths 6,27: needs 5 sources of length 27, and recall has 0; lower the "
            "second or raise config.data.algorithm_alphabet",
        ),
        (
            {"algorithm": "addition", "algorithm_train_lengths": (1, 3), "algorithm_test_lengths": None},
            "config.data.algorithm_train_lengths 1,3: needs 170 sources of length 1, and addition has 100; raise the "
            "first, lower config.data.synthetic_train_size",
        ),
    ],
)
def test_more_examples_than_exist_is_an_error(changes, message):
    with pytest.raises(UserError) as error:
        algorithms.make(dataclasses.replace(SMALL, **changes))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("algorithm", "length", "size"), [("recall", 1, 2 * 10), ("recall", 2, 2 * 100 * 2), ("addition", 1, 100)]
)
def test_the_number_of_sources(algorithm, length, size):
    """The number that can be drawn with two letters: for two pairs, two orders of the keys, 100 values and two questions."""
    whole = given(
        algorithm,
        algorithm_alphabet=2,
        algorithm_train_lengths=(length, length),
        algorithm_test_lengths=None,
        synthetic_train_size=size - 2,
        synthetic_test_size=1,
    )
    assert len({source for source, _ in every(algorithms.make(whole))}) == size
    with pytest.raises(UserError):
        algorithms.make(dataclasses.replace(whole, synthetic_train_size=size - 1))


# --- as a data set -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "sort"},
        {"algorithm_alphabet": 20},
        {"algorithm_train_lengths": (5, 9)},
        {"algorithm_test_lengths": (6, 23)},
        {"algorithm_test_lengths": None},
        {"synthetic_train_size": 300},
        {"synthetic_test_size": 80},
    ],
)
def test_a_folder_has_the_settings_in_its_name(changes, made):
    changed = dataclasses.replace(SMALL, **changes)
    assert algorithms.make(changed) != made["copy"] and algorithms.name(changed) != algorithms.name(SMALL)
    assert algorithms.name(SMALL) == "copy-alphabet_26-train_330_of_4_9-test_90_of_6_24"


def test_a_prefix_is_added_to_each_source(made, tmp_path):
    found = sources.read(given("recall", prefix="look up: "), "test", tmp_path)
    assert found and [e["source"] for e in found.examples] == [f"look up: {e['source']}" for e in made["recall"]["test"]]


@pytest.mark.parametrize("kind", ("bpe", "characters"))
def test_nothing_is_unknown_at_any_length(made, kind):
    """With BPE, each item is one token, whatever its neighbours."""
    for algorithm in NAMES:
        texts = [text for pair in every({"train": made[algorithm]["train"]}) for text in pair]
        notices = []
        words = training.train(Data(vocabulary=kind, vocabulary_size=200), texts, notices.append)
        for text in (text for pair in every({"test": made[algorithm]["test"]}) for text in pair):
            ids = words.encode(text)
            assert vocabulary.UNKNOWN not in ids and words.decode(ids) == text
            assert len(ids) == (len(text) if kind == "characters" else text.count(" ") + 1)


# --- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.algorithm_train_lengths": "0,4"},
            "config.data.algorithm_train_lengths is 0,4: expected two lengths of at least 1",
        ),
        ({"data.algorithm_train_lengths": "9,4"}, "config.data.algorithm_train_lengths is 9,4"),
        ({"data.algorithm_test_lengths": "9,8"}, "config.data.algorithm_test_lengths is 9,8"),
        ({"data.algorithm_alphabet": "53"}, "config.data.algorithm_alphabet is 53: must be at most 52"),
        ({"data.algorithm_alphabet": "27", "data.lowercase": "true"}, "letters of both cases; set the first to false or"),
        (
            {"evaluate.lengths": "10"},
            "config.evaluate.lengths 10: expected two numbers or more, from 0 on, each above the last",
        ),
        ({"evaluate.lengths": "1,5,5"}, "config.evaluate.lengths 1,5,5: expected"),
        ({"evaluate.lengths": "-1,5"}, "config.evaluate.lengths -1,5: expected"),
        ({"evaluate.places": "0,5"}, "config.evaluate.places 0,5: expected two numbers or more, from 1 on"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    config = Config(data=Data(source="algorithms"), evaluate=Evaluate(lengths=(0, 5, 6)))
    with pytest.raises(UserError) as error:
        validate(settings.override(validate(config), changes))
    assert message in str(error.value) and "\n" not in str(error.value)
    lower = {"data.lowercase": "true", "data.algorithm_train_lengths": "4,4"}
    assert validate(settings.override(config, lower)).data.lowercase
