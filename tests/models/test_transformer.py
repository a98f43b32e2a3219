"""The encoder-decoder as a whole: caches, masks and padding, held against the plain forward pass."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.config import Facts, Model, Positions
from transformer.models.transformer import EncoderDecoder

FACTS = Facts(source_size=50, target_size=50, source_rows=56, target_rows=56)
OTHER = {
    "qk_norm": True,
    "norm_order": "pre",
    "d_k": 6,
    "d_v": 5,
    "tying": "none",
    "activation": "swiglu",
    "norm_kind": "rms",
    "attention_scale": "learned",
}


def build(**settings):
    model = Model(num_encoder_layers=2, num_decoder_layers=3, d_model=16, d_ff=32, num_heads=4, **settings)
    network = EncoderDecoder(model, FACTS)
    generator = np.random.default_rng(0)
    batch = {
        "source": jnp.asarray(generator.integers(4, 50, (3, 7)), jnp.int32),
        "inputs": jnp.asarray(generator.integers(4, 50, (3, 5)), jnp.int32),
        "source_segments": jnp.array([[1] * 7, [1] * 5 + [0] * 2, [1] * 4 + [0] * 3]),
    }
    return network, jax.jit(network.init)(jax.random.key(0), batch), batch


@pytest.mark.parametrize("settings", [{}, OTHER], ids=["paper", "other"])
@pytest.mark.parametrize("positions", typing.get_args(Positions))
def test_cached_steps_give_the_logits_of_the_plain_pass(positions, settings):
    network, variables, batch = build(positions=positions, **settings)
    plain = network.apply(variables, batch)
    memory = network.apply(variables, batch["source"], None, batch["source_segments"], method="encode")
    cache = network.apply(variables, memory, 8, 2, method="start")
    step = jax.jit(lambda tokens, cache: network.apply(variables, tokens, cache, memory, method="step"))
    rows = jnp.repeat(batch["inputs"], 2, axis=0)  # two beams a sentence
    first, cache = step(rows[:, :2], cache)
    rest = []
    for t in range(2, 5):
        logits, cache = step(rows[:, t : t + 1], cache)
        rest.append(logits)
    stepped = jnp.concatenate([first, *rest], axis=1)
    np.testing.assert_allclose(stepped[::2], plain, atol=1e-5)
    np.testing.assert_allclose(stepped[1::2], plain, atol=1e-5)


def test_no_gradient_from_a_later_input_to_an_earlier_output():
    network, variables, batch = build()
    table = variables["params"]["target_embedding"]["table"]

    def output(table, at):
        params = variables["params"] | {"target_embedding": {"table": table}}
        inputs = jnp.arange(10, 15)[None]  # each token once, so a row of the table is one input
        logits = network.apply(
            {"params": params},
            batch | {"inputs": inputs, "source": batch["source"][:1] * 0 + 4, "source_segments": None},
            method="states",
        )
        return jnp.sum(logits[0, at])

    gradient = jax.grad(output)(table, 2)
    seen = jnp.any(gradient[10:15] != 0, axis=-1)
    assert seen.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("change", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}])
def test_unrolling_and_rematerialisation_change_nothing(change):
    network, variables, batch = build()
    other, other_variables, _ = build(**change)
    jax.tree.map(np.testing.assert_array_equal, variables, other_variables)

    def gradient(net):
        return jax.grad(lambda v: jnp.mean(net.apply(v, batch, method="states") ** 2))(variables)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient(network), gradient(other))


def test_what_stands_in_padding_is_inert_to_the_bit():
    network, variables, batch = build()
    changed = batch | {"source": jnp.where(batch["source_segments"] == 0, 9, batch["source"])}
    np.testing.assert_array_equal(network.apply(variables, batch), network.apply(variables, changed))


def test_entries_that_the_vocabulary_lacks_are_never_likely():
    network, variables, batch = build()
    assert np.all(network.apply(variables, batch)[..., 50:] < -1e20)
