"""Schedules at values computed by hand, and update rules against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from transformer import families
from transformer.config import Config, Model, Train
from transformer.training import optimizer


def rates(updates, d_model=512, **settings):
    schedule = optimizer.make_schedule(Train(**settings), Model(d_model=d_model))
    return np.array([schedule(jnp.asarray(update)) for update in updates])


# --- schedules ---------------------------------------------------------------------------------------------------------


def test_equation_3_of_the_paper():
    """d_model^-0.5 min(step^-0.5, step warmup^-1.5), the paper's base model; update 0 is step 1."""
    found = rates([0, 1999, 3998, 3999, 4000, 15_999, 99_999])
    by_hand = [1.746928e-7, 3.493856e-4, 6.985966e-4, 6.987712e-4, 6.986839e-4, 3.493856e-4, 1.397542e-4]
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    steps = np.array([1, 2, 10, 99, 100, 101, 102, 1000], np.float64)
    equation = 64**-0.5 * np.minimum(steps**-0.5, steps * 100**-1.5)
    np.testing.assert_allclose(rates(steps.astype(int) - 1, 64, warmup_steps=100), equation, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "warmup", "wanted"),
    [
        ("linear", 4, {0: 1, 1: 2, 3: 4, 4: 4, 5: 3.5, 8: 2, 11: 0.5, 12: 0}),
        ("linear", 0, {0: 4, 3: 3, 6: 2, 11: 1 / 3, 12: 0}),
        ("cosine", 4, {0: 1, 3: 4, 4: 4, 6: 2 + 2**0.5, 8: 2, 10: 2 - 2**0.5, 12: 0}),
        ("cosine", 0, {0: 4, 4: 3, 6: 2, 8: 1, 12: 0}),
        ("constant", 4, {0: 1, 2: 3, 3: 4, 4: 4, 11: 4}),
        ("constant", 0, {0: 4, 11: 4}),
        ("constant", 1, {0: 4, 1: 4, 11: 4}),
        ("wsd", 4, {0: 1, 3: 4, 4: 4, 8: 4, 9: 4, 10: 8 / 3, 11: 4 / 3, 12: 0}),
        ("wsd", 0, {0: 4, 9: 4, 10: 8 / 3, 12: 0}),
        ("rsqrt", 1, {0: 4, 3: 2, 15: 1}),
        ("rsqrt", 4, {0: 1, 1: 2, 3: 4, 15: 2, 63: 1}),
    ],
)
def test_by_hand(schedule, warmup, wanted):
    """12 updates, 0 to 11, with 4 at the most: only the update after the last has rate 0."""
    settings = {"schedule": schedule, "warmup_steps": warmup, "steps": 12, "learning_rate": 4.0, "decay_steps": 3}
    np.testing.assert_allclose(rates(wanted, **settings), list(wanted.values()), rtol=1e-6, atol=1e-6)
    if schedule != "rsqrt":
        assert np.all(rates(range(12), **settings) > 0.06)


def test_wsd_without_a_decay_is_constant_and_decays_over_a_tenth_by_default():
    settings = {"schedule": "wsd", "warmup_steps": 2, "steps": 20, "learning_rate": 4.0}
    np.testing.assert_array_equal(rates(range(20), **settings, decay_steps=0), [2.0] + [4.0] * 19)
    np.testing.assert_allclose(rates(range(17, 21), **settings), [4.0, 4.0, 2.0, 0.0])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "rsqrt"])
def test_shorter_than_its_warm_up(schedule):
    found = rates(range(3), schedule=schedule, warmup_steps=6, steps=3, learning_rate=6.0)
    np.testing.assert_allclose(found, [1, 2, 3], rtol=1e-6)


# --- update rules ------------------------------------------------------------------------------------------------------

PARAMS = {"layer": {"kernel": np.array([[0.5, -1.0], [2.0, 0.25]], np.float32), "bias": np.array([0.1, -0.2], np.float32)}}


def gradients(update):
    return jax.tree.map(lambda x: np.cos(3 * x + update).astype(np.float32), PARAMS)


