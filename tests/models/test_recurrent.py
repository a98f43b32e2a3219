"""Recurrent encoder-decoders against the papers' formulas, in loops over the tokens of one sentence."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer.config import DataInfo, Model, Recurrent
from transformer.errors import UserError
from transformer.models import dropout
from transformer.models.recurrent import RecurrentEncoderDecoder, over_time

DATA_INFO = DataInfo(source_size=50, target_size=50, source_rows=56, target_rows=56)
D = 8

# Each paper's model, and between them each cell, score, depth and way to read the source.
SUTSKEVER = {"cell": "lstm", "attention": "none", "bidirectional": False, "reverse_source": True, "layers": (2, 2)}
CHO = {"cell": "gru", "attention": "none", "context": "every_step", "bidirectional": False}
BAHDANAU = {"cell": "gru", "attention": "bahdanau"}
LUONG = {"cell": "lstm", "attention": "luong_dot", "bidirectional": False, "reverse_source": True, "layers": (2, 2)}
MODELS = {
    "sutskever": SUTSKEVER,
    "cho": CHO,
    "bahdanau": BAHDANAU,
    "luong, dot": LUONG,
    "luong, general": {"cell": "gru", "attention": "luong_general", "input_feeding": False, "layers": (1, 2)},
    "luong, concat": {"cell": "gru", "attention": "luong_concat", "reverse_source": True, "layers": (2, 1)},
    "bahdanau, deep": {"cell": "lstm", "attention": "bahdanau", "layers": (2, 2)},
    "cho, deep": {"cell": "lstm", "attention": "none", "context": "every_step", "layers": (1, 2)},
}
each_model = pytest.mark.parametrize("name", MODELS)
some_models = pytest.mark.parametrize("name", small.some(MODELS, "sutskever", "bahdanau", "luong, concat", "cho, deep"))


def make(layers=(1, 1), model=None, **settings):
    """`settings` of Recurrent, `model` settings of Model."""
    small = {
        "num_encoder_layers": layers[0],
        "num_decoder_layers": layers[1],
        "d_model": D,
        "dropout_rate": 0.0,
        "tying": "none",
    }
    return RecurrentEncoderDecoder(Model(**small | (model or {}), recurrent=Recurrent(**settings)), DATA_INFO)


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(4, 50, shape), jnp.int32)


LENGTHS = (6, 4, 3)
SEGMENTS = jnp.asarray(np.arange(6)[None] < np.array(LENGTHS)[:, None], jnp.int32)
BATCH = {  # each test that has a batch of these shapes shares its model's compiled programs with the others
    "source": tokens(3, 6),
    "inputs": tokens(3, 4, seed=1),
    "source_segments": SEGMENTS,
    "segments": jnp.ones((3, 4), jnp.int32),
}


@pytest.fixture(scope="session")
def build(draw):
    """Name -> network, drawn variables, and its compiled plain pass with what is observed."""

    @functools.cache
    def build(name):
        network = make(**MODELS[name])
        plain = jax.jit(lambda variables, batch: network.apply(variables, batch, mutable=["intermediates"]))
        variables = jax.tree.map(lambda x: 2.5 * x, draw(network, BATCH))  # few units: large values make gates distinguishable
        return network, variables, plain

    return build


@pytest.fixture(scope="session")
def differentiate(build):
    """Name -> the compiled loss and its gradients, of parameters, a batch with targets, and the weight of each token."""

    @functools.cache
    def differentiate(name):
        network, _, _ = build(name)
        return jax.jit(jax.value_and_grad(functools.partial(loss, network)))

    return differentiate


def loss(network, params, batch, weights, **keywords):
    logits = network.apply({"params": params}, batch, **keywords)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], axis=-1)
    return -jnp.sum(picked[..., 0] * weights) / jnp.sum(weights)


TARGETS, ALL = BATCH["source"][:, :4], jnp.ones((3, 4))


def weights_of(observed):
    """The attention weights BxTxS that figures show."""
    weights = observed["intermediates"]["decoder"]["layers"]["cross_attention"]["weights"][0]
    assert weights.ndim == 5 and weights.shape[0] == weights.shape[2] == 1  # one layer, one head
    return np.asarray(weights)[0, :, 0]


# --- the papers' formulas --------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def affine(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def gru(p, state, wx):
    """Cho et al. 2014, equations 5 to 8; `wx` is the term before U h for each of z, r and the candidate."""
    (h,), width = state, len(state[0])
    u = p["gates"]["kernel"]
    z = sigmoid(wx[:width] + h @ u[:, :width])
    r = sigmoid(wx[width : 2 * width] + h @ u[:, width:])
    candidate = np.tanh(wx[2 * width :] + (r * h) @ p["candidate"]["kernel"])
    return (z * h + (1 - z) * candidate,)


def lstm(p, state, wx):
    h, c = state
    i, f, o, g = np.split(wx + h @ p["gates"]["kernel"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


CELLS = {"gru": (gru, 1), "lstm": (lstm, 2)}


def encode(p, settings, x, layers):
    """Annotations, one per token, and the last state of each layer."""
    (cell, parts), both, last = CELLS[settings["cell"]], settings.get("bidirectional", True), []
    reverse = settings.get("reverse_source", False)
    for number in range(layers):
        outputs, ends = [], []
        for name, backwards in (("forward", reverse), ("backward", not reverse))[: 1 + both]:
            own = p[f"{name}_{number}"]
            state, found = (np.zeros(D // (1 + both)),) * parts, {}
            order = range(len(x))
            for place in reversed(order) if backwards else order:
                state = cell(own["steps"]["cell"], state, affine(own["inputs"], x[place]))
                found[place] = state[0]
            outputs.append([found[place] for place in order])
            ends.append(state)
        x = [np.concatenate(pair) for pair in zip(*outputs, strict=True)]
        last.append(tuple(np.concatenate(pair) for pair in zip(*ends, strict=True)))
    return x, last


def attend(p, kind, query, keys, values):
    """The context and the weights; `keys` are already projected, or are the values."""
    own, scores = p.get("cross_attention"), []
    for key in keys:
        if kind in ("bahdanau", "luong_concat"):
            scores.append(np.tanh(query @ own["query"]["kernel"] + key) @ own["score"]["kernel"][:, 0])
        else:
            scores.append(query @ key)
    weights = np.exp(scores - np.max(scores))
    weights /= weights.sum()
    return sum(weight * value for weight, value in zip(weights, values, strict=True)), weights


def reference(params, settings, source, inputs):
    """Logits TxN and weights TxS of one pair without padding, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    kind, (below, above) = settings["attention"], settings.get("layers", (1, 1))
    cell, _ = CELLS[settings["cell"]]
    embedded = p["source_embedding"]["table"][source] * D**0.5
    annotations, last = encode(p["encoder"], settings, list(embedded), below)

    memory, decoder, context = p["memory"], p["decoder"], None
    own = decoder["layers"]
    if settings.get("context") == "every_step":
        context = np.tanh(affine(memory["vector"], last[-1][0]))
        last = [(context,) * len(last[0])]
    states = []
    for number in range(above):
        state = last[max(number + len(last) - above, 0)]
        parts = [affine(memory[f"initial_{number}_{n}"], part) for n, part in enumerate(state)]
        states.append((np.tanh(parts[0]), *parts[1:]))
    keys = annotations if kind in ("none", "luong_dot") else [affine(memory["key"], a) for a in annotations]

    output, logits, weights = np.zeros(D), [], []
    for x in p["target_embedding"]["table"][inputs] * D**0.5:
        wx = affine(decoder["inputs"], x)
        if kind == "bahdanau":
            context, found = attend(own, kind, states[-1][0], keys, annotations)
            weights.append(found)
            wx = wx + affine(own["read"], context)
        elif kind == "none" and context is not None:
            wx = wx + affine(decoder["read"], context)
        elif kind != "none" and settings.get("input_feeding", True):
            wx = wx + affine(own["read"], output)
        for number in range(above):
            if number:
                wx = affine(own[f"inputs_{number}"], states[number - 1][0])
            states[number] = cell(own[f"cell_{number}"], states[number], wx)
        output = states[-1][0]
        if kind.startswith("luong"):
            found_context, found = attend(own, kind, output, keys, annotations)
            weights.append(found)
            output = np.tanh(affine(own["attentional"], np.concatenate([found_context, output])))
        elif context is not None:
            pairs = affine(decoder["readout"], np.concatenate([output, x, context])).reshape(D, 2)
            output = pairs.max(axis=1)
        logits.append(output @ p["logits"]["kernel"])
    return np.array(logits), np.array(weights)


