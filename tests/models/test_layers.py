"""Norms, activations, the structure of a layer, and initializers, each against its formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer.components.feed_forward import ACTIVATIONS
from transformer.components.masks import Causal, Pairs, Tokens
from transformer.config import DataInfo, Model
from transformer.models.attention import AttentionLayer
from transformer.models.layers import (
    Embedding,
    FeedForwardLayer,
    Layer,
    NormLayer,
    embedding_initializer,
    entries_first,
    kernel_initializer,
)
from transformer.models.transformer import EncoderDecoder

B, T, D, F = 2, 5, 8, 12


def states(seed=0, shift=0.5):
    return jnp.asarray(np.random.default_rng(seed).normal(loc=shift, scale=2.0, size=(B, T, D)), jnp.float32)


def normed(x, parameters, kind, epsilon=1e-6):
    """Layer norm: (x - mean) / deviation; RMS norm: x / root of the mean square; times the factor, plus the bias."""
    x = np.asarray(x, np.float64)
    centred = x if kind == "rms" else x - x.mean(-1, keepdims=True)
    result = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * np.asarray(parameters["scale"])
    return result + np.asarray(parameters.get("bias", 0))


@pytest.mark.parametrize(
    ("kind", "bias", "epsilon"), [("layer", True, 1e-6), ("layer", False, 1e-6), ("layer", True, 0.5), ("rms", True, 0.5)]
)
def test_norms(draw, kind, bias, epsilon):
    norm, x = NormLayer(small.model(norm=kind, norm__epsilon=epsilon, **({} if bias else {"norm__bias": False}))), states()
    variables = draw(norm, x)
    assert ("bias" in variables["params"]) == (bias and kind == "layer")
    np.testing.assert_allclose(norm.apply(variables, x), normed(x, variables["params"], kind, epsilon), atol=1e-5)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def tanh_gelu(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def erf_gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


# name -> (function, gated)
FORMULAS = {
    "relu": (lambda x: max(0.0, x), False),
    "gelu": (erf_gelu, False),
    "gelu_tanh": (tanh_gelu, False),
    "silu": (lambda x: x * sigmoid(x), False),
    "geglu": (erf_gelu, True),
    "geglu_tanh": (tanh_gelu, True),
    "swiglu": (lambda x: x * sigmoid(x), True),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", FORMULAS)
def test_feed_forward_is_its_formula(draw, activation, bias):
    module, x = (
        FeedForwardLayer(
            small.model(d_model=D, d_ff=F, feed_forward__activation=activation, feed_forward__bias=bias),
            "encoder",
            deterministic=True,
        ),
        states(),
    )
    variables = draw(module, x)
    function, gated = FORMULAS[activation]

    def dense(name, x):
        parameters = variables["params"][name]
        assert ("bias" in parameters) == bias
        return np.asarray(x) @ np.asarray(parameters["kernel"], np.float64) + np.asarray(parameters.get("bias", 0))

    hidden = np.vectorize(function)(dense("inner", x))
    if gated:
        hidden = hidden * dense("gate", x)
    assert ("gate" in variables["params"]) == gated
    np.testing.assert_allclose(module.apply(variables, x), dense("outer", hidden), atol=1e-4)


def test_every_activation_has_its_formula_here():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("sqrt(d_model)", 4.0)])
@pytest.mark.parametrize("times", [1, 11])  # few and many tokens, of which products are taken in different orders
def test_embedding_gives_rows_and_takes_products_with_them(draw, scale, factor, dtype, times):
    embedding = Embedding(7, Model(d_model=16, embedding_scale=scale, dtype=dtype))
    tokens = jnp.tile(jnp.array([[3, 0, 6], [1, 3, 2]]), (times, 1))
    assert entries_first(tokens.size) == (times == 1)
    variables = draw(embedding, tokens)
    table = variables["params"]["table"]
    assert table.dtype == jnp.float32
    x = embedding.apply(variables, tokens)
    assert x.dtype == dtype
    rounding = 0.01 if dtype == "bfloat16" else 1e-6
    np.testing.assert_allclose(np.asarray(x, np.float32), np.asarray(table)[tokens] * factor, rtol=rounding)
    logits = embedding.apply(variables, x, method="logits")
    assert logits.dtype == jnp.float32
    products = np.asarray(x, np.float64) @ np.asarray(table.astype(dtype), np.float64).T
    np.testing.assert_allclose(logits, products, atol=1e-4)  # sums in fp32, of whatever the factors are


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("order", ["post", "pre"])
def test_sublayers_are_wired_in_their_order(draw, order, kind):
    config = small.model(d_model=D, d_ff=F, num_heads=2, norm_order=order, norm=kind)
    layer, tokens = Layer(config, "decoder", True, True), Tokens(jnp.arange(T))
    key, value = (jnp.moveaxis(states(seed).reshape(B, T, 2, D // 2), 1, axis) for seed, axis in ((1, 3), (2, 2)))
    own, broadcast = (
        {"number": 0, "first_sublayer": 0, "memory": {"key": key, "value": value}},
        {"query": tokens, "cross_query": tokens, "memory": tokens, "sublayers": 3},
    )
    variables = draw(layer, (states(), {}), own, broadcast)
    parameters = variables["params"]

    def attention(name, cross, x):
        module = AttentionLayer(config, "decoder", "cross" if cross else "self", jax.nn.initializers.zeros)
        pairs = Pairs(tokens, tokens) if cross else Pairs(tokens, tokens, mask=Causal())
        given = {"memory": own["memory"]} if cross else {}
        return module.apply({"params": parameters[name]}, jnp.asarray(x, jnp.float32), pairs, **given)[0]

    def feed_forward(x):
        module = FeedForwardLayer(config, "decoder", True)
        return module.apply({"params": parameters["feed_forward"]}, jnp.asarray(x, jnp.float32))

    expected = np.asarray(states(), np.float64)
    for name, function in {
        "self_attention": lambda x: attention("self_attention", False, x),
        "cross_attention": lambda x: attention("cross_attention", True, x),
        "feed_forward": feed_forward,
    }.items():
        norm = parameters[f"{name}_norm"]
        if order == "post":
            expected = normed(expected + function(expected), norm, kind)
        else:
            expected = expected + function(normed(expected, norm, kind))
    (output, passed_up), cache = jax.jit(layer.apply)(variables, (states(), {}), own, broadcast)
    assert cache is None and passed_up == {}
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_dropout_is_applied_where_the_paper_does():
    """On embedded inputs and on each sublayer's output, before the residual; elsewhere only if a setting says so."""

    def places(**rates):
        config = small.model(num_encoder_layers=1, num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2, **rates)
        network = EncoderDecoder(config, DataInfo(9, 9, 9, 9))
        batch = {"source": jnp.ones((1, 3), jnp.int32), "inputs": jnp.ones((1, 2), jnp.int32)}
        variables = jax.eval_shape(network.init, jax.random.key(0), batch)
        keys = {"dropout": jax.random.key(1)}
        program = jax.make_jaxpr(lambda v: network.apply(v, batch, deterministic=False, rngs=keys))(variables)
        return str(program).count("random_fold_in")

    def rates(**given):
        return {"dropout_rate": 0.0, "attention__dropout_rate": 0.0, "feed_forward__dropout_rate": 0.0} | given

    none = places(**rates())
    assert places(**rates(dropout_rate=0.1)) - none == 2 + 2 + 3
    assert places(**rates(attention__dropout_rate=0.1)) - none == 1 + 2
    assert places(**rates(feed_forward__dropout_rate=0.1)) - none == 1 + 1