def run(train, updates=3, params=PARAMS):
    """Parameters after each update with `gradients`, and the optimizer's last state."""
    rule, rates, seen = optimizer.make_optimizer(train), optimizer.make_schedule(train, Model()), []
    state = rule.init(params)
    for update in range(updates):
        changes, state = rule.update(gradients(update), state, params)
        params = optax.apply_updates(params, optax.tree.scale(-rates(update), changes))
        seen.append(params)
    return seen, state


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_by_hand(name):
    """Kingma and Ba 2015, algorithm 1, and Loshchilov and Hutter 2019, algorithm 2, in float64."""
    train = Train(optimizer=name, learning_rate=0.3, warmup_steps=2, beta1=0.8, beta2=0.95, epsilon=1e-3)
    train = dataclasses.replace(train, weight_decay=0.1 if name == "adamw" else 0.0)
    seen, _ = run(train)
    for path, decay in ((("layer", "kernel"), 0.1 if name == "adamw" else 0.0), (("layer", "bias"), 0.0)):
        pick = lambda tree, path=path: np.asarray(tree[path[0]][path[1]], np.float64)  # noqa: E731
        x = pick(PARAMS)
        m = v = np.zeros_like(x)
        for update, rate in enumerate([0.15, 0.3, 0.3 * (2 / 3) ** 0.5]):
            g, t = pick(gradients(update)), update + 1
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
            x = x - rate * ((m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3) + decay * x)
            np.testing.assert_allclose(pick(seen[update]), x, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor"])
def test_clipping_by_the_norm_of_all(name):
    """A gradient longer than `clip_norm` counts as its direction with that length, a shorter one as it is."""
    norm = float(np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients(0)))))
    large = {} if name == "adafactor" else {"epsilon": 0.5}  # so large that length matters
    plain = Train(optimizer=name, learning_rate=0.3, warmup_steps=1, **large)
    cut, long = (run(dataclasses.replace(plain, clip_norm=n), 1) for n in (norm / 4, norm * 2))
    jax.tree.map(np.testing.assert_array_equal, long[0], run(plain, 1)[0])
    if name != "adafactor":
        means = [optax.tree.get(state, "mu") for state in (cut[1], long[1])]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(4 * a, b, rtol=1e-5), *means)
        assert float(optax.tree.norm(means[0])) == pytest.approx(0.1 * norm / 4, rel=1e-5)


ALL_PARAMETERS = {  # settings that between them make parameters of every name
    "paper": {},
    "learned": {"positions": "learned", "positions__size": 300, "tying": "none", "logits_bias": True, "embedding_norm": True},
    "t5": {
        "positions": "t5",
        "attention__scale": "learned",
        "norm": "rms",
        "feed_forward__activation": "swiglu",
        "norm_order": "pre",
    },
    "shaw": {"positions": "shaw", "attention__qk_norm": True, "tying": "two_way"},
}
DECAYED = {"kernel", "table"}
KEPT = {"bias", "scale", "position_table", "position_keys", "position_values"}


def parameters(**settings):
    config = Config(model=small.model(num_encoder_layers=2, num_decoder_layers=2, d_model=8, d_ff=8, num_heads=2, **settings))
    family = families.FAMILIES[config.family]
    model, objective = family.model(config, small.DATA_INFO), families.make_objective(config, small.DATA_INFO, {})
    return jax.eval_shape(lambda: families.init_params(model, objective, 0))


def names(path):
    return [part.key for part in path]


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
@pytest.mark.parametrize("settings", ALL_PARAMETERS.values(), ids=ALL_PARAMETERS)
def test_kernels_and_embeddings_alone_decay(settings, name):
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), parameters(**settings))
    rule = optimizer.make_optimizer(Train(optimizer=name, weight_decay=0.1))
    zeros = jax.tree.map(np.zeros_like, params)
    changes, _ = rule.update(zeros, rule.init(params), params)
    for path, change in jax.tree.leaves_with_path(changes):
        *above, name = names(path)
        assert name in DECAYED or name in KEPT, path
        assert name != "table" or above[-1].endswith("_embedding")
        np.testing.assert_allclose(change, 0.1 if name in DECAYED else 0, rtol=1e-6)


def test_every_name_was_among_them():
    found = {names(path)[-1] for s in ALL_PARAMETERS.values() for path, _ in jax.tree.leaves_with_path(parameters(**s))}
    assert found == DECAYED | KEPT


def test_schedule_free_is_optax_s():
    """Parameters and average over 30 updates with a warm-up, of which optax is given the schedule and we the numbers."""
    train = Train(optimizer="schedule_free", beta1=0.9, beta2=0.95, weight_decay=0.1, schedule="constant", epsilon=1e-8)
    draw = np.random.default_rng(0)
    start = {"encoder": {"kernel": jnp.asarray(draw.normal(size=(3, 2)), jnp.float32)}}
    rates = jnp.minimum(0.03 * jnp.arange(1, 31) / 10, 0.03)
    theirs = optax.contrib.schedule_free(
        optax.adamw(lambda count: rates[count], 0.0, 0.95, 1e-8, weight_decay=0.1), lambda count: rates[count - 1], b1=0.9
    )
    ours = optimizer.make_optimizer(train)
    one, other, average = start, start, start
    state, of_optax = ours.init(start), theirs.init(start)
    for rate in rates:
        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(3 * p["encoder"]["kernel"])))
        updates, state = ours.update(gradient(one), state, one)
        one, state, average = optimizer.apply_updates(train, one, updates, state, average, rate)
        updates, of_optax = theirs.update(gradient(other), of_optax, other)
        other = optax.apply_updates(other, updates)
    np.testing.assert_allclose(one["encoder"]["kernel"], other["encoder"]["kernel"], rtol=2e-5)
    scored = optax.contrib.schedule_free_eval_params(of_optax, other)
    np.testing.assert_allclose(average["encoder"]["kernel"], scored["encoder"]["kernel"], rtol=1e-4)
    assert np.max(np.abs(average["encoder"]["kernel"] - one["encoder"]["kernel"])) > 1e-3


