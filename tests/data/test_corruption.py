"""Corruptions have their published statistics, and the original text can be restored from their output."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.objectives import corruption

SOME = settings(max_examples=100, derandomize=True, deadline=None, database=None)
MASK, LOW, HIGH = 3, 10, 20
RATES = st.floats(0.01, 0.99)


def tokens_of(length: int) -> np.ndarray:
    """Tokens that are all different."""
    return np.arange(100, 100 + length, dtype=np.int32)


def near(count: int, of: int, probability: float) -> bool:
    """Within five standard deviations of a binomial count."""
    return abs(count - of * probability) <= 5 * math.sqrt(of * probability * (1 - probability))


# --- masked tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "rate", "share"), [(0, 0.15, 0), (1, 0.15, 1), (20, 0.15, 3), (128, 0.15, 19), (2, 0.99, 2)]
)
def test_a_fraction_is_rounded_and_at_least_one(length, rate, share):
    assert corruption.share_of(length, rate) == share


def test_tokens_are_chosen_uniformly_and_in_the_given_number():
    generator, total = np.random.default_rng(0), np.zeros(20)
    for _ in range(4000):
        chosen = corruption.choose_words(np.ones(20, bool), 3, generator)
        assert chosen.dtype == bool and chosen.sum() == 3
        total += chosen
    assert all(near(count, 4000, 3 / 20) for count in total)


@SOME
@given(st.lists(st.booleans(), max_size=30), st.integers(1, 8), st.integers(0, 99))
def test_whole_words_are_chosen_within_the_budget(starts, budget, seed):
    words: list[list[int]] = []
    for place, begins in enumerate(starts):
        if begins or not words:
            words.append([])
        words[-1].append(place)
    chosen = corruption.choose_words(np.array(starts, bool), budget, np.random.default_rng(seed))
    taken = [word for word in words if all(chosen[word])]
    left = [len(word) for word in words if word not in taken]
    assert chosen.sum() == sum(map(len, taken))
    if starts and min(map(len, words)) > budget:
        assert len(taken) == 1
    else:
        assert chosen.sum() <= budget
        assert all(chosen.sum() + size > budget for size in left)  # no word was passed over for nothing


def test_words_are_chosen_in_random_order():
    starts, generator = np.array([1, 0, 1, 1, 0, 0], bool), np.random.default_rng(0)
    found = collections.Counter(tuple(corruption.choose_words(starts, 2, generator).astype(int)) for _ in range(600))
    assert set(found) == {(1, 1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0)} and min(found.values()) > 150


def test_of_chosen_tokens_80_percent_are_masked_10_random_10_kept():
    tokens, generator = np.full(200_000, 5, np.int32), np.random.default_rng(0)
    chosen = np.arange(200_000) % 4 > 0
    masked = corruption.mask_tokens(tokens, chosen, MASK, (LOW, HIGH), generator)
    assert (masked[~chosen] == 5).all()
    assert near(np.sum(masked == MASK), 150_000, 0.8)
    assert near(np.sum(masked[chosen] == 5), 150_000, 0.1)
    counts = np.bincount(masked[chosen], minlength=HIGH)
    assert counts[LOW:].sum() + counts[5] + counts[MASK] == 150_000 and len(counts) == HIGH
    assert all(near(count, 150_000, 0.01) for count in counts[LOW:])


# --- spans and sentinels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "hidden", "spans"), [(0, 0, 0), (1, 0, 0), (2, 1, 1), (10, 2, 1), (100, 15, 5), (512, 77, 26), (568, 85, 28)]
)
def test_counts_of_spans_are_those_of_the_published_code(length, hidden, spans):
    assert [int(n) for n in corruption.span_counts(np.asarray(length), 0.15, 3.0)] == [hidden, spans]


@SOME
@given(st.integers(2, 200), RATES, st.floats(1, 10), st.integers(0, 99))
def test_spans_are_as_many_as_counted_and_alternate(length, rate, span_length, seed):
    hidden = corruption.random_spans(length, rate, span_length, np.random.default_rng(seed))
    tokens, spans = corruption.span_counts(np.asarray(length), rate, span_length)
    assert 1 <= spans <= tokens < length and spans <= length - tokens
    assert tokens == min(max(round(length * rate), 1), length - 1)
    assert spans == min(max(round(int(tokens) / span_length), 1), length - tokens)
    assert len(hidden) == length and hidden.sum() == tokens
    assert not hidden[0] and hidden[-1]
    assert np.sum(np.diff(hidden.astype(int)) == 1) == spans


def test_the_mean_span_length_is_the_given_one():
    hidden, spans = corruption.span_counts(np.asarray(10_000), 0.15, 3.0)
    assert hidden == 1500 and hidden / spans == 3


def test_all_arrangements_of_spans_are_equally_likely():
    generator = np.random.default_rng(0)
    found = collections.Counter(corruption.random_spans(7, 0.5, 2.0, generator).tobytes() for _ in range(6000))
    assert len(found) == 2 * 3  # 3 kept and 4 hidden tokens in 2 runs each
    assert all(near(count, 6000, 1 / 6) for count in found.values())


def test_sentinels_stand_for_spans_as_in_the_papers_figure():
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week"]
    tokens = np.arange(len(words))
    hidden = np.isin(words, ["for", "inviting", "last"])
    read, targets = corruption.to_sentinels(tokens, hidden, 99), corruption.to_sentinels(tokens, ~hidden, 99)
    assert read.tolist() == [0, 1, 99, 4, 5, 6, 7, 98, 9]
    assert targets.tolist() == [99, 2, 3, 98, 8, 97]  # here text follows the last span, so that a sentinel ends it


# --- infilling ---------------------------------------------------------------------------------------------------------


@SOME
@given(st.integers(0, 60), RATES, st.floats(1, 6), st.integers(0, 99))
def test_filling_the_spans_restores_the_text(length, rate, span_length, seed):
    tokens = tokens_of(length)
    corrupted, spans = corruption.infill(tokens, rate, span_length, MASK, np.random.default_rng(seed))
    restored, place, left = [], 0, list(spans)
    for token in corrupted:
        size = left.pop(0) if token == MASK else 1
        if token != MASK:
            assert token == tokens[place]
        restored += tokens[place : place + size].tolist()
        place += size
    assert not left and restored == tokens.tolist()
    assert sum(spans) == corruption.share_of(length, rate)
    assert len(corrupted) <= length and corrupted.dtype == tokens.dtype


def test_lengths_of_spans_are_poisson_with_empty_ones():
    generator = np.random.default_rng(0)
    spans = np.concatenate([corruption.infill(tokens_of(2000), 0.3, 3.0, MASK, generator)[1] for _ in range(50)])
    assert abs(spans.mean() - 3) < 5 * math.sqrt(3 / len(spans)) + 0.02  # the last of a text is cut
    for length in range(8):
        probability = math.exp(-3) * 3**length / math.factorial(length)
        assert near(np.sum(spans == length), len(spans), probability)


def test_spans_occur_at_every_position():
    generator, total = np.random.default_rng(0), np.zeros(11)
    for _ in range(3000):
        corrupted, spans = corruption.infill(tokens_of(10), 0.1, 1.0, MASK, generator)
        assert spans.tolist() == [1]
        total[np.flatnonzero(corrupted == MASK)[0]] += 1
    assert all(near(count, 3000, 1 / 10) for count in total[:10])


def test_the_span_that_is_cut_occurs_at_every_position():
    """The last span that is drawn is shorter than the others."""
    generator = np.random.default_rng(0)
    spans = np.stack(
        [s for s in (corruption.infill(tokens_of(20), 0.5, 5.0, MASK, generator)[1] for _ in range(2000)) if len(s) == 2]
    )
    first, second = spans.mean(axis=0)
    assert len(spans) > 300 and abs(first - second) < 0.6


# --- sentences and deletion --------------------------------------------------------------------------------------------


def sentences_of(tokens: list[int]) -> list[tuple[int, ...]]:
    found: list[list[int]] = [[]]
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before == 0 and token != 0:
            found.append([])
        found[-1].append(token)
    return [tuple(sentence) for sentence in found if sentence]


@SOME
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(0, 99))
def test_a_permutation_is_one_of_sentences(tokens, seed):
    tokens = [token and token + 10 * place for place, token in enumerate(tokens)]  # 0 ends a sentence, others differ
    array = np.array(tokens, np.int32)
    found = corruption.permute_sentences(array, array == 0, np.random.default_rng(seed)).tolist()
    left = sentences_of(tokens)
    while left:
        head = [sentence for sentence in left if tuple(found[: len(sentence)]) == sentence]
        assert head
        sentence = max(head, key=len)
        left.remove(sentence)
        found = found[len(sentence) :]
    assert not found


def test_sentences_come_in_every_order():
    tokens, generator = np.array([7, 0, 8, 0, 0, 9]), np.random.default_rng(0)
    found = collections.Counter(tuple(corruption.permute_sentences(tokens, tokens == 0, generator)) for _ in range(1200))
    assert len(found) == 6 and all(near(count, 1200, 1 / 6) for count in found.values())
    assert found[(9, 8, 0, 0, 7, 0)]


def test_the_given_number_of_tokens_is_deleted_anywhere():
    generator, total = np.random.default_rng(0), np.zeros(20)
    for _ in range(3000):
        kept = corruption.delete_tokens(tokens_of(20), 0.2, generator)
        assert len(kept) == 16 and (np.diff(kept) > 0).all()
        total[kept - 100] += 1
    assert all(near(count, 3000, 0.8) for count in total)
    assert corruption.delete_tokens(tokens_of(20), 0.0, generator).tolist() == tokens_of(20).tolist()
    assert corruption.delete_tokens(tokens_of(0), 0.2, generator).tolist() == []
