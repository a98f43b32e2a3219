"""Frequencies of scaled rotary positions against those of Transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

from transformer.components.rotary import DynamicNTK, Linear, Llama3, LongRope, Yarn  # noqa: E402

WIDTH, TRAINED = 16, 64
SHORT, LONG = [1.0 + 0.1 * n for n in range(8)], [2.0 + 0.5 * n for n in range(8)]
CASES = {
    "linear": (Linear(factor=4.0), {"factor": 4.0}),
    "dynamic": (DynamicNTK(factor=4.0, trained_length=TRAINED), {"factor": 4.0}),
    "yarn": (Yarn(factor=8.0, trained_length=TRAINED), {"factor": 8.0, "original_max_position_embeddings": TRAINED}),
    "llama3": (
        Llama3(factor=8.0, trained_length=TRAINED, low_frequency_factor=1.0, high_frequency_factor=4.0),
        {"factor": 8.0, "original_max_position_embeddings": TRAINED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "longrope": (
        LongRope(short_factors=tuple(SHORT), long_factors=tuple(LONG), trained_length=TRAINED, factor=4.0),
        {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": TRAINED, "factor": 4.0},
    ),
}


@pytest.mark.parametrize("length", [TRAINED // 2, 3 * TRAINED])
@pytest.mark.parametrize("name", CASES)
def test_scaled_frequencies_are_those_of_transformers(name, length):
    scaling, parameters = CASES[name]
    theirs = transformers.LlamaConfig(
        hidden_size=4 * WIDTH,
        num_attention_heads=4,
        max_position_embeddings=TRAINED,
        rope_parameters={"rope_type": name, "rope_theta": 10000.0, **parameters},
    )
    wanted, magnitude = ROPE_INIT_FUNCTIONS[name](theirs, "cpu", seq_len=length)
    found = np.asarray(scaling.rates(10000.0, WIDTH, jnp.asarray(length))).reshape(-1)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
    assert scaling.magnitude() == pytest.approx(magnitude, rel=1e-6)