@each_model
def test_logits_and_weights_are_the_formulas(build, name):
    _, variables, plain = build(name)
    logits, observed = plain(variables, BATCH)
    for row, length in enumerate(LENGTHS):
        source = np.asarray(BATCH["source"])[row, :length]
        expected, weights = reference(variables["params"], MODELS[name], source, np.asarray(BATCH["inputs"])[row])
        np.testing.assert_allclose(logits[row, :, :50], expected[:, :50], atol=1e-4)
        assert np.std(expected) > 0.3
        if MODELS[name]["attention"] == "none":
            assert "intermediates" not in observed
        else:
            np.testing.assert_allclose(weights_of(observed)[row, :, :length], weights, atol=1e-5)
            assert np.all(weights_of(observed)[row, :, length:] == 0)
            assert np.ptp(weights) > 0.01


# --- steps -----------------------------------------------------------------------------------------------------------


@some_models
def test_steps_give_the_logits_of_the_plain_pass_and_beams_share_a_memory(build, name):
    """Two beams per sentence with different tokens; the first call has padding and then two tokens."""
    network, variables, plain = build(name)
    inputs = tokens(6, 4, seed=2)

    @jax.jit
    def stepped(variables, batch, inputs):
        apply = functools.partial(network.apply, variables)
        memory = apply(batch["source"], None, batch["source_segments"], method="encode")
        cache = apply(memory, 8, 6, method="start")
        assert all(leaf.shape[0] == 6 for leaf in jax.tree.leaves(cache))
        prompt = jnp.concatenate([jnp.full((6, 1), 9), inputs[:, :2]], axis=1)
        some = jnp.array([[False, True, True]] * 6)
        first, cache = apply(prompt, cache, memory, valid_BxT=some, method="step")

        def step(cache, token):
            logits, cache = apply(token[:, None], cache, memory, method="step")
            return cache, logits[:, 0]

        _, rest = jax.lax.scan(step, cache, inputs[:, 2:].T)
        return jnp.concatenate([first[:, 1:], jnp.moveaxis(rest, 0, 1)], axis=1), memory

    logits, memory = stepped(variables, BATCH, inputs)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(memory))
    for beam in (0, 1):
        expected, _ = plain(variables, BATCH | {"inputs": inputs[beam::2]})
        np.testing.assert_allclose(logits[beam::2], expected, atol=1e-5)
    assert np.abs(logits[::2] - logits[1::2])[..., :50].max() > 0.1


