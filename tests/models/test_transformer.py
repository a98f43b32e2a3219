"""The encoder-decoder as a whole: caches, masks, padding and packing, held against the plain pass of a pair alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer.components.masks import All, Tokens
from transformer.components.positions import Positions
from transformer.config import DataInfo, Model
from transformer.models.stack import Memory, Stack
from transformer.models.transformer import DecoderOnly, EncoderDecoder
from transformer.probes.sites import scaled_heads
from transformer.settings import Variations, override

DATA_INFO = DataInfo(source_size=50, target_size=50, source_rows=56, target_rows=56)
OTHER = {
    "attention__qk_norm": True,
    "norm_order": "pre",
    "d_k": 6,
    "d_v": 5,
    "tying": "none",
    "feed_forward__activation": "swiglu",
    "norm": "rms",
    "attention__scale": "learned",
}
KINDS = tuple(Positions.registry)
# Fewer key-value heads; windows, whose rings decoding goes past; layers that differ, more of them than a turn of the pattern.
LAYERS = {
    "grouped": ("rotary", {"num_kv_heads": 2}),
    "multi-query": ("shaw", {"num_kv_heads": 1}),
    "window": ("rotary", {"window": 2}),
    "window, shaw": ("shaw", {"window": 3, "num_kv_heads": 2}),
    "pattern": (
        "rotary",
        {
            "num_decoder_layers": 5,
            "layer_pattern": ("local", "global"),
            "layer_types": Variations(
                {"local": {"window": 2, "num_kv_heads": 2}, "global": {"positions": "none", "attention.scale": "1/d_k"}}
            ),
        },
    ),
}
LAYERS["stacks that differ"] = (
    "alibi",
    {"layer_types": Variations({"encoder": {"num_heads": 2, "d_ff": 24}, "decoder": {"num_heads": 8, "num_kv_heads": 2}})},
)
each_kind = pytest.mark.parametrize("positions", small.some(KINDS, "sinusoidal", "t5", "shaw"))
# tests/models/test_alone.py has caches with each kind of positions.
QUICK = ("sinusoidal", "t5", "shaw, other", "multi-query", "window, shaw", "pattern", "stacks that differ")
CACHED = {kind: (kind, {}) for kind in KINDS} | {"rotary, other": ("rotary", OTHER), "shaw, other": ("shaw", OTHER)} | LAYERS


def make(**settings):
    sizes = {"num_encoder_layers": 3, "num_decoder_layers": 2, "d_model": 16, "d_ff": 32, "num_heads": 4}
    clip = {"positions__clip": 3} if settings.get("positions") == "shaw" else {}
    return EncoderDecoder(small.model(**sizes | clip | settings), DATA_INFO)


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(4, 50, shape), jnp.int32)


BATCH = {
    "source": tokens(3, 7),
    "inputs": tokens(3, 5, seed=1),
    "source_segments": jnp.array([[1] * 7, [1] * 5 + [0] * 2, [1] * 4 + [0] * 3]),
}


@pytest.fixture(scope="session")
def build(draw):
    """Settings -> network, drawn variables, and its compiled plain pass; the same settings are the same objects."""

    @functools.cache
    def build(**settings):
        network = make(**settings)
        return network, draw(network, BATCH), jax.jit(network.apply)

    return build


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", small.some(CACHED, *QUICK))
def test_cached_steps_give_the_logits_of_the_plain_pass(build, name):
    """The other settings change what positions act on: heads' widths, norms and scales."""
    positions, settings = CACHED[name]
    network, variables, plain = build(positions=positions, **settings)

    @jax.jit
    def stepped(variables, batch):
        apply = functools.partial(network.apply, variables)
        memory = apply(batch["source"], None, batch["source_segments"], method="encode")
        cache = apply(memory, 8, 2 * len(batch["source"]), method="start")
        rows = jnp.repeat(batch["inputs"], 2, axis=0)  # two beams a sentence
        first, cache = apply(rows[:, :2], cache, memory, method="step")
        params, memory = network.unstack_layers(variables["params"], memory)

        def step(cache, token):
            logits, cache = network.apply({"params": params}, token[:, None], cache, memory, method="step")
            return cache, logits[:, 0]

        _, rest = jax.lax.scan(step, cache, rows[:, 2:].T)
        return jnp.concatenate([first, jnp.moveaxis(rest, 0, 1)], axis=1)

    expected, logits = plain(variables, BATCH), stepped(variables, BATCH)
    np.testing.assert_allclose(logits[::2], expected, atol=1e-5)
    np.testing.assert_allclose(logits[1::2], expected, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "shaw"])
