"""Batches by index: each example once per epoch, contents against plain loops, and random access."""

import collections
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transformer.config import Data
from transformer.cuts import Cut
from transformer.data import pipeline
from transformer.data.corpus import Ragged, cached
from transformer.data.objectives import Objective, Translate
from transformer.data.pipeline import count, plan, read
from transformer.errors import UserError

LIMIT = 40
KINDS = ("packed", "bucketed")
both_kinds = pytest.mark.parametrize("batching", KINDS)


def data_of(batching: str, **others) -> Data:
    return Data(batching=batching, max_source_length=LIMIT, max_target_length=LIMIT, buckets=3, **others)  # type: ignore[arg-type]


def corpus_of(size: int, longest: int = LIMIT - 1, seed: int = 0) -> dict[str, Ragged]:
    """Random tokens, so that examples can be identified; a few have no text on one or both sides."""
    draw = np.random.default_rng(seed)
    lengths_NxA = draw.integers(1, longest + 1, (size, 1)) + draw.integers(-2, 3, (size, 2))
    lengths_NxA = np.clip(lengths_NxA, 1, longest)
    lengths_NxA[:3] = [[0, 5], [5, 0], [0, 0]]
    return {
        side: Ragged.of([draw.integers(4, 10**9, length) for length in lengths_NxA[:, number]])
        for number, side in enumerate(("source", "target"))
    }


@dataclasses.dataclass(frozen=True)
class Dated(Translate):
    """The start token is the number of the epoch."""

    def features(self, corpus, index, epoch):
        features = Translate.features(self, corpus, index, epoch)
        features["inputs"][0] = 100 + epoch
        return features

    def features_batch(self, corpus, index_N, epoch_N):
        return Objective.features_batch(self, corpus, index_N, epoch_N)


OBJECTIVE = Dated(LIMIT, LIMIT)
CORPUS = corpus_of(150)


def make(batching: str, training: bool, seed: int = 0, tokens: int = 400, multiple: int = 1, **others) -> pipeline.Batches:
    return plan(CORPUS, OBJECTIVE, data_of(batching, **others), tokens, multiple, seed, training)[0]


def keys(corpus=CORPUS, objective: Objective = OBJECTIVE, epoch: int = 0) -> list[tuple]:
    """Each example's features, as a tuple that can be counted."""
    each = (objective.features(corpus, i, epoch) for i in range(len(corpus["source"])))
    return [tuple(tuple(features[name].tolist()) for name in ("source", "inputs", "targets", "weights")) for features in each]


def unpack(batch: pipeline.Batch) -> list[list[tuple]]:
    """The examples of each row, read slot by slot; asserts that they are contiguous and numbered, and that all other slots are
    empty."""
    sides = (
        ("source_segments", "source_positions", ("source",)),
        ("segments", "positions", ("inputs", "targets", "weights")),
    )
    rows = []
    for row in range(len(batch["segments"])):
        found = []
        for segments, positions, names in sides:
            examples, before = [], 0
            for slot, segment in enumerate(batch[segments][row]):
                values = [batch[name][row, slot].item() for name in names]
                if segment == 0:
                    assert not any(values) and batch[positions][row, slot] == 0
                else:
                    if segment != before:
                        assert segment == before + 1 and (slot == 0 or batch[segments][row, slot - 1] == before)
                        examples.append([[] for _ in names])
                    assert batch[positions][row, slot] == len(examples[-1][0])
                    for value, values_so_far in zip(values, examples[-1], strict=True):
                        values_so_far.append(value)
                    before = segment
            assert not any(batch[segments][row, sum(len(e[0]) for e in examples) :])  # no gap before the last
            found.append([tuple(map(tuple, example)) for example in examples])
        rows.append([source + target for source, target in zip(*found, strict=True)])
    return rows


def same(a: pipeline.Batch, b: pipeline.Batch) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a)


# --- what stands where -------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("training", [True, False])
def test_batches_hold_whole_examples_in_numbered_segments(batching, training):
    batches, known = make(batching, training), set(keys())
    for number in range(len(batches)):
        batch = batches[number]
        rows = unpack(batch)  # asserts what stands where
        assert set(itertools.chain(*rows)) <= known | set(keys(epoch=1))
        assert batching == "packed" or all(len(row) <= 1 for row in rows)
        for name, array in batch.items():
            assert array.dtype == (np.float32 if name == "weights" else np.int32)
            assert array.shape == batch["source" if name.startswith("source") else "inputs"].shape
            assert array.shape[0] == len(rows)
    assert batching == "bucketed" or max(len(row) for row in rows) > 1


# --- epochs ------------------------------------------------------------------------------------------------------------