# --- padding ---------------------------------------------------------------------------------------------------------


@some_models
def test_neither_contents_nor_length_of_padding_change_outputs(build, name):
    _, variables, plain = build(name)
    batch = BATCH | {"segments": jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], jnp.int32)}
    logits, _ = plain(variables, batch)
    waste = batch | {
        "source": jnp.where(SEGMENTS == 0, 9, batch["source"]),
        "inputs": jnp.where(batch["segments"] == 0, 9, batch["inputs"]),
    }
    real = np.asarray(batch["segments"]) != 0
    np.testing.assert_array_equal(np.asarray(plain(variables, waste)[0])[real], np.asarray(logits)[real])
    longer = {n: jnp.pad(leaf, ((0, 0), (0, 3))) for n, leaf in batch.items()}
    np.testing.assert_allclose(np.asarray(plain(variables, longer)[0])[:, :4][real], np.asarray(logits)[real], atol=1e-5)
    # And it is the sentence's own end where states stop: one token less is another sentence.
    shorter = batch | {"source_segments": SEGMENTS.at[0, 5].set(0)}
    assert np.abs(np.asarray(plain(variables, shorter)[0])[0, 1:, :50] - np.asarray(logits)[0, 1:, :50]).max() > 1e-2


@pytest.mark.parametrize("name", ["sutskever", "bahdanau"])
def test_an_empty_row_has_finite_logits_and_padding_gives_no_gradient(build, differentiate, name):
    _, variables, _ = build(name)
    empty = jnp.array([[1] * 4, [1] * 4, [0] * 4], jnp.int32)
    batch = BATCH | {"source_segments": SEGMENTS.at[2].set(0), "segments": empty, "targets": TARGETS}
    assert len({*map(int, batch["source"].ravel())} & {9}) == 0
    batch["source"] = jnp.where(batch["source_segments"] == 0, 9, batch["source"])
    _, gradients = differentiate(name)(variables["params"], batch, ALL.at[2].set(0))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    rows = np.flatnonzero(np.any(np.asarray(gradients["source_embedding"]["table"]) != 0, axis=-1))
    assert {*map(int, rows)} == {*map(int, batch["source"][batch["source_segments"] != 0])}