def test_padding_on_the_left_of_a_prompt_is_not_seen(build, positions):
    network, variables, plain = build(positions=positions)
    batch = BATCH | {"inputs": tokens(3, 3, seed=2)}

    @jax.jit
    def stepped(variables, batch, waste):
        apply = functools.partial(network.apply, variables)
        memory = apply(batch["source"], None, batch["source_segments"], method="encode")
        cache = apply(memory, 8, len(batch["source"]), method="start")
        first = jnp.concatenate([waste, batch["inputs"][:, :2]], axis=1)
        valid = jnp.broadcast_to(jnp.arange(4) > 1, (3, 4))
        logits, cache = apply(first, cache, memory, valid, method="step")
        last, _ = apply(batch["inputs"][:, 2:], cache, memory, method="step")
        return jnp.concatenate([logits[:, 2:], last], axis=1)

    logits = stepped(variables, batch, tokens(3, 2, seed=3))
    np.testing.assert_array_equal(logits, stepped(variables, batch, tokens(3, 2, seed=4)))
    np.testing.assert_allclose(logits, plain(variables, batch), atol=1e-5)


# --- who depends on whom ---------------------------------------------------------------------------------------------


def dependence(network, variables):
    """Whether output t has any gradient from source token s, and from input s: TxS, TxT. Each token stands for one input."""
    source, inputs = jnp.arange(4, 10)[None], jnp.arange(20, 25)[None]
    projection = jnp.asarray(np.random.default_rng(0).normal(size=16), jnp.float32)

    def outputs(table):
        parameters = variables["params"] | {"target_embedding": {"table": table}}
        states = network.apply({"params": parameters}, {"source": source, "inputs": inputs}, method="states")
        return states[0] @ projection

    table = variables["params"]["target_embedding"]["table"]
    gradients_TxNxD = jax.jit(jax.jacrev(outputs))(table)
    seen = np.any(np.asarray(gradients_TxNxD) != 0, axis=-1)
    assert not seen[:, [10, 19, 25]].any()
    return seen[:, 4:10], seen[:, 20:25]


@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param(OTHER | {"positions": "shaw", "tying": "three_way"}, marks=pytest.mark.slow)],
    ids=["paper", "other"],
)
def test_no_gradient_from_a_later_input_to_an_earlier_output(build, settings):
    from_source, from_inputs = dependence(*build(**settings)[:2])
    np.testing.assert_array_equal(from_inputs, np.tri(5, dtype=bool))
    assert from_source.all()


def test_without_the_causal_mask_there_is_a_gradient(build):
    from_source, from_inputs = dependence(*build(mask=All())[:2])
    assert from_inputs.all() and from_source.all()


@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
def test_without_positions_the_order_of_the_source_has_no_effect(build, positions):
    network, variables, plain = build(positions=positions)
    order = np.array([3, 0, 6, 5, 1, 4, 2])
    permuted = BATCH | {name: BATCH[name][:, order] for name in ("source", "source_segments")}
    encode = jax.jit(lambda v, b: network.apply(v, b["source"], None, b["source_segments"], method="encode").streams[0]["key"])
    pairs = [
        (plain(variables, BATCH), plain(variables, permuted)),
        (encode(variables, BATCH)[:, 0][..., order], encode(variables, permuted)[:, 0]),  # a row without padding
    ]
    for straight, crossed in pairs:
        if positions == "none":
            np.testing.assert_allclose(crossed, straight, atol=1e-5)
        else:
            assert np.abs(crossed - straight).max() > 0.1


