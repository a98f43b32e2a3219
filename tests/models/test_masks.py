"""Masks against loops over single pairs of query and key."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import settings
from transformer.components.masks import All, Causal, Pairs, Prefix, SameSegment, Tokens, Window
from transformer.config import Config, Model
from transformer.models.stack import start_cache

B, T, S = 3, 6, 7
GENERATOR = np.random.default_rng(0)
# Not in order and with repeats, as packed and left-padded rows have them.
POSITIONS = {
    1: (np.arange(1, 1 + T), np.arange(S)),
    2: (GENERATOR.integers(0, 5, (B, T)), GENERATOR.integers(0, 5, (B, S))),
}
SEGMENTS = {
    "none": (None, None),
    "key": (None, GENERATOR.integers(0, 2, (B, S))),
    "both": (GENERATOR.integers(0, 3, (B, T)), GENERATOR.integers(0, 3, (B, S))),
}
PREFIX = GENERATOR.integers(0, 2, (B, S)).astype(bool)
RULES = {"all": All(), "causal": Causal(), "prefix": Prefix(), "window": Causal() & Window(3), "sides": Window(2)}
CASES = list(itertools.product(RULES, POSITIONS, SEGMENTS))


def make(rule, rank, segments, flags=PREFIX):
    sides = zip(POSITIONS[rank], SEGMENTS[segments], (None, flags), strict=True)
    query, key = (Tokens(*(None if leaf is None else jnp.asarray(leaf) for leaf in side)) for side in sides)
    return Pairs(query, key, mask=RULES[rule])


def loop(rule, mask):
    """BxTxS, from the definitions of the rules."""

    def at(leaf, b, i):
        return leaf[i] if leaf.ndim == 1 else leaf[b, i]

    query, key = jax.tree.map(np.asarray, (mask.query, mask.key))
    seen = np.zeros((B, T, S), bool)
    for b, t, s in np.ndindex(seen.shape):
        earlier = at(key.positions, b, s) <= at(query.positions, b, t)
        flagged = key.prefix is not None and key.prefix[b, s]
        ahead = at(key.positions, b, s) - at(query.positions, b, t)
        words = {
            "all": True,
            "causal": earlier,
            "prefix": earlier or flagged,
            "window": -2 <= ahead <= 0,
            "sides": -1 <= ahead <= 1,
        }
        allowed = words[rule]
        if key.segments is not None:
            allowed = allowed and key.segments[b, s] != 0
            if query.segments is not None:
                allowed = allowed and query.segments[b, t] == key.segments[b, s]
        seen[b, t, s] = allowed
    return seen


@pytest.mark.parametrize(("rule", "rank", "segments"), CASES)
def test_masks_match_a_loop_over_pairs(rule, rank, segments):
    mask = make(rule, rank, segments)
    seen = mask.seen()
    if rule == "all" and segments == "none":
        assert seen is None
        return
    assert seen.dtype == bool
    assert seen.ndim == 4 and seen.shape[1] == 1  # ready to broadcast over heads
    np.testing.assert_array_equal(np.broadcast_to(seen[:, 0], (B, T, S)), loop(rule, mask))


def test_shared_positions_give_a_mask_with_one_row():
    assert make("causal", 1, "none").seen().shape == (1, 1, T, S)


def test_without_prefix_flags_the_prefix_mask_is_causal():
    for rank in POSITIONS:
        np.testing.assert_array_equal(make("prefix", rank, "both", flags=None).seen(), make("causal", rank, "both").seen())


@pytest.mark.parametrize(("rule", "rank", "segments"), CASES)
def test_a_block_is_a_slice_of_the_queries(rule, rank, segments):
    mask = make(rule, rank, segments)
    whole, block = mask.seen(), jax.jit(lambda start: mask.block(start, 4).seen())(2)
    if whole is None:
        assert block is None
    else:
        np.testing.assert_array_equal(block, whole[:, :, 2:6] if whole.shape[2] == T else whole)


def test_the_span_of_combined_masks_is_the_narrowest():
    assert (Causal() & Window(4)).span(prefix=False) == (3, 0)
    assert (Prefix() & Window(4) & Window(6)).span(prefix=True) == (3, 3)
    assert (Prefix() & Window(4)).span(prefix=False) == (3, 0)
    assert All().span(prefix=False) == (None, None)
    assert (Prefix() & Window(4)).causal and not (All() & Window(4)).causal


def test_segments_apply_with_every_mask():
    pairs = make("window", 2, "both")
    alone = (Causal() & Window(3) & SameSegment()).seen(pairs.query, pairs.key)
    np.testing.assert_array_equal(alone, loop("window", pairs))
    np.testing.assert_array_equal(alone, pairs.seen()[:, 0])


@pytest.mark.parametrize(("rule", "segments"), list(itertools.product(RULES, SEGMENTS)))
def test_count_is_the_number_of_keys_that_are_seen(rule, segments):
    pairs = make(rule, 2, segments)
    np.testing.assert_array_equal(np.broadcast_to(pairs.count()[:, 0, :, 0], (B, T)), np.maximum(loop(rule, pairs).sum(-1), 1))


def test_a_composed_mask_is_a_setting_and_sizes_the_cache():
    mask = Causal() & Window(4)
    config = Config(model=Model(mask=mask, num_decoder_layers=1, d_model=8, num_heads=2))
    assert settings.from_dict(settings.to_dict(config), Config) == config
    parts = {"model.mask": "both", "model.mask.first": "causal", "model.mask.second": "window", "model.mask.second.size": "4"}
    assert settings.override(Config(), parts).model.mask == mask
    cache = start_cache(config.model, rows=2, max_length=16)
    assert list(cache["rings"]) == [4] and {leaf.shape[2] for leaf in cache["layers"][0]["ring"].values()} == {4}
