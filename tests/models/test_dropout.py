"""Dropout: its rate, and the independence of its elements.

Seeds are fixed, so the tests are deterministic; tolerances are five standard deviations of a random result."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.models.dropout import Dropout, bits, dropout

KEY = jax.random.key(5, impl="threefry2x32")
SHAPE = (64, 32, 64)
COUNT = 64 * 32 * 64

both = pytest.mark.parametrize("generator", ["hash", "threefry"])


def mask(key, rate, generator):
    return np.asarray(dropout(jnp.ones(SHAPE), rate, key, generator)) == 0


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@both
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_rate_and_scale(generator, rate, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE) + 10, dtype)
    y = dropout(x, rate, KEY, generator)
    dropped = np.asarray(y == 0)
    assert y.dtype == dtype
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / COUNT)
    kept = np.asarray(x, np.float64)[~dropped] / (1 - rate)
    np.testing.assert_allclose(np.asarray(y, np.float64)[~dropped], kept, rtol=1e-6 if dtype == jnp.float32 else 2**-7)


@both
def test_rate_0_keeps_everything(generator):
    np.testing.assert_array_equal(dropout(jnp.ones(SHAPE), 0.0, KEY, generator), 1)


@both
def test_gradients_pass_only_through_kept_elements(generator):
    x = jnp.linspace(1, 2, 48).reshape(4, 12)
    gradient = jax.grad(lambda x: jnp.sum(dropout(x, 0.3, KEY, generator)))(x)
    np.testing.assert_allclose(gradient, dropout(jnp.ones_like(x), 0.3, KEY, generator))


@both
def test_bits_are_fair_and_independent(generator):
    """Each of the 32 bits is 1 in half of all cases, independently of the others; the upper byte takes all values equally
    often."""
    words = np.asarray(bits(KEY, SHAPE, generator)).ravel()
    ones = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(ones.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(COUNT)
    assert np.abs(np.corrcoef(ones.T) - np.eye(32)).max() < 5 / np.sqrt(COUNT)
    counts = np.bincount(words >> 24, minlength=256)
    chi_square = ((counts - COUNT / 256) ** 2 / (COUNT / 256)).sum()
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


@both
@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_elements_are_independent(generator, rate):
    """Of their neighbours along every axis, near and far, and of the same element with other keys."""
    one = mask(KEY, rate, generator)
    for axis in range(3):
        for distance in (1, 2, 3, 8, 16):
            ahead, behind = (np.moveaxis(one, axis, 0)[s] for s in (slice(distance, None), slice(None, -distance)))
            assert abs(correlation(ahead, behind)) < 5 / np.sqrt(behind.size), (axis, distance)
    folded = [mask(jax.random.fold_in(KEY, n), rate, generator) for n in range(3)]
    others = [*folded, mask(jax.random.key(6, impl="threefry2x32"), rate, generator)]
    for i, other in enumerate(others):
        assert all(abs(correlation(other, x)) < 5 / np.sqrt(COUNT) for x in [one, *others[:i]]), i
        for distance in (1, 64, 2048):  # no mask is another one, moved
            assert abs(correlation(other.ravel()[distance:], one.ravel()[:-distance])) < 5 / np.sqrt(COUNT - distance)


@both
def test_rows_and_columns_are_dropped_evenly(generator):
    """Means over rows and columns have the variance of independent elements: there are no stripes."""
    one, rate = mask(KEY, 0.3, generator), 0.3
    for axis in range(3):
        shares = np.moveaxis(one, axis, 0).reshape(SHAPE[axis], -1)
        z = (shares.mean(axis=1) - rate) / np.sqrt(rate * (1 - rate) / shares.shape[1])
        assert 0.5 < z.std() < 1.6 and np.abs(z).max() < 5


@both
def test_the_mask_depends_only_on_the_key(generator):
    x = jnp.ones((7, 9))
    first, again = (dropout(x, 0.5, jax.random.fold_in(KEY, 1), generator) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, jax.jit(lambda key: dropout(x, 0.5, key, generator))(jax.random.fold_in(KEY, 1)))
    assert np.any(first != dropout(x, 0.5, jax.random.fold_in(KEY, 2), generator))


def test_hash_is_the_published_one():
    """lowbias32 (Wellons 2018), applied twice to the element's index, with Python integers; elements depend only on their
    index."""

    def lowbias32(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    first, second = map(int, jax.random.key_data(KEY))
    wanted = [lowbias32((lowbias32(n ^ first) + second) % 2**32) for n in range(60)]
    np.testing.assert_array_equal(bits(KEY, (5, 3, 4), "hash").ravel(), np.array(wanted, np.uint32))
    np.testing.assert_array_equal(bits(KEY, (2, 3, 4), "hash"), bits(KEY, (5, 3, 4), "hash")[:2])


@both
def test_module(generator):
    """Every module has a different mask; if deterministic, or with rate 0, it needs no key and changes nothing."""

    class Two(nn.Module):
        rate: float
        deterministic: bool

        @nn.compact
        def __call__(self, x):
            return [Dropout(self.rate, generator, self.deterministic, name=n)(x) for n in ("one", "other")]

    x = jnp.ones((8, 8))
    one, other = Two(0.5, False).apply({}, x, rngs={"dropout": KEY})
    assert {0.0, 2.0} == set(np.unique(one)) and np.any(one != other)
    again = Two(0.5, False).apply({}, x, rngs={"dropout": KEY})
    np.testing.assert_array_equal(one, again[0])
    assert all(y is x for settings in ((0.5, True), (0.0, False)) for y in Two(*settings).apply({}, x))
