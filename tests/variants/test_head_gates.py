"""Gates of heads: their distribution, their effect on a model, and their penalty."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.variants import head_gates as gates
from experiments.variants.head_gates import HeadGates
from transformer import families
from transformer.models import penalties
from transformer.probes.sites import scaled_heads
from transformer.runtime.devices import Runtime
from transformer.training import trainer as trainers

LOG_ALPHA = jnp.linspace(-4.0, 4.0, 9)


def test_draws_have_the_published_distribution():
    """P(0) and P(1) of 20,000 draws against the distribution function of the binary concrete, by hand."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.vmap(lambda key: gates.gate(LOG_ALPHA, key))(keys))

    def below(x, log_alpha):  # P(s < x), equation 24 of the appendix
        return 1 / (1 + np.exp(-((np.log(x) - np.log(1 - x)) * 2 / 3 - log_alpha)))

    for place, log_alpha in enumerate(np.asarray(LOG_ALPHA)):
        shut, whole = np.mean(drawn[:, place] == 0), np.mean(drawn[:, place] == 1)
        assert shut == pytest.approx(below(0.1 / 1.2, log_alpha), abs=0.015)
        assert whole == pytest.approx(1 - below(1.1 / 1.2, log_alpha), abs=0.015)
        assert 1 - shut == pytest.approx(float(gates.chance_open(LOG_ALPHA)[place]), abs=0.015)
    assert drawn.min() == 0 and drawn.max() == 1 and np.isfinite(drawn).all()


def test_without_a_draw():
    found = np.asarray(gates.gate(LOG_ALPHA))
    np.testing.assert_allclose(found, np.clip(1.2 / (1 + np.exp(-np.asarray(LOG_ALPHA))) - 0.1, 0, 1), rtol=1e-5)
    assert found[0] == 0 and found[-1] == 1 and gates.gate(jnp.asarray(gates.OPEN)) == 1


FAMILIES = {
    "encoder_decoder": ("translate", ["encoder/self", "decoder/self", "decoder/cross"]),
    "decoder_only": ("causal_lm", ["decoder/self"]),
    "encoder_only": ("masked_lm", ["encoder/self"]),
}


def model_of(family: str, attention=None, **settings):
    kind, places = FAMILIES[family]
    given = {} if attention is None else {"model__attention": attention}
    config = small.config(family=family, objective__kind=kind, **given, **settings)
    data_info = dataclasses.replace(small.DATA_INFO, mask=16)
    return config, data_info, *small.untrained(config, data_info), places


def with_gates(params, log_alpha):
    """`log_alpha` by site, for a model with one layer per stack."""
    result = dict(flatten_dict(params, sep="/"))
    for place, value in log_alpha.items():
        stack, kind = place.split("/")
        result[f"{stack}/layers/{kind}_attention/gates"] = jnp.asarray(value, jnp.float32)
    return unflatten_dict(result, sep="/")


def without_gates(params):
    return unflatten_dict({n: leaf for n, leaf in flatten_dict(params, sep="/").items() if not n.endswith("gates")}, sep="/")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shut_gate_is_a_head_taken_out(family):
    """The same as a factor 0 on this head in a model without gates."""
    config, data_info, model, params, places = model_of(family, HeadGates())
    assert penalties.names(config.model, places) == [f"open_heads@{place}" for place in places]
    log_alpha = {place: [[9.0, -9.0 if place == places[-1] else 9.0]] for place in places}
    batch = small.batch(0, 3)
    found = model.apply({"params": with_gates(params, log_alpha)}, batch, True, method="states")
    _, _, plain, _, _ = model_of(family)
    own = {"params": without_gates(params)}
    with scaled_heads({places[-1]: jnp.array([[1.0, 0.0]])}):
        wanted = plain.apply(own, batch, True, method="states")
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(found - plain.apply(own, batch, True, method="states")).max() > 1e-3


def test_gates_of_one_kind_and_factors_for_rows():
    config, _, model, params, places = model_of("encoder_decoder", HeadGates(place="encoder/self"))
    assert penalties.names(config.model, places) == ["open_heads@encoder/self"]
    assert [n for n in flatten_dict(params, sep="/") if n.endswith("gates")] == ["encoder/layers/self_attention/gates"]
    batch, rows = small.batch(0, 3), jnp.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    both = with_gates(params, {"encoder/self": [[9.0, -9.0]]})
    with scaled_heads({"encoder/self": rows}):
        found = model.apply({"params": both}, batch, True, method="states")
    alone = {"params": with_gates(params, {"encoder/self": [[9.0, 9.0]]})}
    with scaled_heads({"encoder/self": rows * jnp.array([[[1.0, 0.0]]])}):
        wanted = model.apply(alone, batch, True, method="states")
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_gates_that_learn_faster_are_the_same_gates():
    _, _, slow, params, (place,) = model_of("decoder_only", HeadGates())
    _, _, fast, *_ = model_of("decoder_only", HeadGates(rate=5.0))
    log_alpha, batch = jnp.array([[0.7, -0.4]]), small.batch(0, 3)
    states = [
        net.apply({"params": with_gates(params, {place: each})}, batch, True, method="states")
        for net, each in ((slow, log_alpha), (fast, log_alpha / 5))
    ]
    np.testing.assert_allclose(*states, atol=1e-6)


def test_what_open_gates_cost():
    config, data_info, model, params, places = model_of("encoder_decoder", HeadGates(penalty_per_head=0.1))
    params = with_gates(params, {place: [[9.0, -9.0 if "cross" in place else 0.5]] for place in places})
    batch = small.batch(0, 3)
    plain = families.task_of(config).loss(model, config, data_info)
    loss = families.make_loss(model, config, data_info)
    found, bare = loss(params, batch, None), plain(params, batch, None)
    weight = float(bare["weight_sum"])
    assert found["loss_sum"] == pytest.approx(float(bare["loss_sum"]) + 0.1 * 5 * weight, rel=1e-5)
    assert found["nll_sum"] == bare["nll_sum"]
    assert [found[f"open_heads@{place}_sum"] / weight for place in places] == [2, 2, 1]
    drawn = loss(params, batch, jax.random.key(1))
    chances = [float(gates.chance_open(jnp.asarray(x))) for x in (9.0, 0.5, -9.0)]
    assert drawn["open_heads@decoder/self_sum"] / weight == pytest.approx(chances[0] + chances[1])
    assert drawn["open_heads@decoder/cross_sum"] / weight == pytest.approx(chances[0] + chances[2])


@pytest.mark.slow
def test_training_shuts_what_costs_more_than_it_is_worth():
    """A high penalty closes all gates, no penalty leaves them open; each update samples new gates."""

    def after(penalty: float):
        config, data_info, model, params, places = model_of(
            "encoder_decoder",
            HeadGates(penalty_per_head=penalty),
            train__steps=60,
            train__learning_rate=0.2,
            train__schedule="constant",
        )
        params = with_gates(params, {place: [[gates.OPEN] * 2] for place in places})
        _, train_step, begin = trainers.make(config, data_info, model)
        step, state, batch = Runtime(config.parallel).compile_train(train_step), begin(params), small.batch(0, 8)
        losses = set()
        for _update in range(60):
            state, metrics = step(state, batch)
            losses.add(float(metrics["loss_sum"]))
        assert len(losses) > 50
        return sum(map(float, penalties.sum_over_layers(config.model, places, state.params, training=False)[1].values()))

    assert after(0.0) >= 5 and after(50.0) == 0
