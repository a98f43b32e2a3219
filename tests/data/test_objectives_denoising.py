"""Span corruption and denoising: published lengths, and restoring hidden tokens gives the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.corpus import Ragged
from transformer.data.objectives import Denoise, SpanCorruption

START, END, MASK, BEGIN, TOP = 1, 2, 3, 0, 1999
SOME = settings(max_examples=40, derandomize=True, deadline=None, database=None)
DOCUMENTS = st.lists(st.lists(st.integers(4, 99), max_size=60), min_size=1, max_size=4)


def spans(limit_source: int, limit_target: int, sentinels: int = 100, **others) -> SpanCorruption:
    return SpanCorruption(limit_source, limit_target, sentinels, TOP, START, END, **others)


@pytest.mark.parametrize(
    ("source", "target", "tokens"), [(512, 114, 568), (512, 512, 568), (512, 113, 563), (114, 30, 126), (3, 3, 2)]
)
def test_chunks_are_as_long_as_the_published_code_makes_them(source, target, tokens):
    objective = spans(source, target)
    assert objective.window == tokens
    lengths = objective.lengths(objective.chunk_documents({"text": Ragged.of([[9] * (tokens + 1)])}))
    assert len(lengths) == 2 and (lengths <= (source, target)).all()
    if (source, target) == (512, 114):
        assert lengths[0].tolist() == [512, 114]


def test_chunks_have_no_more_spans_than_there_are_sentinels():
    assert spans(512, 512, sentinels=4).window == 89  # 13 tokens in round(13 / 3) spans; of 90 tokens 14 in 5
    assert spans(512, 512, sentinels=28).window == spans(512, 512).window == 568


def restore(source: list[int], targets: list[int]) -> list[int]:
    """The text, where each sentinel of the source is replaced by the tokens after it in the targets."""
    assert source[-1] == END == targets[-1]
    hidden: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token > TOP - 100:
            hidden[token] = []
        else:
            hidden[list(hidden)[-1]].append(token)
    assert list(hidden) == [TOP - k for k in range(len(hidden))] == [t for t in source if t > TOP - 100]
    assert all(hidden.values())
    return sum((hidden.get(token, [token]) for token in source[:-1]), [])


@SOME
@given(DOCUMENTS, st.integers(3, 50), st.integers(3, 50), st.floats(0.05, 0.95), st.floats(1, 5), st.integers(0, 5))
def test_inserting_the_spans_restores_the_documents(documents, source, target, rate, span_length, epoch):
    objective = spans(source, target, rate=rate, span_length=span_length)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    restored = []
    for index in range(len(objective.lengths(corpus))):
        row = {name: values.tolist() for name, values in objective.features(corpus, index, epoch).items()}
        assert row["inputs"] == [START, *row["targets"][:-1]] and row["weights"] == [1.0] * len(row["inputs"])
        restored += restore(row["source"], row["targets"])
    assert restored == sum(documents, [])


def test_15_percent_are_hidden_in_spans_of_3():
    objective = spans(512, 114)
    corpus = objective.chunk_documents({"text": Ragged.of([[9] * 568 * 3])})
    for index in range(3):
        row = objective.features(corpus, index, 0)
        sentinels = np.sum(row["source"] > 100)
        hidden = len(row["targets"]) - sentinels - 1
        assert (hidden, sentinels) == (85, 28)  # 15.0 % of 568 tokens, 3.04 in the mean


def test_a_text_of_one_token_hides_nothing():
    objective = spans(9, 9)
    row = objective.features(objective.chunk_documents({"text": Ragged.of([[7]])}), 0, 0)
    assert row["source"].tolist() == [7, END] and row["targets"].tolist() == [END] and row["inputs"].tolist() == [START]


# --- denoising ---------------------------------------------------------------------------------------------------------


def noise(source: int = 40, target: int = 40, **others) -> Denoise:
    return Denoise(source, target, MASK, START, END, **others)


def rows(objective, documents, epoch: int = 0) -> list[dict[str, list]]:
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    every = range(len(objective.lengths(corpus)))
    return [{n: v.tolist() for n, v in objective.features(corpus, index, epoch).items()} for index in every]


@SOME
@given(DOCUMENTS, st.integers(3, 40), st.integers(2, 40), st.sampled_from([None, BEGIN]), st.integers(0, 5))
def test_the_targets_are_the_documents(documents, source, target, begin, epoch):
    found = rows(noise(source, target, begin=begin, delete_rate=0.2, ends_sentence=np.arange(100) < 30), documents, epoch)
    assert sum((row["targets"][:-1] for row in found), []) == sum(documents, [])
    for row in found:
        assert row["targets"][-1] == END == row["source"][-1]
        assert row["inputs"] == [START, *row["targets"][:-1]] and row["weights"] == [1.0] * len(row["inputs"])
        assert begin is None or row["source"][0] == begin
        assert set(row["source"]) <= {*row["targets"], MASK, BEGIN}


@SOME
@given(st.integers(1, 38), st.floats(0.05, 0.95), st.integers(0, 20))
def test_masks_of_infilling_are_at_the_gaps(size, rate, epoch):
    """With distinct tokens: the remaining ones are in order, a fraction `rate` is missing, and there is a mask where some are
    missing."""
    (row,) = rows(noise(rate=rate), [range(10, 10 + size)], epoch)
    text = row["source"][:-1]
    kept = [token for token in text if token != MASK]
    assert kept == sorted(set(kept)) and len(kept) == size - max(1, round(size * rate))
    before = 9
    masked = False
    for token in [*text, 10 + size]:
        assert token == MASK or masked or token == before + 1
        before, masked = (before, True) if token == MASK else (token, False)


def test_30_percent_are_hidden_in_spans_of_3_some_of_them_empty():
    found = rows(noise(1000, 1000), [range(10, 10 + 998)] * 20)
    kept = [[token for token in row["source"] if token != MASK] for row in found]
    assert all(len(tokens) == 998 - 299 + 1 for tokens in kept)
    masks = sum(row["source"].count(MASK) for row in found)
    assert abs(20 * 299 / masks - 3) < 0.25
    empty = 0
    for row in found:
        text = row["source"]
        empty += sum(text[i] == MASK and text[i + 1] == text[i - 1] + 1 for i in range(1, len(text) - 2))
    assert 20 < empty < 0.08 * masks  # e^-3 is 5 %


def test_each_corruption_is_a_setting():
    sentences = [10, 11, 50, 12, 13, 14, 50, 15, 50, 16]
    little = {"rate": 0.001, "span_length": 1.0}  # infilling hides one token at least
    ends_sentence = np.arange(100) == 50
    plain = [rows(noise(**little), [sentences], epoch)[0]["source"] for epoch in range(9)]
    for source in plain:
        place = source.index(MASK)
        assert [*source[:place], sentences[place], *source[place + 1 :]] == [*sentences, END]
    permuted = [rows(noise(**little, ends_sentence=ends_sentence), [sentences], epoch)[0] for epoch in range(30)]
    assert all(row["targets"] == [*sentences, END] for row in permuted)
    first = {row["source"][0] for row in permuted}
    assert first - {MASK} == {10, 12, 15, 16}
    deleted = [rows(noise(**little, delete_rate=0.3), [range(10, 30)], epoch)[0]["source"] for epoch in range(9)]
    for source in deleted:
        left = [token for token in source[:-1] if token != MASK]
        assert len(source) == 14 + 1 and len(left) == 13 and left == sorted(left)
    assert len({tuple(source) for source in deleted}) == 9
