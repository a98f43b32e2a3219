"""Weights on neighbouring tokens, and distances of heads, with loops and by hand."""

import numpy as np
import pytest

from transformer.probes.head_statistics import head_distance, weight_at_offset

LENGTHS = np.array([5, 2, 1])


def weights(seed: int = 0, layers: int = 2, heads: int = 3) -> np.ndarray:
    """LxBxHxTxS for texts of `LENGTHS`; values in padding are large."""
    draw, size = np.random.default_rng(seed), max(LENGTHS) + 1
    result = np.full((layers, len(LENGTHS), heads, size, size), 9.0)
    for text, length in enumerate(LENGTHS):
        result[:, text, :, :length] = 0
        result[:, text, :, :length, :length] = draw.dirichlet(np.ones(length), (layers, heads, length))
    return result


@pytest.mark.parametrize("offset", [-2, -1, 0, 1])
def test_neighbours_by_a_loop(offset):
    given = weights()
    found = weight_at_offset(given, LENGTHS, offset)
    for layer, head in np.ndindex(2, 3):
        values = [
            given[layer, text, head, place, place + offset]
            for text, length in enumerate(LENGTHS)
            for place in range(length)
            if 0 <= place + offset < length
        ]
        assert found[layer, head] == pytest.approx(np.mean(values))


def test_a_previous_token_head():
    given = np.eye(4, k=-1)[None, None, None]
    given[..., 0, 0] = 1  # the first token has none before it
    assert [weight_at_offset(given, np.array([4]), offset)[0, 0] for offset in (-1, 0, 1)] == [1, 0.25, 0]
    assert np.isnan(weight_at_offset(given, np.array([1]), -1)[0, 0])


def test_distances_by_a_loop():
    given = weights(1)
    heads = [given[layer, :, head] for layer, head in np.ndindex(2, 3)]
    found = []
    for one, first in enumerate(heads):
        for second in heads[one + 1 :]:
            for text, length in enumerate(LENGTHS):
                for place in range(length):
                    p, q = (head[text, place, :length] for head in (first, second))
                    more = sum(x * np.log2(2 * x / (x + y)) for a, b in zip(p, q, strict=True) for x, y in ((a, b), (b, a)))
                    found.append(np.sqrt(max(more / 2, 0)))
    assert head_distance(given, LENGTHS) == pytest.approx(np.mean(found))


def test_distances_by_hand():
    previous, even = np.eye(4, k=-1), np.full((4, 4), 0.25)
    previous[0, 0] = 1
    following = np.roll(previous, 2, axis=1)

    def distance(*heads):
        return head_distance(np.stack(heads)[None, None], np.array([4]))

    assert distance(previous, previous) == 0 and distance(previous, following) == pytest.approx(1)
    # (1, 0, 0, 0) and even weights: their mean is 5/8 once and 1/8 three times.
    mean = -5 / 8 * np.log2(5 / 8) - 3 / 8 * np.log2(1 / 8)
    assert distance(previous, even) == pytest.approx(np.sqrt(mean - 2 / 2))
    assert np.isnan(distance(even))