# --- what tells the models apart -------------------------------------------------------------------------------------


def encoded(network, source):
    variables = jax.eval_shape(network.init, jax.random.key(0), BATCH)
    return jax.eval_shape(lambda v, x: network.apply(v, x, method="encode"), variables, source)


@each_model
def test_without_attention_the_memory_size_does_not_depend_on_the_source(build, name):
    network, _, _ = build(name)
    short, long = (jax.tree.leaves(encoded(network, tokens(3, length))) for length in (5, 11))
    fixed = [leaf.shape for leaf in short] == [leaf.shape for leaf in long]
    assert fixed == (MODELS[name]["attention"] == "none")
    if fixed:
        assert all(leaf.shape == (3, D) for leaf in short)


def test_the_decoder_knows_the_source_only_by_the_fixed_vector(build):
    """Only Cho's vector: sources with the same vector give the same output, whatever their states are."""
    network, variables, _ = build("cho")
    flat = jax.tree.map(lambda x: x, variables)
    flat["params"]["memory"]["vector"]["kernel"] = jnp.zeros((D, D))
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(network.apply(v, BATCH)[..., :50] ** 2), allow_int=True))
    blind, seeing = (np.asarray(gradient(v)["params"]["source_embedding"]["table"]) for v in (flat, variables))
    assert np.all(blind == 0) and np.any(seeing != 0)


@pytest.mark.parametrize("name", ["bahdanau", "luong, dot"])
def test_attention_does_not_depend_on_the_order_of_annotations(build, name):
    network, variables, _ = build(name)

    @jax.jit
    def logits(order):
        memory = network.apply(variables, BATCH["source"], None, SEGMENTS, method="encode")
        moved = {n: getattr(memory, n)[:, order] for n in ("keys_BxSxD", "values_BxSxD", "valid_BxS")}
        cache = network.apply(variables, memory, 4, 3, method="start")
        return network.apply(variables, BATCH["inputs"], cache, memory.replace(**moved), method="step")[0]

    np.testing.assert_allclose(logits(jnp.arange(6)), logits(jnp.array([3, 5, 0, 1, 4, 2])), atol=1e-5)


@pytest.mark.parametrize("name", ["sutskever", "luong, dot"])
def test_a_reversed_source_is_the_flipped_sentence(build, name):
    """Flipped within its own length; attention weights stay at their positions."""
    _, variables, plain = build(name)
    network = make(**MODELS[name] | {"reverse_source": False})
    other = jax.jit(lambda v, batch: network.apply(v, batch, mutable=["intermediates"]))
    flipped = np.array(BATCH["source"])
    for row, length in enumerate(LENGTHS):
        flipped[row, :length] = flipped[row, :length][::-1]
    logits, observed = plain(variables, BATCH)
    unflipped, _ = other(variables, BATCH)
    found, found_observed = other(variables, BATCH | {"source": jnp.asarray(flipped)})
    np.testing.assert_allclose(found, logits, atol=1e-5)
    assert np.abs(unflipped - logits)[..., :50].max() > 0.05
    if observed:
        for row, length in enumerate(LENGTHS):
            left, right = weights_of(observed)[row, :, :length], weights_of(found_observed)[row, :, :length]
            np.testing.assert_allclose(left, right[:, ::-1], atol=1e-5)


