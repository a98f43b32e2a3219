"""Each position encoding against its paper's formula, written as loops, or against numbers computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.components.masks import Pairs, Sizes, Tokens
from transformer.components.positions import Alibi, Learned, NoPositions, Shaw, Sinusoidal, T5Buckets
from transformer.components.rotary import Rotary
from transformer.config import DataInfo, Model
from transformer.models.transformer import EncoderDecoder
from transformer.settings import Variations

B, T, S, H, K, V, D = 2, 5, 7, 3, 6, 4, 6
GENERATOR = np.random.default_rng(0)
# Rank 1, and rank 2 as in packed rows.
RANKS = {
    1: (np.arange(3, 3 + T), np.arange(S)),
    2: (GENERATOR.integers(0, 12, (B, T)), GENERATOR.integers(0, 12, (B, S))),
}
ranks = pytest.mark.parametrize("rank", RANKS)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pairs(rank, bidirectional=False, heads=H):
    """Queries and keys at positions of the given rank."""
    query, key = (Tokens(jnp.asarray(positions)) for positions in RANKS[rank])
    return Pairs(query, key, sizes=Sizes(D, heads, heads, K, V, 4, "encoder" if bidirectional else "decoder"))


def of_row(positions, b):
    return positions if positions.ndim == 1 else positions[b]


# --- none ------------------------------------------------------------------------------------------------------------


def test_no_positions_changes_nothing():
    x, (query, _), none = numbers(B, T, H, K), RANKS[1], NoPositions()
    assert none.parameters(pairs(1).sizes, 0.02) == {}
    assert none.embed({}, x, query) is x and none.rotate({}, x, query) is x
    assert none.bias({}, {"query": x}, {}, None, pairs(1)) is None and none.values({}, None, pairs(1)) is None


# --- added to the input ----------------------------------------------------------------------------------------------


@ranks
@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_sinusoidal_is_the_papers_formula(layout, rank):
    positions = RANKS[rank][0] * 71  # up to 781
    x = numbers(B, T, D)
    result = np.asarray(Sinusoidal(layout=layout).embed({}, jnp.asarray(x), jnp.asarray(positions)))
    for b, t, i in np.ndindex(B, T, D // 2):
        angle = int(of_row(positions, b)[t]) / 10000 ** (2 * i / D)
        sine, cosine = (i, D // 2 + i) if layout == "halves" else (2 * i, 2 * i + 1)
        assert result[b, t, sine] - x[b, t, sine] == pytest.approx(math.sin(angle), abs=1e-4)
        assert result[b, t, cosine] - x[b, t, cosine] == pytest.approx(math.cos(angle), abs=1e-4)


@ranks
@pytest.mark.parametrize("offset", [0, 2])
def test_learned_adds_rows_of_its_table(offset, rank):
    learned = Learned(size=12, offset=offset)
    ((shape, _, initializer),) = learned.parameters(pairs(1).sizes, 0.02).values()
    assert shape == (12 + offset, D)
    assert np.std(initializer(jax.random.key(0), (500, 500), jnp.float32)) == pytest.approx(0.02, rel=0.02)
    x, table, positions = numbers(B, T, D), numbers(*shape, seed=1), RANKS[rank][0]
    result = np.asarray(learned.embed({"table": jnp.asarray(table)}, jnp.asarray(x), jnp.asarray(positions)))
    for b, t in np.ndindex(B, T):
        np.testing.assert_allclose(result[b, t], x[b, t] + table[of_row(positions, b)[t] + offset], atol=1e-6)


@pytest.mark.parametrize("offset", [0, 2])
def test_positions_past_the_table_give_nan(offset):
    learned = Learned(size=4, offset=offset)
    table = jnp.asarray(numbers(4 + offset, D))
    result = np.asarray(learned.embed({"table": table}, jnp.zeros((1, 6, D)), jnp.arange(6)))[0]
    assert np.isfinite(result[:4]).all()
    assert np.isnan(result[4:]).all()


# --- turned queries and keys -----------------------------------------------------------------------------------------


@ranks
@pytest.mark.parametrize("base", [10000.0, 20.0])
def test_rotary_multiplies_pairs_by_a_complex_number(base, rank):
    x, positions = numbers(B, T, H, K), RANKS[rank][0]
    result = np.asarray(Rotary(base=base).rotate({}, jnp.asarray(x), jnp.asarray(positions)))
    for b, t in np.ndindex(B, T):
        turn = np.exp(1j * of_row(positions, b)[t] * base ** (-2 * np.arange(K // 2) / K))
        expected = (x[b, t, :, : K // 2] + 1j * x[b, t, :, K // 2 :]) * turn
        np.testing.assert_allclose(result[b, t], np.concatenate([expected.real, expected.imag], axis=-1), atol=1e-5)


def test_rotary_scores_depend_only_on_the_distance():
    query, key = numbers(1, 1, H, K), numbers(1, 1, H, K, seed=1)

    def score(query_position, key_position):
        turned = (Rotary().rotate({}, x, jnp.array([p])) for x, p in ((query, query_position), (key, key_position)))
        return np.asarray(jnp.einsum("bthk,bthk->h", *turned))

    for shift in (1, 9, 130):
        np.testing.assert_allclose(score(3 + shift, 1 + shift), score(3, 1), atol=1e-4)
    assert np.abs(score(3, 1) - score(3, 2)).min() > 1e-2
    assert np.abs(score(3, 1) - score(1, 3)).min() > 1e-2  # and on its sign
    np.testing.assert_allclose(score(5, 5), np.sum(query * key, axis=-1)[0, 0], atol=1e-5)


# --- added to logits -------------------------------------------------------------------------------------------------


ROOT = math.sqrt(0.5)
SLOPES = {
    1: [1 / 256],
    2: [1 / 16, 1 / 256],
    3: [1 / 16, 1 / 256, 1 / 4],
    4: [1 / 4, 1 / 16, 1 / 64, 1 / 256],
    5: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2],
    6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8],
    8: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256],
    12: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256, ROOT, ROOT / 2, ROOT / 4, ROOT / 8],
}


@pytest.mark.parametrize("heads", SLOPES)
def test_alibi_has_the_papers_slopes(heads):
    np.testing.assert_allclose(Alibi().slopes(heads), SLOPES[heads], rtol=1e-6)


@ranks
def test_alibi_subtracts_slope_times_distance(rank):
    query, key = RANKS[rank]
    result = np.asarray(Alibi().bias({}, {}, {}, jnp.zeros((B, H, T, S)), pairs(rank)))
    for b, h, t, s in np.ndindex(B if rank == 2 else 1, H, T, S):
        distance = abs(of_row(query, b)[t] - of_row(key, b)[s])
        assert result[b, h, t, s] == pytest.approx(-SLOPES[H][h] * distance, rel=1e-6)


# Raffel et al. 2020, section 2.1, worked by hand: half of the buckets hold one distance each, the others reach in equal
# ratios up to max_distance. The last distance of each bucket, from the query back; in both directions, keys ahead have as
# many buckets again, after these.
#   32 buckets, 128, both: 16 a direction, exact to 7; bucket 8 + n from 8 * 16^(n/8) on: 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5.
#   32 buckets, 128, back: exact to 15; bucket 16 + n from 16 * 8^(n/16) on: 16, 18.2, 20.7, 23.6, 26.9, 30.6, 34.9, 39.7,
#     45.3, 51.5, 58.7, 66.8, 76.1, 86.7, 98.7, 112.4.
#   8 buckets, 16, both: 4 a direction, exact to 1; bucket 2 + n from 2 * 8^(n/2) on: 2, 5.7.
LAST = {
    (32, 128, True): [*range(8), 11, 15, 22, 31, 45, 63, 90],
    (32, 128, False): [*range(16), 18, 20, 23, 26, 30, 34, 39, 45, 51, 58, 66, 76, 86, 98, 112],
    (8, 16, True): [0, 1, 5],
}


@pytest.mark.parametrize(("buckets", "max_distance", "bidirectional"), LAST)
def test_t5_buckets_are_those_worked_by_hand(buckets, max_distance, bidirectional):
    back = []  # bucket of a key 0, 1, 2, ... before the query
    for bucket, last in enumerate([*LAST[buckets, max_distance, bidirectional], 500]):
        back += [bucket] * (last + 1 - len(back))
    assert len(set(back)) == (buckets // 2 if bidirectional else buckets)
    ahead = [bucket + buckets // 2 if bidirectional else 0 for bucket in back]
    positions = T5Buckets(buckets=buckets, max_distance=max_distance)

    def bucket(distance):
        return positions.bucket(distance, bidirectional)

    for function in (bucket, jax.jit(bucket)):
        np.testing.assert_array_equal(function(-jnp.arange(501)), back)
        np.testing.assert_array_equal(function(jnp.arange(1, 501)), ahead[1:])


@ranks
@pytest.mark.parametrize("bidirectional", [False, True])
def test_t5_adds_a_number_per_head_and_bucket(bidirectional, rank):
    positions, both = T5Buckets(buckets=8, max_distance=16), pairs(rank, bidirectional)
    ((shape, *_),) = positions.parameters(both.sizes, 0.02).values()
    assert shape == (8, H)
    table, (query, key) = numbers(*shape), RANKS[rank]
    hooked = positions.bias({"table": jnp.asarray(table)}, {}, {}, None, both)
    result = np.asarray(hooked)
    # Both: 0, 1, 2-5, 6 on, each way. Back: exact to 3, then from 4 * 4^(n/4) on: 4, 5.7, 8, 11.3.
    back = [0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3] if bidirectional else [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6]
    for b, h, t, s in np.ndindex(B if rank == 2 else 1, H, T, S):
        distance = of_row(key, b)[s] - of_row(query, b)[t]
        bucket = back[-distance] if distance <= 0 else 4 + back[distance] if bidirectional else 0
        assert result[b, h, t, s] == table[bucket, h]


# --- keys and values -------------------------------------------------------------------------------------------------


def clipped(query, key, b, t, s, clip):
    return max(-clip, min(clip, int(of_row(key, b)[s] - of_row(query, b)[t]))) + clip


@ranks
@pytest.mark.parametrize("clip", [2, 16])
def test_shaw_adds_vectors_to_keys_and_values(clip, rank):
    shaw, both = Shaw(clip=clip), pairs(rank)
    shapes = {name: each.shape for name, each in shaw.parameters(both.sizes, 0.02).items()}
    assert shapes == {"keys": (2 * clip + 1, K), "values": (2 * clip + 1, V)} and shaw.owner == "layer"
    tables = {name: numbers(*shape, seed=len(name)) for name, shape in shapes.items()}
    queries, weights, (query, key) = numbers(B, T, H, K), numbers(B, H, T, S), RANKS[rank]
    tables_given = jax.tree.map(jnp.asarray, tables)
    logits = shaw.bias(tables_given, {"query": jnp.asarray(queries)}, {}, None, both)
    values = shaw.values(tables_given, jnp.asarray(weights), both)
    assert logits.shape == (B, H, T, S) and values.shape == (B, T, H, V)
    for b, t, h in np.ndindex(B, T, H):
        entries = [clipped(query, key, b, t, s, clip) for s in range(S)]
        np.testing.assert_allclose(logits[b, h, t], [queries[b, t, h] @ tables["keys"][e] for e in entries], atol=1e-5)
        expected = sum(weights[b, h, t, s] * tables["values"][e] for s, e in enumerate(entries))
        np.testing.assert_allclose(values[b, t, h], expected, atol=1e-5)


def test_sinusoids_of_tensor2tensor_reach_a_wavelength_10000_times_the_shortest():
    """As in M2M-100: positions begin at 2, and all sines come before all cosines."""
    encoded = Sinusoidal(layout="halves", spacing="tensor2tensor", offset=2).encode(jnp.arange(5), 8)
    for p, i in np.ndindex(5, 4):
        angle = (p + 2) / 10000 ** (i / 3)
        np.testing.assert_allclose(encoded[p, [i, 4 + i]], [math.sin(angle), math.cos(angle)], atol=1e-5)


def test_a_stack_may_have_positions_of_its_own():
    """A table of the decoder alone, behind sinusoids in the encoder."""
    types = Variations({"decoder": {"positions": "learned", "positions.size": "16"}})
    model = Model(num_encoder_layers=1, num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2, layer_types=types)
    made = EncoderDecoder(model, DataInfo(source_size=9, target_size=9, source_rows=9, target_rows=9))
    batch = {name: jax.ShapeDtypeStruct((1, 4), jnp.int32) for name in ("source", "inputs")}
    params = jax.eval_shape(made.init, jax.random.key(0), batch)["params"]
    assert params["decoder"]["position_table"].shape == (16, 8) and "position_table" not in params["encoder"]
    assert model.most_positions == 16
