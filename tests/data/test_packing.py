"""Packing: every example once, no row longer than its shape, little padding, and few patterns; buckets against brute force."""

import itertools
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks import data as benchmark
from transformer.data import packing, pipeline
from transformer.data.packing import Plan, buckets, choose_shape, pack

SOME = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def check(plan: Plan, lengths_NxA: np.ndarray, shape: tuple[int, ...], members: np.ndarray) -> None:
    """Asserts the contents of the rows, counted one by one."""
    examples, rows = plan.examples(np.arange(plan.num_rows), members)
    assert sorted(examples.tolist()) == list(range(len(lengths_NxA)))
    assert np.all(np.diff(rows) >= 0)
    taken = np.zeros((plan.num_rows, len(shape)), np.int64)
    for example, row in zip(examples, rows, strict=True):
        taken[row] += lengths_NxA[example]
    assert np.all(taken <= shape) and np.all(taken.sum(axis=1) > 0)
    assert plan.shape == shape and plan.tokens == lengths_NxA.sum()
    if len(lengths_NxA):
        assert plan.padding == pytest.approx(1 - taken.sum() / (plan.num_rows * sum(shape)))


@st.composite
def cases(draw):
    shape = draw(st.lists(st.integers(1, 12), min_size=1, max_size=2))
    one = st.tuples(*(st.integers(1, slots) for slots in shape))
    lengths = draw(st.lists(one, max_size=40))
    return np.array(lengths, np.int64).reshape(-1, len(shape)), tuple(shape)


@SOME
@given(cases(), st.integers(0, 9))
def test_every_example_is_in_one_row_that_holds_it(case, seed):
    lengths_NxA, shape = case
    plan = pack(lengths_NxA, shape)
    check(plan, lengths_NxA, shape, plan.members)
    check(plan, lengths_NxA, shape, plan.shuffled(np.random.default_rng(seed)))


@SOME
@given(cases(), st.data())
def test_selected_rows_equal_those_of_the_whole_plan(case, data):
    plan = pack(*case)
    examples, rows = plan.examples(np.arange(plan.num_rows), plan.members)
    some = data.draw(st.lists(st.integers(0, plan.num_rows - 1), max_size=5) if plan.num_rows else st.just([]))
    found, places = plan.examples(np.array(some, np.int64), plan.members)
    want = [(place, e) for place, row in enumerate(some) for e in examples[rows == row]]
    assert list(zip(places.tolist(), found.tolist(), strict=True)) == want


def test_no_examples_give_no_rows():
    plan = pack(np.zeros((0, 2), np.int64), (4, 4))
    assert plan.num_rows == 0


def test_an_epoch_shuffles_examples_within_equal_lengths():
    lengths_NxA = np.random.default_rng(0).integers(1, 9, (300, 2))
    plan = pack(lengths_NxA, (16, 16))
    examples = [plan.examples(np.arange(plan.num_rows), plan.shuffled(np.random.default_rng(seed)))[0] for seed in (1, 2, 1)]
    assert np.array_equal(lengths_NxA[examples[0]], lengths_NxA[examples[1]])
    assert np.mean(examples[0] == examples[1]) < 0.5  # about five examples of each pair of lengths
    assert np.array_equal(examples[0], examples[2])


def test_an_example_longer_than_a_row_is_an_error():
    for lengths in ([[5, 1]], [[1, 5]]):
        with pytest.raises(ValueError):
            pack(np.array(lengths), (4, 4))


# --- padding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "shape", "rows"),
    [
        ([[4, 4]] * 6, (8, 8), 3),
        ([[7, 1], [1, 7]] * 5, (8, 8), 5),  # what fits the shape of the room left
        ([[5, 5], [3, 3], [6, 6], [2, 2]], (8, 8), 2),
        ([[8, 1]] * 3 + [[1, 8]] * 3, (9, 9), 3),
        ([[3], [5], [1], [7], [8]], (8,), 3),
        ([[5, 5]] * 4, (8, 8), 4),  # no two fit
        ([[6]] * 3 + [[2]] * 6 + [[3]] * 3 + [[1]], (10,), 4),  # 6 + 2 + 2 leaves nothing, 6 + 3 does
    ],
)
def test_rows_of_small_cases(lengths, shape, rows):
    assert pack(np.array(lengths), shape).num_rows == rows


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("highest", [16, 64])
def test_random_lengths_are_packed_with_little_padding(sides, highest):
    lengths_NxA = np.random.default_rng(highest).integers(1, highest, (3000, sides))
    plan = pack(lengths_NxA, choose_shape(lengths_NxA, 128))
    assert plan.padding <= 0.03