def test_without_positions_the_order_of_inputs_matters_only_through_the_mask(build):
    _, variables, plain = build(positions="none")
    swapped = BATCH | {"inputs": BATCH["inputs"][:, np.array([1, 0, 2, 3, 4])]}
    straight, crossed = plain(variables, BATCH), plain(variables, swapped)
    assert np.abs(straight[:, :2] - crossed[:, :2]).max() > 0.1
    # Layers above see other states of the first two, so that what follows differs too; in one layer it does not.
    _, drawn, plain = build(positions="none", num_decoder_layers=1)
    np.testing.assert_allclose(plain(drawn, BATCH)[:, 2:], plain(drawn, swapped)[:, 2:], atol=1e-5)


# --- padding and packing ---------------------------------------------------------------------------------------------

PAIRS = [(tokens(1, 6, seed=5), tokens(1, 4, seed=6)), (tokens(1, 3, seed=7), tokens(1, 5, seed=8))]
# Rows of a packed batch: the pairs in them, by number.
ROWS = [(0, 1), (1, 0), (1,)]
NAMES = [("source", "source_positions", "source_segments"), ("inputs", "positions", "segments")]


def packed(waste=0):
    """12 slots a row and side: tokens, positions that start anew with each pair, segments 1, 2, ..; `waste` in padding."""
    batch = {}
    for side, names in enumerate(NAMES):
        batch |= dict(zip(names, (np.full((3, 12), fill, np.int32) for fill in (waste, 0, 0)), strict=True))
        for row, pairs in enumerate(ROWS):
            at = 0
            for segment, pair in enumerate(pairs, 1):
                own = np.asarray(PAIRS[pair][side][0])
                for name, value in zip(names, (own, np.arange(len(own)), segment), strict=True):
                    batch[name][row, at : at + len(own)] = value
                at += len(own)
    return batch


def outputs(logits):
    """Logits of the pairs in a packed batch: (row, pair number, logits)."""
    for row, pairs in enumerate(ROWS):
        at = 0
        for pair in pairs:
            length = PAIRS[pair][1].shape[1]
            yield row, pair, np.asarray(logits)[row, at : at + length]
            at += length


@each_kind
def test_packing_padding_and_other_rows_change_nothing(build, positions):
    _, variables, plain = build(positions=positions)
    alone = [np.asarray(plain(variables, {"source": source, "inputs": inputs}))[0] for source, inputs in PAIRS]
    for _, pair, logits in outputs(plain(variables, packed())):
        np.testing.assert_allclose(logits, alone[pair], atol=1e-5)

    # One pair in a row, in a batch of three, padded to a bucket's length; positions shared by the batch.
    bucket = {name: np.zeros_like(leaf) for name, leaf in BATCH.items()}
    for row, pair in enumerate((1, 0, 1)):
        source, inputs = PAIRS[pair]
        bucket["source"][row, : source.shape[1]], bucket["inputs"][row, : inputs.shape[1]] = source[0], inputs[0]
        bucket["source_segments"][row, : source.shape[1]] = 1
    logits = plain(variables, bucket)
    for row, pair in enumerate((1, 0, 1)):
        np.testing.assert_allclose(logits[row, : len(alone[pair])], alone[pair], atol=1e-5)


@each_kind
def test_contents_of_padding_and_other_segments_do_not_change_a_bit(build, positions):
    _, variables, plain = build(positions=positions)
    batch = packed()
    before = list(outputs(plain(variables, batch)))
    for (_, _, left), (_, _, right) in zip(before, outputs(plain(variables, packed(waste=9))), strict=True):
        np.testing.assert_array_equal(left, right)
    # Another first pair in the first row, on both sides: the second pair stays, and the first does not.
    changed = {name: leaf.copy() for name, leaf in batch.items()}
    for tokens_name, _, segments_name in NAMES:
        changed[tokens_name][0][batch[segments_name][0] == 1] += 1
    after = list(outputs(plain(variables, changed)))
    assert np.all(np.any(after[0][2] != before[0][2], axis=-1))
    for (_, _, left), (_, _, right) in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(left, right)