def epochs(batches: pipeline.Batches, how_many: int) -> list[list[list[tuple]]]:
    """The rows of each epoch: a packed epoch has the number of rows in the plan, and may begin in the middle of a batch."""
    if isinstance(batches, pipeline.Packed):
        size = batches.plan.num_rows
        rows = [row for number in range(-(-size * how_many // batches.rows)) for row in unpack(batches[number])]
        return [rows[epoch * size : (epoch + 1) * size] for epoch in range(how_many)]
    size = len(batches)
    return [[row for n in range(e * size, (e + 1) * size) for row in unpack(batches[n])] for e in range(how_many)]


@both_kinds
@pytest.mark.parametrize("multiple", [1, 3])
def test_an_epoch_of_training_has_each_example_once_and_as_many_rows_as_any(batching, multiple):
    batches = make(batching, True, multiple=multiple)
    if isinstance(batches, pipeline.Packed):
        assert batches.plan.num_rows % batches.rows, "no batch straddles two epochs: a test of nothing"
    found = epochs(batches, 4)
    assert len({len(rows) for rows in found}) == 1
    for epoch, rows in enumerate(found):
        assert collections.Counter(itertools.chain(*rows)) == collections.Counter(keys(epoch=epoch))


@both_kinds
@pytest.mark.parametrize("multiple", [1, 3])
def test_evaluation_has_each_example_once_in_as_many_batches_as_it_says(batching, multiple):
    batches = make(batching, False, multiple=multiple)
    rows = [row for batch in batches for row in unpack(batch)]  # ends by itself
    assert collections.Counter(itertools.chain(*rows)) == collections.Counter(keys())
    assert len(list(batches)) == len(batches)


@both_kinds
def test_there_is_no_batch_before_the_first_nor_in_evaluation_after_the_last(batching):
    evaluation, training = make(batching, False), make(batching, True)
    for batches, number in ((evaluation, -1), (evaluation, len(evaluation)), (training, -1)):
        with pytest.raises(IndexError):
            batches[number]
    assert training[10**6]["segments"].any()


def company(batches: pipeline.Batches, first: int, last: int) -> set[frozenset]:
    """The examples that share a row or, with one example per row, a batch; without start tokens, which are the epoch."""
    rows = []
    for number in range(first, last):
        found = [[(source, targets) for source, _, targets, _ in row] for row in unpack(batches[number])]
        rows += found if isinstance(batches, pipeline.Packed) else [itertools.chain(*found)]
    return set(map(frozenset, rows)) - {frozenset()}


@both_kinds
def test_rows_have_other_examples_in_other_epochs_and_seeds(batching):
    corpus = corpus_of(400, longest=6)  # few lengths: examples of the same ones change places

    def batches(seed: int) -> pipeline.Batches:
        return plan(corpus, OBJECTIVE, data_of(batching), 400, 1, seed, True)[0]

    size = len(batches(1))
    first = company(batches(1), 0, size)
    assert first == company(batches(1), 0, size) and len(first) >= 8
    for other in (company(batches(1), size, 2 * size), company(batches(2), 0, size)):
        assert len(first & other) <= len(first) / 4


@both_kinds
def test_order_differs_between_epochs_and_seeds(batching):
    (first, second), (other, _), (again, _) = (epochs(make(batching, True, seed), 2) for seed in (1, 2, 1))
    assert first == again
    # A row of one epoch and one of another are known as the same by their lengths alone.
    lengths = [[[len(targets) for _, _, targets, _ in row] for row in rows] for rows in (first, second, other)]
    assert lengths[0] != lengths[1] and lengths[0] != lengths[2]
    assert all(sorted(rows) == sorted(lengths[0]) for rows in lengths)


def test_shapes_come_in_another_order_in_each_epoch():
    batches = make("bucketed", True)
    size = len(batches)
    first, second = ([batches[n]["inputs"].shape for n in range(e * size, (e + 1) * size)] for e in (0, 1))
    assert first != second and sorted(first) == sorted(second)


@both_kinds
def test_evaluation_does_not_depend_on_the_seed(batching):
    assert all(same(a, b) for a, b in zip(make(batching, False, 1), make(batching, False, 2), strict=True))


# --- access at random --------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("first", [0, 1, 7, 40])
def test_reading_from_the_middle_gives_what_reading_from_the_start_gives(batching, first):
    whole = list(read(make(batching, True), 0, 45, workers=0))
    part = list(read(make(batching, True), first, 45, workers=0))
    assert len(whole) == 45 and len(part) == 45 - first
    assert all(same(a, b) for a, b in zip(whole[first:], part, strict=True))
    direct = make(batching, True)
    for number in (44, first, 20):  # in any order
        assert same(direct[number], whole[number])


def test_nothing_is_read_after_the_end():
    assert list(read(make("packed", True), 5, 5, workers=0)) == [] == list(read(make("packed", True), 6, 5, workers=0))


@both_kinds
def test_pickled_batches_give_the_same_batches(batching, tmp_path):
    corpus = cached(tmp_path / "tokens", lambda: CORPUS)
    batches = plan(corpus, OBJECTIVE, data_of(batching), 400, 1, 0, True)[0]
    batches[3]  # what was computed is no part of what is sent
    sent = pickle.loads(pickle.dumps(batches))  # noqa: S301
    for number in (0, 30):
        assert same(sent[number], batches[number]) and same(make(batching, True)[number], batches[number])


def test_worker_processes_give_the_same_batches():
    objective = Translate(LIMIT, LIMIT)  # a worker can import it
    batches = plan(CORPUS, objective, data_of("packed"), 400, 1, 0, True)[0]
    found, wanted = (list(read(batches, 2, 9, workers)) for workers in (2, 0))
    assert len(found) == len(wanted) == 7
    assert all(same(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_killed_worker_process_gives_a_one_line_error():
    objective = Translate(LIMIT, LIMIT)
    batches = read(plan(CORPUS, objective, data_of("packed"), 400, 1, 0, True)[0], 0, 100_000, 1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(UserError, match=r"a process that reads data ended \(exit code -9; .*config.data.workers=0"):
        for _ in batches:
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_does_not_end_a_worker_process(number):
    """It may reach all processes of a terminal or of a cluster's job; the run reads on until its update is saved."""
    objective = Translate(LIMIT, LIMIT)
    batches = read(plan(CORPUS, objective, data_of("packed"), 400, 1, 0, True)[0], 0, 100_000, 1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert len(list(itertools.islice(batches, 50))) == 50 and worker.is_alive()
    worker.kill()


ENDLESS = """
import os, signal
from transformer.data import pipeline
if __name__ == "__main__":
    batches = pipeline.read(range(100_000), 0, 100_000, 1)
    print(next(batches), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_process_ends_with_a_run_that_is_killed(tmp_path):
    """A worker that remains keeps its output open, so that the time runs out."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "endless.py")]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (killed.stdout, killed.returncode) == ("0\n", -signal.SIGKILL)


# --- sizes -------------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("multiple", [1, 2, 6])
def test_rows_are_a_multiple_of_devices_and_fill_batch_tokens(batching, training, multiple):
    batches = make(batching, training, multiple=multiple, tokens=800)
    for number in range(len(batches)):
        rows, slots = batches[number]["inputs"].shape
        assert rows % multiple == 0
        assert (rows - multiple) * slots < 800 < (rows + 1) * slots


@both_kinds
def test_examples_of_a_batch_are_the_same_for_any_number_of_devices_and_processes(batching):
    """They are followed by empty rows; the parts, concatenated, form the batch."""
    alone = make(batching, True, tokens=800)
    for multiple in (2, 4, 8):
        batches = make(batching, True, tokens=800, multiple=multiple)
        parts = [
            plan(CORPUS, OBJECTIVE, data_of(batching), 800, multiple, 0, True, share=share)[0]
            for share in ((tuple(range(multiple // 2)), multiple), (tuple(range(multiple // 2, multiple)), multiple))
        ]
        for number in range(2 * len(alone)):
            wanted, found, halves = alone[number], batches[number], [part[number] for part in parts]
            rows = len(wanted["inputs"])
            assert rows <= len(found["inputs"]) < rows + multiple
            for name, values in wanted.items():
                assert np.array_equal(found[name][:rows], values) and not found[name][rows:].any()
                assert len(halves[0][name]) == len(halves[1][name])
                assert np.array_equal(np.concatenate([half[name] for half in halves]), found[name])


@both_kinds
def test_batches_have_few_shapes(batching):
    batches = make(batching, True)
    shapes = {(b["source"].shape, b["inputs"].shape) for b in (batches[n] for n in range(2 * len(batches)))}
    assert len(shapes) == {"packed": 1, "bucketed": 3}[batching]


def test_a_packed_row_has_the_given_length():
    assert make("packed", True)[0]["inputs"].shape == (6, 64)
    assert make("packed", True, row_length=100)[0]["inputs"].shape == (4, 100)
    corpus = {"source": CORPUS["source"], "target": Ragged.of([[5] * 79, *[[6]] * 149])}
    long = plan(corpus, Translate(90, 90), Data(), 400, 1, 0, True)[0]
    assert long[0]["inputs"].shape == (5, 80)  # the longest target


@both_kinds
def test_batch_tokens_smaller_than_a_row_give_a_notice(batching):
    data = data_of(batching)
    batches, notices = plan(CORPUS, OBJECTIVE, data, 100, 4, 0, True)
    slots = {"packed": 64, "bucketed": LIMIT}[batching]
    assert len(notices) == 1 + (slots > 100) and all("config.train.batch_tokens 100:" in notice for notice in notices)
    assert f"{slots} slots" in notices[-1] and f"{4 - 100 // slots} rows" in notices[-1]
    assert all(batches[n]["inputs"].shape[0] % 4 == 0 for n in range(len(batches)))
    assert not plan(CORPUS, OBJECTIVE, data, 4 * slots, 4, 0, True)[1]
    (notice,) = plan(CORPUS, OBJECTIVE, data, slots - 1, 1, 0, True)[1]
    assert f"batch_tokens {slots - 1}:" in notice and "empty" not in notice  # one row, which no device misses


@both_kinds
def test_padding_and_counts_are_those_of_the_batches(batching):
    batches = make(batching, False)
    total = collections.Counter()
    for batch in batches:
        rows = unpack(batch)
        found = count(batch, OBJECTIVE)
        examples = list(itertools.chain(*rows))
        target_tokens = sum(len(example[2]) for example in examples)
        assert found == {
            "examples": len(examples),
            "tokens": target_tokens,
            "filled": target_tokens + sum(len(example[0]) for example in examples),
            "slots": batch["source"].size + batch["inputs"].size,
        }
        total.update(found)
    assert total["examples"] == len(keys())
    assert batches.padding == pytest.approx(1 - total["filled"] / total["slots"])


@both_kinds
@pytest.mark.parametrize("multiple", [1, 8])
def test_the_padding_of_training_is_that_of_its_batches(batching, multiple):
    """At least eight rows per batch, of which `batch_tokens` allows six or fewer: the empty ones count as padding."""
    batches = make(batching, True, multiple=multiple)
    many = batches.plan.num_rows if isinstance(batches, pipeline.Packed) else len(batches)  # whole epochs of either kind
    found = pipeline.count_slots(batches, range(many), OBJECTIVE)
    assert batches.padding == pytest.approx(1 - found["filled"] / found["slots"])
    assert multiple == 1 or batches.padding > make(batching, True).padding + 0.05


# --- too long ----------------------------------------------------------------------------------------------------------

SHORT = Translate(20, 30)


def long_examples() -> np.ndarray:
    return (CORPUS["source"].lengths + 1 > 20) | (CORPUS["target"].lengths + 1 > 30)


@both_kinds
@pytest.mark.parametrize(("training", "too_long"), [(True, "drop"), (True, "cut"), (False, "drop"), (False, "cut")])
def test_too_long_examples_are_dropped_or_cut_and_counted_and_evaluation_drops_none(batching, training, too_long):
    data, dropped = data_of(batching, too_long=too_long), training and too_long == "drop"
    batches, notices = plan(CORPUS, SHORT, data, 400, 1, 0, training)
    what = "dropped (config.data.too_long=cut keeps their beginning)" if dropped else "cut"
    (notice,) = notices
    assert isinstance(notice, Cut) and (notice.count, notice.of) == (long_examples().sum(), 150)
    assert notice.what.endswith(f"were {what}") and {"20", "30"} <= set(notice.what.split())
    assert "config.data.max_source_length" in notice.what and "config.data.max_target_length" in notice.what
    wanted = [key for key, long in zip(keys(objective=SHORT), long_examples(), strict=True) if not (dropped and long)]
    (rows,) = epochs(batches, 1) if training else ([row for batch in batches for row in unpack(batch)],)
    assert collections.Counter(itertools.chain(*rows)) == collections.Counter(wanted)
    planned = batches.plan.tokens if isinstance(batches, pipeline.Packed) else batches.tokens  # type: ignore[attr-defined]
    assert planned == sum(len(source) + len(targets) for source, _, targets, _ in wanted)


def test_without_a_long_example_there_is_no_notice():
    assert plan(CORPUS, OBJECTIVE, data_of("packed"), 400, 1, 0, True)[1] == []


@both_kinds
def test_if_all_examples_are_too_long_it_is_an_error(batching):
    corpus = {side: Ragged.of([[5] * 50] * 4) for side in ("source", "target")}
    with pytest.raises(UserError) as error:
        plan(corpus, OBJECTIVE, data_of(batching), 400, 1, 0, True)
    message = str(error.value)
    assert message.startswith("4 of 4 examples") and "no example remains" in message
    assert "config.data.too_long=cut" in message and "config.data.max_source_length" in message
    assert len(plan(corpus, OBJECTIVE, data_of(batching, too_long="cut"), 400, 1, 0, True)[0])