@pytest.mark.parametrize("order", ["post", "pre"])
def test_dropout_affects_sublayer_outputs_but_not_the_residual(draw, order):
    # So high a rate that everything is dropped: what is left is the residual, and post-norm's norms.
    config = Model(d_model=D, d_ff=F, num_heads=2, norm_order=order, dropout_rate=1 - 1e-6)
    layer = Layer(config, "encoder", False, False)
    arguments = ((states(), {}), {"number": 0, "first_sublayer": 0}, {"query": Tokens(jnp.arange(T)), "sublayers": 2})
    variables = draw(layer.clone(deterministic=True), *arguments)
    (output, _), _ = jax.jit(lambda v: layer.apply(v, *arguments, rngs={"dropout": jax.random.key(0)}))(variables)
    expected = np.asarray(states(), np.float64)
    if order == "post":
        for name in ("self_attention", "feed_forward"):
            expected = normed(expected, variables["params"][f"{name}_norm"], "layer")
    np.testing.assert_allclose(output, expected, atol=1e-5)


# --- initialisers ----------------------------------------------------------------------------------------------------

WIDTH, INNER, HEADS, KEY, VALUE, ROWS = 64, 160, 2, 24, 40, 300
FANS = {  # inputs and outputs of each kernel
    ("query", "kernel"): (WIDTH, HEADS * KEY),
    ("key", "kernel"): (WIDTH, HEADS * KEY),
    ("value", "kernel"): (WIDTH, HEADS * VALUE),
    ("output", "kernel"): (HEADS * VALUE, WIDTH),
    ("inner", "kernel"): (WIDTH, INNER),
    ("gate", "kernel"): (WIDTH, INNER),
    ("outer", "kernel"): (INNER, WIDTH),
    ("logits", "kernel"): (WIDTH, ROWS),
}
KERNELS = {
    "xavier_uniform": lambda inputs, outputs: math.sqrt(2 / (inputs + outputs)),
    "fan_in": lambda inputs, outputs: math.sqrt(1 / inputs),
    "normal": lambda inputs, outputs: 0.05,
}
EMBEDDINGS = {"1/sqrt(d_model)": WIDTH**-0.5, "normal": 0.05, "unit": 1.0}