def test_padding_gives_no_gradient(build):
    network, variables, _ = build()
    batch = packed(waste=9)
    real = jnp.asarray(batch["segments"] != 0)[..., None]
    table = variables["params"]["target_embedding"]["table"]

    @jax.jit
    @jax.grad
    def gradient(table):
        parameters = variables["params"] | {"target_embedding": {"table": table}}
        states = network.apply({"params": parameters}, batch, method="states")
        return jnp.sum(jnp.where(real, states**3, 0))

    used = {int(token) for pair in PAIRS for side in pair for token in side[0]}
    assert 9 not in used
    assert {int(row) for row in np.flatnonzero(np.any(np.asarray(gradient(table)) != 0, axis=-1))} == used


# --- how it is computed ----------------------------------------------------------------------------------------------


def decoder(**settings):
    """A stack with all that a layer can have; Shaw's tables are each layer's own. Its arguments: states, tokens, a memory."""
    rates = {"dropout_rate": 0.2, "attention__dropout_rate": 0.2, "feed_forward__dropout_rate": 0.2}
    sizes = {"num_decoder_layers": 2, "d_model": 16, "d_ff": 32, "num_heads": 4, "positions": "shaw", "positions__clip": 3}
    stack = Stack(small.model(**sizes, **rates, **settings), "decoder", cross=True)
    draw = np.random.default_rng(0)
    shapes = (3, 5, 16), (2, 3, 4, 4, 7), (2, 3, 4, 7, 4)
    states, keys, values = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes)
    memory = Memory(({"key": keys, "value": values},), Tokens(jnp.arange(7), BATCH["source_segments"]))
    return stack, (states, Tokens(jnp.arange(5))), {"memory": memory}


def with_dropout(stack, arguments, keywords):
    def loss(variables):
        states, _ = stack.apply(variables, *arguments, **keywords, deterministic=False, rngs={"dropout": jax.random.key(1)})
        return jnp.mean(states**3)

    return jax.value_and_grad(loss)


@pytest.fixture(scope="session")
def trained():
    """Settings of computation -> initial parameters, and a value and its gradients, with dropout."""

    @functools.cache
    def trained(**settings):
        stack, arguments, keywords = decoder(**settings)

        @jax.jit
        def run(key):
            variables = stack.init(key, *arguments, **keywords)
            return variables, *with_dropout(stack, arguments, keywords)(variables)

        return run(jax.random.key(0))

    return trained


@pytest.mark.parametrize(
    "change", small.some([{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}], {"unroll": 2}, {"remat": "dots"}), ids=str
)
def test_unrolling_and_remat_change_nothing(trained, change):
    (variables, value, gradients), (other_variables, other_value, other_gradients) = trained(), trained(**change)
    jax.tree.map(np.testing.assert_array_equal, variables, other_variables)
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, other_gradients)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients)) > 0.1


def test_unrolling_and_remat_appear_in_the_program():
    def program(**settings):
        stack, arguments, keywords = decoder(**settings)
        variables = jax.eval_shape(lambda key: stack.init(key, *arguments, **keywords), jax.random.key(0))
        return str(jax.make_jaxpr(with_dropout(stack, arguments, keywords))(variables))

    def products(program):
        return program.count("dot_general[")

    plain, dots, full = program(), program(remat="dots"), program(remat="full")
    assert products(plain) < products(dots) < products(full)
    assert "unroll=2" not in plain and "unroll=2" in program(unroll=2)