def like_multi30k(count: int) -> np.ndarray:
    """Lengths as in Multi30k with 10,000 pieces: mean 15 on both sides, standard deviation 5, correlation 0.86, at most 51."""
    draw = np.random.default_rng(0)
    common = draw.lognormal(2.62, 0.29, (count, 1))
    return np.clip(np.rint(common * draw.lognormal(0, 0.12, (count, 2))) + 1, 4, 51).astype(np.int64)


def test_lengths_like_multi30k_are_packed_with_little_padding():
    lengths_NxA = like_multi30k(10_000)
    assert np.allclose(lengths_NxA.mean(axis=0), 15, atol=1) and np.allclose(lengths_NxA.std(axis=0), 5, atol=0.7)
    assert 0.8 < np.corrcoef(lengths_NxA.T)[0, 1] < 0.9
    plan = pack(lengths_NxA, choose_shape(lengths_NxA, 64))
    check(plan, lengths_NxA, plan.shape, plan.members)
    assert plan.padding <= 0.025


def test_multi30k_is_packed_with_little_padding():
    folder = Path(os.environ.get("TRANSFORMER_DATA", "")) / "multi30k" / "tok"
    if "TRANSFORMER_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("no Multi30k: the environment variable TRANSFORMER_DATA names no folder with multi30k/tok")
    corpus = benchmark.read(folder)
    assert len(corpus["source"]) == 29_000
    batches = benchmark.planned(corpus, "packed")
    counts = [pipeline.count(batches[n], benchmark.OBJECTIVE) for n in range(len(batches))]  # an epoch, a little of the next
    filled, slots = (sum(count[name] for count in counts) for name in ("filled", "slots"))
    assert 1 - filled / slots <= 0.02
    assert batches.padding == pytest.approx(1 - filled / slots, abs=0.005)


# --- what planning costs -----------------------------------------------------------------------------------------------


def patterns(lengths_NxA: np.ndarray, shape: tuple[int, ...]) -> int:
    """The number of distinct patterns of rows."""
    with mock.patch.object(packing, "_fill", wraps=packing._fill) as fill:
        plan = pack(lengths_NxA, shape)
    assert len(plan.members) == len(lengths_NxA)
    return fill.call_count


def test_a_million_examples_take_no_more_patterns_than_a_thousand():
    draw = np.random.default_rng(0)
    types_KxA = draw.integers(1, 40, (20, 2))
    few, many = (patterns(types_KxA[draw.integers(0, 20, count)], (64, 64)) for count in (1_000, 1_000_000))
    assert few <= 40 and many <= 40


def test_patterns_are_few_on_lengths_like_multi30k():
    lengths_NxA = like_multi30k(10_000)
    assert patterns(lengths_NxA, (64, 64)) < len(np.unique(lengths_NxA, axis=0))


# --- shapes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "slots", "shape"),
    [
        ([[3, 2], [3, 4]], 32, (32, 32)),
        ([[6, 2], [6, 4]], 32, (64, 32)),
        ([[1, 4], [2, 4]], 32, (12, 32)),
        ([[1, 4], [2, 5]], 32, (11, 32)),  # 3 / 9 of 32, rounded up
        ([[1, 9], [20, 9]], 10, (20, 10)),  # the longest at least
        ([[3], [4]], 8, (8,)),
    ],
)
def test_slots_are_proportional_to_tokens(lengths, slots, shape):
    assert choose_shape(np.array(lengths), slots) == shape


@SOME
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=30), st.integers(1, 5))
def test_buckets_are_optimal(lengths, count):
    lengths_NxA = np.array(lengths)
    longest_N = lengths_NxA.max(axis=1)
    values = np.unique(longest_N).tolist()

    def slots(bounds) -> int:
        return sum(min(bound for bound in bounds if bound >= length) for length in longest_N)

    found = buckets(lengths_NxA, count).tolist()
    assert found == sorted(set(found)) and len(found) <= count and found[-1] == values[-1]
    choices = (c for size in range(1, count + 1) for c in itertools.combinations(values, size) if c[-1] == values[-1])
    assert slots(found) == min(map(slots, choices))


def test_of_many_lengths_some_are_bounds(monkeypatch):
    monkeypatch.setattr(packing, "MOST_LENGTHS", 4)
    lengths_NxA = np.array([[length] for length in (1, 2, 3, 4, 5, 6, 7, 8, 9, 9)])
    assert buckets(lengths_NxA, 9).tolist() == [3, 6, 9]  # every third of nine
    assert buckets(lengths_NxA[3:7], 9).tolist() == [4, 5, 6, 7]


def test_as_many_buckets_as_lengths_pad_nothing():
    assert buckets(np.array([[3, 1], [2, 7], [5, 5], [3, 3]]), 9).tolist() == [3, 5, 7]