def test_input_feeding_adds_the_previous_output(build):
    """With a zero kernel there is no input feeding; otherwise it changes the logits of every token but the first."""
    _, variables, plain = build("luong, dot")
    network = make(**MODELS["luong, dot"] | {"input_feeding": False})
    without = jax.tree.map(lambda x: x, variables)
    kernel = without["params"]["decoder"]["layers"].pop("read")["kernel"]
    assert kernel.shape == (D, 4 * D)
    logits, expected = plain(variables, BATCH)[0][..., :50], jax.jit(network.apply)(without, BATCH)[..., :50]
    without["params"]["decoder"]["layers"]["read"] = {"kernel": jnp.zeros_like(kernel)}
    np.testing.assert_allclose(plain(without, BATCH)[0][..., :50], expected, atol=1e-5)
    np.testing.assert_allclose(logits[:, 0], expected[:, 0], atol=1e-5)
    assert np.all(np.abs(logits - expected)[:, 1:].max(axis=-1) > 1e-3)


@pytest.mark.parametrize("name", ["cho", "bahdanau, deep", "luong, concat"])
def test_outputs_depend_on_all_earlier_tokens_and_no_later_one(build, differentiate, name):
    _, variables, _ = build(name)
    batch = BATCH | {"inputs": jnp.arange(20, 32).reshape(3, 4), "targets": TARGETS}
    batch["source"] = BATCH["source"].at[0].set(jnp.arange(10, 16))
    _, gradients = differentiate(name)(variables["params"], batch, jnp.zeros((3, 4)).at[0, 2].set(1))
    for side, expected in (("source", [10, 11, 12, 13, 14, 15]), ("target", [20, 21, 22])):
        table = np.asarray(gradients[f"{side}_embedding"]["table"])
        assert np.flatnonzero(np.any(table != 0, axis=-1)).tolist() == expected


# --- how it is made, and trained -------------------------------------------------------------------------------------


@some_models
def test_it_learns(build, differentiate, name):
    """Plain gradient descent on one batch, which uses every parameter."""
    _, variables, _ = build(name)
    last, losses = variables["params"], []
    for _ in range(12):
        value, gradients = differentiate(name)(last, BATCH | {"targets": TARGETS}, ALL)
        last = jax.tree.map(lambda p, g: p - 0.5 * np.asarray(g), last, gradients)
        losses.append(float(value))
    assert losses[-1] < 0.9 * losses[0] and np.all(np.isfinite(losses))
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), variables["params"], last)
    assert all(jax.tree.leaves(changed)), changed


@pytest.mark.parametrize("cell", small.some(["gru", "lstm"], "lstm"))
def test_initial_parameters_are_those_of_the_papers(cell):
    network = make(cell=cell, attention="bahdanau", bidirectional=False)
    params = jax.jit(network.init)(jax.random.key(0), BATCH)["params"]
    layer = params["encoder"]["forward_0"]
    kernels = np.concatenate([leaf["kernel"] for leaf in layer["steps"]["cell"].values()], axis=1)
    for gate in np.split(kernels, kernels.shape[1] // D, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(D), atol=1e-5)
    bias = np.split(layer["inputs"]["bias"], {"gru": 3, "lstm": 4}[cell])
    assert [float(b.mean()) for b in bias] == {"gru": [0, 0, 0], "lstm": [0, 1, 0, 0]}[cell]
    # As far from 0 as if each gate had a kernel of its own: Glorot's bound is sqrt(6 / (in + out)).
    assert 0.9 * (6 / (2 * D)) ** 0.5 < np.abs(layer["inputs"]["kernel"]).max() <= (6 / (2 * D)) ** 0.5


@pytest.fixture(scope="session")
def with_dropout(draw):
    """Settings of computation -> a value and its gradients."""

    def with_dropout(**model):
        network = make(**BAHDANAU, model={"dropout_rate": 0.3} | model)
        keywords = {"deterministic": False, "rngs": {"dropout": jax.random.key(1)}}
        value = jax.value_and_grad(lambda params: loss(network, params, BATCH | {"targets": TARGETS}, ALL, **keywords))
        return jax.jit(value)(draw(network, BATCH)["params"])

    return with_dropout


def test_unrolling_and_remat_change_nothing(with_dropout):
    (value, gradients), (other, others) = with_dropout(), with_dropout(unroll=3, remat="full")
    np.testing.assert_allclose(value, other, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, others)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients)) > 0.01


