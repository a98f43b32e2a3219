"""The inputs and targets of a translation example, against a plain definition on lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.corpus import Ragged
from transformer.data.objectives import DECODER, ENCODER, Objective, Translate

START, END = 1, 2
TOKENS = st.lists(st.integers(4, 99), max_size=6)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6)
LIMITS = st.tuples(st.integers(2, 8), st.integers(2, 8))
BEGIN = st.sampled_from([None, 3])
SOME = settings(max_examples=50, derandomize=True, deadline=None, database=None)


def corpus_of(pairs) -> dict[str, Ragged]:
    return {"source": Ragged.of([source for source, _ in pairs]), "target": Ragged.of([target for _, target in pairs])}


def wanted(source: list[int], target: list[int], longest_source: int, longest_target: int, begin=None) -> dict[str, list]:
    source = source if begin is None else [begin, *source]
    kept = source if len(source) < longest_source else source[: longest_source - 1]
    predicted = target + [END] if len(target) < longest_target else target[:longest_target]
    return {
        "source": kept + [END],
        "inputs": ([START] + target)[: len(predicted)],
        "targets": predicted,
        "weights": [1.0] * len(predicted),
    }


def plain(features) -> dict[str, list]:
    return {name: values.tolist() for name, values in features.items()}


@SOME
@given(PAIRS, LIMITS, BEGIN)
def test_features_match_a_plain_statement(pairs, limits, begin):
    corpus, objective = corpus_of(pairs), Translate(*limits, begin=begin)
    for number, (source, target) in enumerate(pairs):
        assert plain(objective.features(corpus, number, epoch=0)) == wanted(source, target, *limits, begin)


@SOME
@given(PAIRS, LIMITS, BEGIN, st.data())
def test_a_batch_is_its_examples_one_by_one(pairs, limits, begin, data):
    """In any order, with repetitions."""
    corpus, objective = corpus_of(pairs), Translate(*limits, begin=begin)
    index_N = np.array(data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=8)), np.int64)
    for make in (objective.features_batch, lambda *a: Objective.features_batch(objective, *a)):
        found = make(corpus, index_N, np.zeros_like(index_N))
        rows = [{name: found[name][row].tolist() for name in found} for row in range(len(index_N))]
        assert rows == [wanted(*pairs[i], *limits, begin) for i in index_N]
        assert all(len(rows) == len(index_N) for rows in found.values())
        for sequence in objective.sequences:
            assert {name: found[name].values.dtype for name in sequence.features} == dict(sequence.features)


@SOME
@given(PAIRS, LIMITS, BEGIN)
def test_lengths_are_those_before_a_cut(pairs, limits, begin):
    corpus, objective = corpus_of(pairs), Translate(*limits, begin=begin)
    lengths_NxA = objective.lengths(corpus)
    before = begin is not None
    assert lengths_NxA.tolist() == [[len(source) + 1 + before, len(target) + 1] for source, target in pairs]
    assert objective.limits == limits
    cut_NxA = np.minimum(lengths_NxA, limits)
    for number in range(len(pairs)):
        features = objective.features(corpus, number, epoch=0)
        assert [len(features["source"]), len(features["targets"])] == cut_NxA[number].tolist()


@pytest.mark.parametrize(
    ("length", "source", "inputs", "targets"),
    [
        (0, [2], [1], [2]),
        (2, [11, 12, 2], [1, 11, 12], [11, 12, 2]),
        (3, [11, 12, 13, 2], [1, 11, 12, 13], [11, 12, 13, 2]),  # the limit, end included
        (4, [11, 12, 13, 2], [1, 11, 12, 13], [11, 12, 13, 14]),  # one too long: the target does not claim to end
        (9, [11, 12, 13, 2], [1, 11, 12, 13], [11, 12, 13, 14]),
    ],
)
def test_around_the_limit_by_hand(length, source, inputs, targets):
    tokens = list(range(11, 11 + length))
    corpus, objective = corpus_of([([7], [8]), (tokens, tokens)]), Translate(4, 4)
    want = {"source": source, "inputs": inputs, "targets": targets, "weights": [1.0] * len(targets)}
    assert plain(objective.features(corpus, 1, epoch=0)) == want
    assert plain({n: rows[0] for n, rows in objective.features_batch(corpus, np.array([1]), np.array([0])).items()}) == want


def test_start_and_end_are_settings():
    objective = Translate(5, 5, start=2, end=3)
    want = {"source": [7, 3], "inputs": [2, 8, 9], "targets": [8, 9, 3], "weights": [1.0] * 3}
    assert plain(objective.features(corpus_of([([7], [8, 9])]), 0, epoch=0)) == want


def test_the_last_sequence_is_the_target():
    assert Translate.sequences == (ENCODER, DECODER)
    assert not {*ENCODER.features, ENCODER.positions, ENCODER.segments} & {
        *DECODER.features,
        DECODER.positions,
        DECODER.segments,
    }