@pytest.mark.parametrize("backend", small.some(["chunked", "fused"], "chunked"))
def test_backends_give_the_logits_of_plain_attention(build, backend):
    _, variables, plain = build(positions="t5")
    _, _, other = build(positions="t5", attention_backend=backend, attention_chunk=5)
    for (_, _, left), (_, _, right) in zip(
        outputs(plain(variables, packed())), outputs(other(variables, packed())), strict=True
    ):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_dropout_is_a_function_of_its_key_and_off_when_deterministic(build):
    network, variables, plain = build(dropout_rate=0.3)
    _, _, without = build(dropout_rate=0.0)
    noisy = jax.jit(lambda key: network.apply(variables, BATCH, deterministic=False, rngs={"dropout": key}))
    first, again, other = (np.asarray(noisy(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other)[..., :50].max() > 0.1
    np.testing.assert_array_equal(plain(variables, BATCH), without(variables, BATCH))


def test_bfloat16_computes_with_float32_parameters_to_float32_logits(build):
    settings = OTHER | {"tying": "three_way", "positions": "t5"}
    (narrow, variables, compiled), (_, _, wide) = build(dtype="bfloat16", **settings), build(**settings)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    logits, expected = (function(variables, BATCH)[..., :50] for function in (compiled, wide))
    assert logits.dtype == jnp.float32
    error = np.asarray(logits - expected) / np.std(expected)
    assert 1e-4 < np.sqrt(np.mean(error**2)) < 0.03  # bfloat16 has 8 bits: 0.4 % an operation
    states, gradients = jax.eval_shape(
        lambda v: (
            narrow.apply(v, BATCH, method="states"),
            jax.grad(lambda v: jnp.sum(narrow.apply(v, BATCH)))(v),
        ),
        variables,
    )
    assert states.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


# --- what the model is made of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tying", "tables"),
    [
        ("three_way", {"target_embedding"}),
        ("two_way", {"target_embedding", "source_embedding"}),
        ("none", {"target_embedding", "source_embedding", "logits"}),
    ],
)
def test_tying_shares_tables(build, tying, tables):
    network, variables, _ = build(tying=tying)
    parameters = variables["params"]
    assert {name for name in parameters if name.endswith("embedding") or name == "logits"} == tables
    if tying == "none":
        assert set(parameters["logits"]) == {"kernel"} and parameters["logits"]["kernel"].shape == (16, 56)
    batch = {"source": jnp.arange(10, 14)[None], "inputs": jnp.arange(20, 24)[None]}

    @jax.jit
    @jax.grad
    def gradient(parameters):
        logits = network.apply({"params": parameters}, batch)
        return jnp.sum(logits[0, :, 40] ** 2)  # token 40's logits alone

    def rows(name):
        return {int(row) for row in np.flatnonzero(np.any(np.asarray(gradients[name]["table"]) != 0, axis=-1))}

    gradients = gradient(parameters)
    source, inputs, output = set(range(10, 14)), set(range(20, 24)), {40}
    if tying == "three_way":
        assert rows("target_embedding") == source | inputs | output
    else:
        assert rows("source_embedding") == source
        assert rows("target_embedding") == (inputs | output if tying == "two_way" else inputs)
    if tying == "none":
        columns = np.any(np.asarray(gradients["logits"]["kernel"]) != 0, axis=0)
        assert np.flatnonzero(columns).tolist() == [40]


@pytest.mark.parametrize(
    ("stack", "name", "layers"), [("encoder", "self", 3), ("decoder", "self", 2), ("decoder", "cross", 2)], ids=str
)
def test_a_factor_of_zero_removes_one_head_of_one_layer(build, stack, name, layers):
    network, variables, plain = build()
    with scaled_heads({f"{stack}/{name}": jnp.ones((layers, 4)).at[1, 2].set(0)}):
        gated = jax.jit(lambda v: network.apply(v, BATCH))(variables)

    def without(path, leaf):
        here = [entry.key for entry in path] == ["params", stack, "layers", f"{name}_attention", "output", "kernel"]
        return leaf.at[1, 2].set(0) if here else leaf

    removed = plain(jax.tree.map_with_path(without, variables), BATCH)
    np.testing.assert_allclose(gated, removed, atol=1e-5)
    assert np.abs(gated - plain(variables, BATCH)).max() > 1e-2


def test_entries_outside_of_the_vocabulary_have_no_probability(build):
    _, variables, plain = build()
    logits = np.asarray(plain(variables, BATCH))
    assert np.all(logits[..., 50:] < -1e20)
    assert np.all(logits[..., :50] > -1e3)


def test_layers_of_a_pattern_are_layers_with_those_settings(build):
    """In turn, each the same as in a stack whose layers are all like it; what does not fill a turn follows."""
    types = {"local": {"window": "2"}, "wide": {"d_ff": "48", "attention.scale": "none"}}
    pattern = {"layer_pattern": ("local", "wide", "local"), "layer_types": Variations(types), "norm_order": "pre"}
    network, variables, _ = build(num_encoder_layers=4, num_decoder_layers=5, **pattern)
    parts = variables["params"]["encoder"]
    inner = [parts["layers"][name]["feed_forward"]["inner"]["kernel"].shape for name in "012"]
    assert inner == [(1, 16, 32), (1, 16, 48), (1, 16, 32)]
    assert parts["rest_0"]["feed_forward"]["inner"]["kernel"].shape == (16, 32)

    query = Tokens(jnp.arange(7), BATCH["source_segments"])
    embedded = network.apply(variables, BATCH["source"], method=lambda net, source: net.source_embedding(source))
    x = small.model().positions.embed({}, embedded, jnp.arange(7))
    plain = small.model(num_encoder_layers=1, d_model=16, d_ff=32, num_heads=4, norm_order="pre", positions="none")
    for number, name in enumerate(("local", "wide", "local", "local")):
        layer = parts["rest_0"] if number == 3 else jax.tree.map(lambda leaf: leaf[0], parts["layers"][str(number)])
        alone = override(small.model(plain, final_norm=number == 3), types[name])
        own = {"layers": jax.tree.map(lambda leaf: leaf[None], layer), "final_norm": parts["final_norm"]}
        x, _ = jax.jit(Stack(alone, "encoder", cross=False).apply)({"params": own}, x, query)
    encode = functools.partial(network.apply, method=lambda net, *arguments: net.encoder(*arguments))
    encoded, _ = jax.jit(encode)(variables, embedded, query)
    real = np.asarray(BATCH["source_segments"])[..., None] > 0
    np.testing.assert_allclose(np.where(real, encoded, 0), np.where(real, x, 0), atol=1e-5)


def test_the_program_of_a_pattern_is_as_large_at_any_depth():
    def size(depth):
        network = make(
            num_encoder_layers=depth,
            num_decoder_layers=depth,
            layer_pattern=("local", "global"),
            layer_types={"local": {"window": 2}, "global": {}},
        )
        variables = jax.eval_shape(network.init, jax.random.key(0), BATCH)
        return len(jax.jit(network.apply).lower(variables, BATCH).as_text())

    assert size(26) < 1.05 * size(6)


def test_layers_behind_the_scan_are_computed_again_too():
    """XLA must not merge the second computation with the first; in a scan it cannot."""
    model = Model(num_encoder_layers=1, num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2, remat="full")
    model = dataclasses.replace(model, layer_pattern=("a", "b"), layer_types=Variations({"a": {"d_ff": 8}, "b": {"d_ff": 16}}))
    made = DecoderOnly(dataclasses.replace(model, num_decoder_layers=3), DATA_INFO)
    batch = {"inputs": jax.ShapeDtypeStruct((1, 4), jnp.int32)}
    params = jax.eval_shape(made.init, jax.random.key(0), batch)["params"]
    text = str(jax.make_jaxpr(lambda params: made.apply({"params": params}, {"inputs": jnp.ones((1, 4), jnp.int32)}))(params))
    assert text.count("prevent_cse=False") == 2 and text.count("prevent_cse=True") == 1
