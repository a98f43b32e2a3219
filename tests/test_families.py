"""The table of families: what stands in it fits together, and its losses are those of the plain definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

import launch
from transformer import families
from transformer.models.losses import cross_entropy


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=families.FAMILIES)
def test_a_row_fits_together(family):
    """Modes exist; what the objective makes is what the model reads, and its loss gives the sums that a report needs."""
    assert "train" in family.modes and set(family.modes) <= set(launch.MODES)
    config = small.config()
    objective, model = family.objective(config, small.FACTS), family.model(config, small.FACTS)
    batch = {k: jnp.zeros((2, 4), d) for side in objective.sides for k, d in side.features.items()}
    batch |= {name: jnp.zeros((2, 4), jnp.int32) for side in objective.sides for name in (side.positions, side.segments)}
    params = jax.eval_shape(lambda: families.init_params(model, objective, 0))
    sums = jax.eval_shape(lambda params: family.loss(model, config, small.FACTS)(params, batch, None), params)
    assert {"loss_sum", "nll_sum", "correct_sum", "weight_sum"} <= sums.keys()
    assert all(x.shape == () and x.dtype == jnp.float32 for x in sums.values())


def test_initialisation_is_told_by_the_seed():
    config = small.config()
    family = families.FAMILIES[config.family]
    model, objective = family.model(config, small.FACTS), family.objective(config, small.FACTS)
    one, same, other = (families.init_params(model, objective, seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernels = [(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True) if np.std(a) > 0]
    assert len(kernels) > 8 and all(np.any(a != b) for a, b in kernels)
    assert len({np.asarray(a).tobytes() for a, _ in kernels}) == len(kernels)  # and no two modules begin the same


@pytest.mark.parametrize("tying", ["three_way", "none"])
def test_loss_and_gradient_are_those_of_whole_logits(tying):
    """Slices of tokens reach every parameter, those of the logits (a table that is shared, or a kernel and a bias) too."""
    config = small.config(model__tying=tying, model__logits_bias=True, train__loss_chunk=10, train__label_smoothing=0.2)
    model = families.FAMILIES[config.family].model(config, small.FACTS)
    _, _, loss = small.trainer(config)
    params, batch = small.params(config), small.batch(1, 5)

    def plain(params, batch, key):
        logits = model.apply({"params": params}, batch)
        return cross_entropy(logits, batch["targets"], batch["weights"], 0.2, small.FACTS.target_size)

    def gradient(loss):
        return jax.jit(
            jax.grad(lambda params: (lambda sums: (sums["loss_sum"], sums))(loss(params, batch, None)), has_aux=True)
        )

    (found, sums), (wanted, plain_sums) = gradient(loss)(params), gradient(plain)(params)
    assert sums["weight_sum"] == batch["weights"].sum() > 0
    for name, value in plain_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest), found, wanted)


def test_dropout_is_on_with_a_key_alone():
    state, _, loss = small.trainer(small.config(model__dropout_rate=0.3))
    params, batch, key = state.params, small.batch(1, 4), jax.random.key(0)
    loss = jax.jit(loss)
    without, again = (float(loss(params, batch, None)["loss_sum"]) for _ in range(2))
    with_key, same, other = (float(loss(params, batch, k)["loss_sum"]) for k in (key, key, jax.random.fold_in(key, 1)))
    assert without == again and with_key == same and len({without, with_key, other}) == 3