@pytest.mark.parametrize("initializer", KERNELS)
def test_kernel_initializers_have_the_documented_deviation(initializer):
    kernel = kernel_initializer(Model(initializer=initializer, init_stddev=0.05))(jax.random.key(0), (200, 500), jnp.float32)
    assert np.std(kernel) == pytest.approx(KERNELS[initializer](200, 500), rel=0.02)


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_embedding_initializers_have_the_documented_deviation(kind):
    config = Model(embedding_init=kind, init_stddev=0.05, d_model=WIDTH)
    table = embedding_initializer(config)(jax.random.key(0), (1000, 200), jnp.float32)
    assert np.std(table) == pytest.approx(EMBEDDINGS[kind], rel=0.02)


@pytest.mark.parametrize(("initializer", "embedding_init"), [("xavier_uniform", "1/sqrt(d_model)"), ("normal", "unit")])
def test_all_parameters_have_the_documented_initialization(initializer, embedding_init):
    config = small.model(
        num_encoder_layers=2,
        num_decoder_layers=2,
        d_model=WIDTH,
        d_ff=INNER,
        num_heads=HEADS,
        d_k=KEY,
        d_v=VALUE,
        feed_forward__activation="geglu",
        tying="none",
        attention__qk_norm=True,
        logits_bias=True,
        positions="learned",
        positions__size=100,
        initializer=initializer,
        init_stddev=0.05,
        embedding_init=embedding_init,
    )
    network = EncoderDecoder(config, DataInfo(ROWS, ROWS, ROWS, ROWS))
    batch = {"source": jnp.ones((1, 2), jnp.int32), "inputs": jnp.ones((1, 2), jnp.int32)}
    parameters = jax.jit(network.init)(jax.random.key(0), batch)["params"]
    seen = set()
    for path, leaf in jax.tree.leaves_with_path(parameters):
        names = tuple(entry.key for entry in path)
        if names[-1].endswith("bias"):
            assert np.all(np.asarray(leaf) == 0), names
        elif names[-1] == "scale":
            assert np.all(np.asarray(leaf) == 1), names
        else:
            stddev = 0.05
            if names[-1] == "table":
                stddev = EMBEDDINGS[embedding_init]
            elif names[-1] != "position_table":
                seen.add(names[-2:])
                stddev = KERNELS[initializer](*FANS[names[-2:]])
                # Each layer has numbers of its own.
                assert "layers" not in names or np.abs(leaf[0] - leaf[1]).mean() > stddev / 2, names
            assert np.std(leaf) == pytest.approx(stddev, rel=0.03), names
            assert abs(np.mean(leaf)) < 5 * stddev / math.sqrt(leaf.size), names
            if initializer == "xavier_uniform" and names[-2:] in FANS:
                assert np.abs(leaf).max() <= math.sqrt(6 / sum(FANS[names[-2:]])), names
    assert seen == set(FANS)


def test_seeds_give_different_parameters():
    layer = Layer(Model(d_model=D, d_ff=F, num_heads=2), "encoder", False, True)
    given = {"number": 0, "first_sublayer": 0}, {"query": Tokens(jnp.arange(T)), "sublayers": 2}
    init = jax.jit(lambda key: layer.init(key, (states(), {}), *given)["params"]["feed_forward"])
    first, again, other = (init(jax.random.key(seed))["inner"]["kernel"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).min() > 0