@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor", "lion", "muon"])
def test_a_loss_falls(name):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(256, 130)).astype(np.float32)  # adafactor factors what has 128 entries along two axes
    outputs = inputs @ draw.normal(size=(130, 140)).astype(np.float32) / 11
    rule = optimizer.make_optimizer(Train(optimizer=name))

    def loss(params):
        params = params["encoder"]
        return jnp.mean((inputs @ params["kernel"] + params["bias"][None] - outputs) ** 2)

    @jax.jit
    def update(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        changes, state = rule.update(gradient, state, params)
        return value, jax.tree.map(lambda x, change: x - 0.03 * change, params, changes), state

    params = {"encoder": {"kernel": jnp.asarray(0.1 * draw.normal(size=(130, 140)), jnp.float32), "bias": jnp.zeros(140)}}
    state, first = rule.init(params), None
    for _ in range(40):
        value, params, state = update(params, state)
        first = value if first is None else first
    assert value < 0.3 * first


def test_muon_makes_each_layer_s_kernels_orthogonal_and_leaves_the_rest_to_adam():
    """Heads and their width are one axis; the singular values of an update are about equal, of size 0.2 sqrt(max(m, n))."""
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), parameters(num_kv_heads=1))
    draw = np.random.default_rng(0)
    gradients = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), params)
    train = Train(optimizer="muon", epsilon=1e-8)
    rule, adam = optimizer.make_optimizer(train), optimizer.make_optimizer(dataclasses.replace(train, optimizer="adam"))
    changes, plain = (each.update(gradients, each.init(params), params)[0] for each in (rule, adam))
    orthogonal = set()
    for path, change in jax.tree.leaves_with_path(changes):
        name = "/".join(names(path))
        stacked = "/layers/" in name or name.startswith("memory")
        if not name.endswith("kernel") or not stacked:
            expected = plain
            for part in path:
                expected = expected[part.key]
            np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-5, err_msg=name)
            continue
        orthogonal.add(name.split("/")[-2])
        for layer in np.asarray(change):
            inputs = 2 if "attention/output" in name else 1
            matrix = layer.reshape(int(np.prod(layer.shape[:inputs])), -1)
            values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
            assert values.min() > 0.5 and values.max() < 1.4, name
    assert orthogonal == {"query", "key", "value", "output", "inner", "outer"}


def test_muon_takes_the_kernels_of_a_recurrent_decoder_as_matrices():
    """Its cells are called layers, but have no axis of layers."""
    config = Config("recurrent", small.model(num_encoder_layers=1, num_decoder_layers=2, d_model=8))
    model = families.FAMILIES["recurrent"].model(config, small.DATA_INFO)
    shapes = jax.eval_shape(lambda: families.init_params(model, families.make_objective(config, small.DATA_INFO, {}), 0))
    axes = optimizer.matrices(shapes)
    kernels = {"/".join(names(path)): leaf for path, leaf in jax.tree.leaves_with_path(shapes) if leaf.ndim == 2}
    found = {
        "/".join(names(path)): (tuple(each.reduction_axis), tuple(each.output_axis))
        for path, each in jax.tree.leaves_with_path(axes, is_leaf=lambda x: isinstance(x, optax.contrib.MuonDimensionNumbers))
    }
    of_cells = [name for name in kernels if name.startswith("decoder/layers/") and name.endswith("kernel")]
    assert of_cells and all(found[name] == ((0,), (1,)) for name in of_cells)


def test_adafactor_keeps_rows_and_columns_alone():
    rule = optimizer.make_optimizer(Train(optimizer="adafactor"))
    state = jax.eval_shape(rule.init, {"kernel": jax.ShapeDtypeStruct((256, 512), jnp.float32)})
    assert sum(x.size for x in jax.tree.leaves(state)) < 1000


def test_peak():
    assert optimizer.peak_learning_rate(Train(warmup_steps=4000), Model()) == pytest.approx(6.987712e-4, rel=1e-6)
    assert optimizer.peak_learning_rate(Train(warmup_steps=0), Model(d_model=64)) == pytest.approx(0.125)
    assert optimizer.peak_learning_rate(Train(learning_rate=0.25), Model()) == 0.25


@pytest.mark.parametrize(("steps", "warmup", "warned"), [(99, 100, True), (100, 100, False), (5, 0, False)])
def test_a_run_that_ends_in_its_warm_up_is_warned_of(steps, warmup, warned):
    """With the fraction of the peak that the schedule reaches."""
    train = Train(steps=steps, warmup_steps=warmup, schedule="constant", learning_rate=0.5)
    found = optimizer.warm_up_warning(train, Model())
    assert len(found) == warned and all("config.train.warmup_steps 100" in line and "99.0%" in line for line in found)
    assert optimizer.make_schedule(train, Model())(steps - 1) == pytest.approx(0.5 * (0.99 if warned else 1))
