"""Alignment error rate and mass against sums by hand and a computation with sets of links."""

import numpy as np
import pytest

from transformer.data.synthetic.number_alignment import align
from transformer.data.synthetic.number_words import speller
from transformer.data.tokenizers.vocabulary import Bytes, Characters
from transformer.probes.alignment import alignment_error_rate, by_word, link_matrix, mass_on_gold

WEIGHTS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3], [0.9, 0.1, 0.0]])
SURE = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
POSSIBLE = np.array([[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]], bool)


def test_by_hand():
    # Links 0-0 (sure), 1-2 (wrong), 2-1 (possible); row 3 has no link. 1 - (1 + 2) / (3 + 2)
    assert alignment_error_rate(WEIGHTS, SURE, POSSIBLE) == pytest.approx(0.4)
    assert alignment_error_rate(WEIGHTS, SURE) == pytest.approx(0.5)  # 1 - (1 + 1) / (2 + 2)
    assert mass_on_gold(WEIGHTS, SURE) == pytest.approx((0.7 + 0.3) / 2)
    assert alignment_error_rate(SURE * 1.0, SURE) == 0 and mass_on_gold(SURE * 1.0, SURE) == 1
    assert alignment_error_rate(1.0 - SURE, SURE) == 1 and mass_on_gold(1.0 - SURE, SURE) == 0


def test_a_recall_below_one():
    """Two sure links of one target word, of which an argmax can find only one."""
    gold = np.array([[1, 1, 0]], bool)
    assert alignment_error_rate(WEIGHTS[:1], gold) == pytest.approx(1 - 2 / 3)
    assert mass_on_gold(WEIGHTS[:1], gold) == pytest.approx(0.9)


def test_against_sets():
    draw = np.random.default_rng(0)
    for _ in range(50):
        size = draw.integers(1, 8, 2)
        weights = draw.dirichlet(np.ones(size[1]), size[0])
        sure, possible = draw.random(size) < 0.2, draw.random(size) < 0.2
        S = {(t, s) for t in range(size[0]) for s in range(size[1]) if sure[t, s]}
        P = S | {(t, s) for t in range(size[0]) for s in range(size[1]) if possible[t, s]}
        A = {(t, max(range(size[1]), key=lambda s: weights[t, s])) for t in range(size[0]) if any(t == u for u, _ in P)}
        found = alignment_error_rate(weights, sure, possible)
        assert (found == pytest.approx(1 - (len(A & S) + len(A & P)) / (len(A) + len(S)))) if A else np.isnan(found)


def test_no_links_and_wrong_shapes():
    assert np.isnan(alignment_error_rate(WEIGHTS, SURE & False)) and np.isnan(mass_on_gold(WEIGHTS, SURE & False))
    with pytest.raises(ValueError, match="shapes differ"):
        alignment_error_rate(WEIGHTS, SURE.T)
    with pytest.raises(ValueError, match="shapes differ"):
        mass_on_gold(WEIGHTS[0], SURE[0])


def test_by_word():
    # Source "ab cd": tokens a|b c|d|end, so the second reaches over a space into the next word.
    source_tokens, source_words = [(0, 1), (1, 4), (4, 5), (5, 5)], [(0, 2), (3, 5)]
    target_tokens, target_words = [(0, 0), (0, 2), (2, 3)], [(0, 3)]
    weights = np.array([[0.0, 0.0, 0.0, 1.0], [0.1, 0.4, 0.3, 0.2], [0.4, 0.2, 0.0, 0.4]])
    found = by_word(weights, target_tokens, source_tokens, target_words, source_words)
    first, second = (0.1 + 0.2, 0.3 + 0.2), (0.4 + 0.1, 0.0 + 0.1)
    np.testing.assert_allclose(found, [[(2 * first[i] + second[i]) / 3 for i in range(2)]])


def test_words_that_are_tokens_are_unchanged():
    spans = [(0, 1), (2, 5), (5, 6)]
    np.testing.assert_allclose(by_word(WEIGHTS[:3], spans, spans, spans, spans), WEIGHTS[:3])


def test_spans_of_tokens():
    text = "one five"
    for vocabulary in (Bytes(), Characters(sorted(set(text)))):
        assert vocabulary.spans(text) == [(i, i + 1) for i in range(len(text))]


def test_numbers_from_weights_to_rate():
    """Character weights that follow the known alignment have no error; shuffled ones have many."""
    number = 345_621
    found = align(number)
    english, german = (speller(language, "source_language", 10**6)(number) for language in ("en", "de"))
    weights = np.full((len(german), len(english)), 1e-3)
    for s, t in found.possible:
        weights[slice(*found.target[t]), slice(*found.source[s])] = 1.0
    weights /= weights.sum(1, keepdims=True)
    places = [[(i, i + 1) for i in range(len(text))] for text in (german, english)]
    words = by_word(weights, *places, found.target, found.source)
    size = len(found.source), len(found.target)
    sure, possible = link_matrix(found.links, *size), link_matrix(found.possible, *size)
    assert sure.shape == words.shape == (len(found.target), len(found.source))
    assert alignment_error_rate(words, sure, possible) == 0 and mass_on_gold(words, sure) > 0.95
    assert alignment_error_rate(words[::-1], sure, possible) > 0.5 and mass_on_gold(words[::-1], sure) < 0.5