def test_unrolling_and_remat_appear_in_the_program():
    def program(**model):
        network = make(**BAHDANAU, model=model)
        variables = jax.eval_shape(network.init, jax.random.key(0), BATCH)
        return str(jax.make_jaxpr(jax.grad(lambda v: jnp.sum(network.apply(v, BATCH))))(variables))

    plain, remat, unrolled = program(), program(remat="full"), program(unroll=3)
    assert plain.count("dot_general[") < remat.count("dot_general[")
    assert "unroll=3" in unrolled and "unroll=3" not in plain


def test_dropout_is_between_layers_and_differs_between_tokens(monkeypatch):
    """Before each layer and after the last one of the decoder, never between consecutive states."""
    shapes = collections.Counter()

    def record(x, rate, key, generator):
        assert (rate, generator) == (0.3, "threefry")
        shapes[x.shape] += 1
        return x

    monkeypatch.setattr(dropout, "dropout", record)
    network = make(**MODELS["luong, dot"], model={"dropout_rate": 0.3, "dropout_generator": "threefry"})
    variables = jax.eval_shape(network.init, jax.random.key(0), BATCH)
    assert not shapes
    noisy = functools.partial(network.apply, deterministic=False, rngs={"dropout": jax.random.key(0)})
    jax.eval_shape(lambda v: noisy(v, BATCH), variables)
    inside = shapes.pop((3, D))  # a scan's body may be traced more than once
    assert inside > 0 and shapes == {(3, 6, D): 2, (3, 4, D): 2}
    monkeypatch.undo()

    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            return carry, dropout.Dropout(0.5, "hash", False)(x)

    steps = over_time(Model(), Step, (1,), 4)()
    _, out = jax.jit(lambda x: steps.apply({}, (), x, rngs={"dropout": jax.random.key(0)}))(jnp.ones((2, 4, 32)))
    assert len({np.asarray(out[:, time]).tobytes() for time in range(4)}) == 4 and 0.3 < np.mean(out == 0) < 0.7


@pytest.mark.parametrize(
    ("tying", "tables"),
    [
        ("three_way", {"target_embedding"}),
        ("two_way", {"target_embedding", "source_embedding"}),
        ("none", {"target_embedding", "source_embedding", "logits"}),
    ],
)
def test_tying_shares_tables_and_logits_read_the_declared_modules(tying, tables):
    network = make(**CHO, model={"tying": tying, "logits_bias": True})
    params = jax.eval_shape(network.init, jax.random.key(0), BATCH)["params"]
    assert {name for name in params if name.endswith("embedding") or name == "logits"} == tables | {"logits"}
    read = {name: params[name] for name in network.logits_modules if name in params}
    states = jnp.zeros((3, 4, D))
    logits = jax.eval_shape(lambda p: network.apply({"params": p}, states, method="logits"), read)
    assert logits.shape == (3, 4, 56) and logits.dtype == jnp.float32


def test_bfloat16_computes_with_float32_parameters_to_float32_logits(draw):
    narrow, wide = (make(**BAHDANAU, model={"dtype": dtype}) for dtype in ("bfloat16", "float32"))
    variables = draw(narrow, BATCH)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    states = jax.eval_shape(lambda v: narrow.apply(v, BATCH, method="states"), variables)
    logits, expected = (jax.jit(network.apply)(variables, BATCH)[..., :50] for network in (narrow, wide))
    assert states.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    error = np.asarray(logits - expected) / np.std(expected)
    assert 1e-4 < np.sqrt(np.mean(error**2)) < 0.05


def test_a_bidirectional_encoder_refuses_an_odd_width():
    with pytest.raises(UserError, match="d_model is 7.*bidirectional=false"):
        make(**BAHDANAU, model={"d_model": 7}).init(jax.random.key(0), BATCH)
    jax.eval_shape(make(**CHO, model={"d_model": 7}).init, jax.random.key(0), BATCH)
