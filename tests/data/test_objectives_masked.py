"""Masked LM: rows as in BERT, restoring the masked tokens gives the text, fractions of masked tokens, related segments."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.corpus import Ragged
from transformer.data.objectives import READER, RELATED, TAGGER, MaskedLM
from transformer.errors import UserError

BEGIN, END, MASK, LOW, HIGH = 1, 2, 3, 4, 1000
SOME = settings(max_examples=40, derandomize=True, deadline=None, database=None)
DOCUMENTS = st.lists(st.lists(st.integers(LOW, HIGH - 1), max_size=30), min_size=2, max_size=5)


def make(limit: int = 16, **others) -> MaskedLM:
    return MaskedLM(limit, BEGIN, END, MASK, LOW, HIGH, **others)


def near(count: float, of: int, probability: float) -> bool:
    return abs(count - of * probability) <= 5 * math.sqrt(of * probability * (1 - probability))


@SOME
@given(DOCUMENTS, st.integers(5, 20), st.integers(0, 5))
def test_filling_the_chosen_tokens_restores_the_documents(documents, limit, epoch):
    objective = make(limit)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    restored = []
    for index in range(len(objective.lengths(corpus))):
        row = objective.features(corpus, index, epoch)
        assert row["source"][0] == BEGIN and row["source"][-1] == END
        chosen = row["weights"] == 1
        assert set(row["weights"]) <= {0.0, 1.0} and not chosen[0] and not chosen[-1]
        filled = np.where(chosen, row["targets"], row["source"])
        assert filled.tolist() == row["targets"].tolist()
        assert not row["token_types"].any()
        text = len(filled) - 2
        assert chosen.sum() == max(1, round(0.15 * text))
        restored += filled[1:-1].tolist()
    assert restored == sum(documents, [])


def test_15_percent_are_chosen_and_of_these_80_10_10():
    tokens = np.random.default_rng(1).integers(LOW, HIGH, (1, 40_000))
    objective = make(limit=102)
    corpus = objective.chunk_documents({"text": Ragged.of(tokens)})
    rows = [objective.features(corpus, index, 0) for index in range(400)]
    source, targets, weights = (np.concatenate([row[n] for row in rows]) for n in ("source", "targets", "weights"))
    chosen = weights == 1
    assert chosen.sum() == 400 * 15
    masked, kept = np.sum(source[chosen] == MASK), np.sum(source[chosen] == targets[chosen])
    assert near(masked, 6000, 0.8)
    assert near(kept, 6000, 0.1 + 0.1 / (HIGH - LOW))
    other = source[chosen & (source != MASK) & (source != targets)]
    assert len(other) > 400 and other.min() >= LOW and other.max() < HIGH
    assert not np.any(source[~chosen] == MASK)


def test_masks_differ_by_epoch():
    objective = make(limit=102)
    corpus = objective.chunk_documents({"text": Ragged.of([[9] * 100])})
    ever = sum(objective.features(corpus, 0, epoch)["weights"] for epoch in range(60))
    assert (ever[1:-1] > 0).all() and ever.max() < 30


@pytest.mark.parametrize("next_sentence", [False, True])
def test_whole_words_are_never_split(next_sentence):
    """A word is a token below 100 and the following tokens above 100; a cut makes two words of it."""
    generator = np.random.default_rng(0)
    documents = [np.where(generator.random(200) < 0.4, 50, 500) for _ in range(4)]
    starts_word = np.arange(HIGH) < 100
    objective = make(32, starts_word=starts_word, next_sentence=next_sentence)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    several, total = 0, 0
    for index in range(len(objective.lengths(corpus))):
        row = objective.features(corpus, index, 0)
        tokens, chosen = row["targets"], row["weights"] == 1
        text = np.sum(tokens >= LOW)
        total += chosen.sum()
        assert 1 <= chosen.sum() <= max(round(0.15 * text), 1) or text < 10
        for place in range(1, len(tokens)):
            if tokens[place] == 500 and tokens[place - 1] >= LOW:
                assert chosen[place] == chosen[place - 1]
                several += chosen[place]
    assert several > 10 and total > 0.1 * 800


def test_a_second_segment_begins_a_new_word():
    documents = [[50, 500, 500, 500], [50, 500, 500, 500]]
    objective = make(32, starts_word=np.arange(HIGH) < 100, next_sentence=True, rate=0.5)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    found = {tuple(objective.features(corpus, 0, epoch)["weights"].astype(int)) for epoch in range(20)}
    assert found == {(0, 1, 1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1, 0)}


# --- next sentence -----------------------------------------------------------------------------------------------------


def segments_of(row) -> tuple[list[int], list[int]]:
    """The two original segments; asserts the special tokens around them."""
    tokens, types = row["targets"].tolist(), row["token_types"].tolist()
    first = types.index(1)
    assert types == [0] * first + [1] * (len(types) - first)
    assert tokens[0] == BEGIN and tokens[first - 1] == END and tokens[-1] == END
    return tokens[1 : first - 1], tokens[first:-1]


@SOME
@given(st.lists(st.integers(2, 40), min_size=2, max_size=5), st.integers(8, 20), st.integers(0, 5))
def test_a_second_segment_follows_or_is_of_another_document(sizes, limit, epoch):
    documents = [[1000 * number + place + 10 for place in range(size)] for number, size in enumerate(sizes)]
    objective = make(limit, next_sentence=True)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    read = set()
    for index in range(len(objective.lengths(corpus))):
        row = objective.features(corpus, index, epoch)
        first, second = segments_of(row)
        assert first and second
        assert [len(row["related"]), row["related_weights"].tolist()] == [1, [1.0]]
        if row["related"][0]:
            assert second[0] == first[-1] + 1 and len(second) <= len(first) + 1
        else:
            assert second[0] // 1000 != first[0] // 1000
            assert len({token // 1000 for token in second}) == 1 and np.all(np.diff(second) == 1)
        read |= set(first) | (set(second) if row["related"][0] else set())
    assert {document[0] for document in documents} <= read


def test_half_of_the_segments_are_related_and_others_come_from_everywhere():
    documents = [np.full(50, 100 + number) for number in range(20)]
    objective = make(28, next_sentence=True)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    size = len(objective.lengths(corpus))
    assert size == 40
    labels, others = [], []
    for epoch in range(50):
        for index in range(size):
            row = objective.features(corpus, index, epoch)
            first, second = segments_of(row)
            labels.append(row["related"][0])
            assert labels[-1] == (first[0] == second[0])
            others += [] if labels[-1] else [second[0] - 100]
    assert near(np.sum(labels), len(labels), 0.5)
    counts = np.bincount(others, minlength=20)
    assert all(near(count, len(others), 1 / 20) for count in counts)


def test_lengths_do_not_reveal_the_label():
    """The documents have many lengths, so that most pairs of halves are unequal."""
    objective = make(40, next_sentence=True)
    corpus = objective.chunk_documents({"text": Ragged.of([[9] * size for size in range(4, 34)])})
    shorter = [[], []]
    for epoch in range(40):
        for index in range(len(objective.lengths(corpus))):
            row = objective.features(corpus, index, epoch)
            first, second = segments_of(row)
            shorter[row["related"][0]].append(len(second) < len(first))
    unrelated, related = map(np.mean, shorter)
    assert 0.3 < related < 0.7 and abs(related - unrelated) < 0.1  # 600 of each: standard deviation 0.03


def test_the_label_is_a_separate_sequence_before_the_text():
    objective = make(next_sentence=True)
    assert objective.sequences == (RELATED, TAGGER) and make().sequences == (TAGGER,)
    assert objective.limits == (1, 16) and make().limits == (16,)
    assert not set(RELATED.features) & set(TAGGER.features)
    assert set(READER.features) < set(TAGGER.features)


def test_one_document_has_no_unrelated_segment():
    with pytest.raises(UserError, match="next_sentence.*one document"):
        make(next_sentence=True).chunk_documents({"text": Ragged.of([[9] * 50, []])})
