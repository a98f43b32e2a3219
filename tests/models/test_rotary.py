"""Which part of a head rotary positions rotate, and in which pairs. Scalings are held against Transformers in tests/parity."""

import jax.numpy as jnp
import numpy as np

from transformer.components.rotary import Rotary


def test_partial_and_interleaved_rotation():
    """GPT-NeoX rotates the first part of a head; GPT-J pairs neighbours. Here by complex numbers."""
    x, positions = np.random.default_rng(0).normal(size=(1, 5, 2, 8)).astype(np.float32), np.arange(5)
    angles = np.exp(1j * positions[:, None] * 10000.0 ** (-np.arange(2) / 2))[None, :, None]
    part = np.asarray(Rotary(fraction=0.5).rotate({}, jnp.asarray(x), jnp.asarray(positions)))
    turned = (x[..., :2] + 1j * x[..., 2:4]) * angles
    np.testing.assert_allclose(part, np.concatenate([turned.real, turned.imag, x[..., 4:]], axis=-1), atol=1e-5)
    pairs = np.asarray(Rotary(fraction=0.5, layout="interleaved").rotate({}, jnp.asarray(x), jnp.asarray(positions)))
    turned = (x[..., 0:4:2] + 1j * x[..., 1:4:2]) * angles
    np.testing.assert_allclose(pairs[..., 0:4:2], turned.real, atol=1e-5)
    np.testing.assert_allclose(pairs[..., 1:4:2], turned.imag, atol=1e-5)
    np.testing.assert_array_equal(pairs[..., 4:], x[..., 4:])


def test_of_p_rope_the_slow_frequencies_do_not_rotate():
    rates = np.asarray(Rotary(frequencies=0.75).rates(16, jnp.arange(3)))
    plain = np.asarray(Rotary().rates(16, jnp.arange(3)))
    np.testing.assert_array_equal(rates[6:], 0)
    np.testing.assert_array_equal(rates[:6], plain[:6])
