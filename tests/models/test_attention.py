"""attend() against loops in fp64, its backends against each other, and the attention module against its formula."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer.components import attention
from transformer.components.attention import Backend
from transformer.components.masks import All, Causal, Pairs, Prefix, Sizes, Tokens, Window
from transformer.components.positions import Bound, NoPositions, Positions
from transformer.models.attention import AttentionLayer, MemoryProjection
from transformer.models.dropout import dropout
from transformer.probes.sites import scaled_heads

B, T, S, H, K, V = 2, 5, 7, 3, 4, 6
SLOPES = np.array([0.3, -0.2, 0.1], np.float32)
DIRECTION = np.linspace(-0.3, 0.4, V, dtype=np.float32)


def inputs(seed=0, rows=B, queries=T, keys=S, key_width=K, value_width=V, dtype=jnp.float32):
    generator = np.random.default_rng(seed)
    shapes = [(rows, queries, H, key_width), (rows, keys, H, key_width), (rows, keys, H, value_width)]
    return [jnp.asarray(generator.normal(scale=1.5, size=shape), dtype) for shape in shapes]


def side(positions, segments=None, prefix=None):
    return Tokens(*(None if leaf is None else jnp.asarray(leaf) for leaf in (positions, segments, prefix)))


ALL, NONE = All(), NoPositions()


def pairs(query, key, mask=ALL):
    return Pairs(query, key, mask=mask)


# One side of each is shared by the batch (rank 1) or not (rank 2); the last two have queries that see nothing at all.
PACKED = side([[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]], [[1, 1, 1, 2, 2], [1, 1, 2, 2, 2]])
PACKED_KEYS = side([[0, 1, 2, 0, 1, 2, 0], [0, 1, 0, 1, 2, 0, 0]], [[1, 1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 2, 0, 0]])
SHARED, SHARED_KEYS = side(np.arange(2, 7)), side(np.arange(7))
MASKS = {
    "all": pairs(SHARED, SHARED_KEYS),
    "padding": pairs(SHARED, side(np.arange(7), PACKED_KEYS.segments)),
    "causal, shared": pairs(SHARED, SHARED_KEYS, Causal()),
    "causal, packed": pairs(PACKED, PACKED_KEYS, Causal()),
    "prefix, shared": pairs(SHARED, side(np.arange(7), None, [[False] * 4 + [True] * 2 + [False]] * B), Prefix()),
    "prefix, packed": pairs(
        PACKED, side(PACKED_KEYS.positions, PACKED_KEYS.segments, [[True, False] * 3 + [True]] * B), Prefix()
    ),
    "segments": pairs(PACKED, PACKED_KEYS),
    "nothing, shared": pairs(side(np.arange(-3, 2)), SHARED_KEYS, Causal()),
    "nothing, packed": pairs(side(PACKED.positions, [[1, 1, 3, 3, 2], [0, 0, 1, 1, 2]]), PACKED_KEYS, Causal()),
}


def loop(query, key, value, mask, scale, bias=None, extra=None):
    """Equation 1 in fp64, one query and one head at a time; also returns the weights. `bias` and `extra` take one query and one
    key."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    rows, queries, heads, _ = query.shape
    seen = mask.seen()
    seen = np.broadcast_to(True if seen is None else seen, (rows, 1, queries, key.shape[1]))[:, 0]
    at = [np.broadcast_to(x.positions, (rows, n)) for x, n in ((mask.query, queries), (mask.key, key.shape[1]))]
    scale = np.broadcast_to(np.asarray(scale, np.float64), (heads,))
    result, weights = np.zeros((*query.shape[:3], value.shape[-1])), np.zeros((rows, heads, queries, key.shape[1]))
    for b, t, h in np.ndindex(rows, queries, heads):
        visible = [s for s in range(key.shape[1]) if seen[b, t, s]]
        q = query[b, t, h] * scale[h]
        logits = [q @ key[b, s, h] + (bias(h, q, at[1][b, s] - at[0][b, t]) if bias else 0) for s in visible]
        for s, logit in zip(visible, logits, strict=True):
            weights[b, h, t, s] = math.exp(logit - max(logits)) / sum(math.exp(other - max(logits)) for other in logits)
            added = extra(at[1][b, s] - at[0][b, t]) if extra else 0
            result[b, t, h] += weights[b, h, t, s] * (value[b, s, h] + added)
    return result, weights


def distances(pairs):
    return pairs.distance().astype(jnp.float32)


class Some(Positions):
    """Position-dependent bias by head, distance and query, and values by distance."""

    def bias(self, p, q, k, scores_BxHxTxS, pairs):
        slopes = SLOPES[None, :, None, None] + 0.2 * jnp.moveaxis(q["query"][..., :1], 1, 2)
        return slopes * distances(pairs)[:, None]

    def values(self, p, weights_BxHxTxS, pairs):
        moved = jnp.sum(weights_BxHxTxS * distances(pairs)[:, None], axis=-1)
        return jnp.moveaxis(moved, 1, 2)[..., None] * DIRECTION[None, None, None, : pairs.sizes.d_v]


class SomeBias(Positions):
    bias = Some.bias


SOME, SOME_BIAS = Bound(Some()), Bound(SomeBias())
LOOP_EXTRAS = {
    "bias": lambda h, q, distance: (SLOPES[h] + 0.2 * q[0]) * distance,
    "extra": lambda distance: distance * DIRECTION,
}


def attend(query, key, value, mask, *, scale, positions=None, backend="plain", chunk=512, drop=None):
    return attention.attend(
        query,
        key,
        value,
        mask,
        scale=scale,
        positions=positions or Bound(NONE),
        backend=Backend(backend, chunk, drop, query.dtype),
    )


@functools.partial(jax.jit, static_argnames=("positions", "backend", "chunk"))
def compiled(query, key, value, mask, scale, positions=NONE, **keywords):
    return attend(query, key, value, mask, scale=scale, positions=Bound(positions), **keywords)


@pytest.mark.parametrize("extras", [False, True], ids=["plain", "bias and values"])
@pytest.mark.parametrize("name", MASKS)
def test_attend_matches_a_loop(name, extras):
    arguments = (*inputs(), MASKS[name], 0.7)
    result = compiled(*arguments, positions=Some() if extras else NoPositions())
    expected, weights = loop(*arguments, **(LOOP_EXTRAS if extras else {}))
    assert (weights.sum(-1) == 0).any() == name.startswith("nothing")
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1 / math.sqrt(K), 1.0, 1 / K, np.array([0.5, 2.0, -0.1])], ids=str)
def test_attend_scales_logits(scale):
    arguments = (*inputs(), MASKS["causal, shared"], scale)
    np.testing.assert_allclose(compiled(*arguments), loop(*arguments)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["causal, packed", "nothing, packed"])
def test_gradients_match_finite_differences_of_the_loop(name):
    (query, key, value), scale = inputs(), np.array([0.5, 1.0, 0.3], np.float32)
    generator = np.random.default_rng(7)
    direction = [generator.normal(size=np.shape(x)) for x in (query, key, value, scale)]
    cotangent = generator.normal(size=(B, T, H, V))

    def total(*arguments):
        return jnp.sum(attend(*arguments[:3], MASKS[name], scale=arguments[3], positions=SOME_BIAS) * jnp.asarray(cotangent))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(query, key, value, jnp.asarray(scale))
    step = 1e-6

    def moved(sign):
        q, k, v, s = (
            np.asarray(x, np.float64) + sign * step * d for x, d in zip((query, key, value, scale), direction, strict=True)
        )
        return np.sum(loop(q, k, v, MASKS[name], s, bias=LOOP_EXTRAS["bias"])[0] * cotangent)

    along = sum(np.sum(np.asarray(g, np.float64) * d) for g, d in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(along, (moved(1) - moved(-1)) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["plain", "chunked"])
@pytest.mark.parametrize("name", ["nothing, shared", "nothing, packed"])
def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient(name, backend, dtype):
    mask = MASKS[name]
    blind = ~np.broadcast_to(np.asarray(mask.seen()).any(-1)[:, 0], (B, T))
    assert blind.any() and not blind.all()

    def total(query, key, value):
        result = attend(query, key, value, mask, scale=0.5, positions=SOME_BIAS, backend=backend, chunk=2)
        return 1e6 * jnp.sum(result.astype(jnp.float32) * jnp.arange(K)[None, None, None]), result

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    gradients, result = gradient(*inputs(value_width=K, dtype=dtype))
    assert np.all(np.asarray(result)[blind] == 0)
    assert np.all(np.asarray(gradients[0])[blind] == 0)
    assert np.any(np.asarray(gradients[0])[~blind] != 0)
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in gradients)


def test_a_query_that_sees_nothing_has_no_nan_in_intermediate_values():
    with jax.debug_nans(True):
        jax.grad(lambda query: 1e6 * jnp.sum(attend(query, *inputs()[1:], MASKS["nothing, packed"], scale=0.5)))(inputs()[0])


@pytest.mark.parametrize("backend", ["plain", "chunked"])
def test_logits_are_fp32_for_all_input_types(backend):
    # 100, 100.125, 100.25, ..: in bfloat16, whose steps there are 0.5, most would be equal.
    key = np.zeros((1, 4, H, K))
    key[..., 0], key[..., 1] = 100, np.arange(4)[None, :, None] / 8
    units = np.broadcast_to(np.eye(4)[None, :, None], (1, 4, H, 4))
    arguments = [jnp.asarray(x, jnp.bfloat16) for x in (np.ones((1, 4, H, K)), key, units)]
    mask = pairs(side(np.arange(4)), side(np.arange(4)), Causal())
    result = compiled(*arguments, mask, 1.0, backend=backend, chunk=3)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float32), loop(*arguments, mask, 1.0)[0], atol=0.003)


# --- backends --------------------------------------------------------------------------------------------------------


def random_mask(rows, queries, keys, rank):
    """Causal, and within segments if rank is 2; some queries see nothing."""
    generator = np.random.default_rng(3)
    if rank == 1:
        return pairs(side(np.arange(-2, queries - 2)), side(np.arange(keys)), Causal())
    sides = [
        side(generator.integers(0, 9, (rows, length)), np.sort(generator.integers(low, 3, (rows, length))))
        for length, low in ((queries, 1), (keys, 0))
    ]
    return pairs(*sides, Causal())


def with_gradients(kind, mask, arguments, **settings):
    """The result and its gradients, including those of the position tables."""
    (*_, heads, key_width), value_width = arguments[0].shape, arguments[2].shape[-1]
    options = {"shaw": {"positions__clip": 3}, "t5": {"positions__max_distance": 20}}.get(kind, {})
    positions = small.model(positions=kind, **options).positions
    sizes = Sizes(12, heads, arguments[1].shape[2], key_width, value_width, 4)
    generator = np.random.default_rng(5)
    declared = positions.parameters(sizes, 0.02)
    tables = {n: jnp.asarray(generator.normal(size=each.shape), jnp.float32) for n, each in declared.items()}
    cotangent = jnp.asarray(generator.normal(size=(*arguments[0].shape[:-1], value_width)), jnp.float32)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2, 3), has_aux=True)
    def run(query, key, value, tables):
        whole = mask.replace(sizes=sizes)
        result = attend(query, key, value, whole, scale=0.4, positions=Bound(positions, tables), **settings)
        return jnp.sum(result * cotangent), result

    return run(*arguments, tables)


def assert_close(left, right, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), left, right)


@pytest.mark.parametrize(
    ("kind", "rank", "queries"),
    [
        ("none", 1, 8),
        ("none", 2, 9),
        ("none", 1, 5),
        ("none", 2, 3),
        ("alibi", 2, 9),
        ("t5", 2, 10),
        ("shaw", 2, 9),
        ("shaw", 1, 6),
    ],
)
def test_chunked_is_plain(kind, rank, queries):
    mask, arguments = random_mask(B, queries, 11, rank), inputs(queries=queries, keys=11)
    assert (~np.asarray(mask.seen()).any(-1)).any()
    plain = with_gradients(kind, mask, arguments)
    assert_close(with_gradients(kind, mask, arguments, backend="chunked", chunk=4), plain)


def test_chunked_without_a_mask_is_plain():
    arguments = inputs(queries=9)
    mask = pairs(side(np.arange(9)), SHARED_KEYS)
    assert_close(with_gradients("none", mask, arguments, backend="chunked", chunk=4), with_gradients("none", mask, arguments))


def test_chunked_never_holds_all_weights():
    query, key, value = inputs(queries=64, keys=64)
    mask = pairs(side(np.arange(64)), side(np.arange(64)), Causal())

    def largest(backend):
        def total(query):
            return jnp.sum(attend(query, key, value, mask, scale=1.0, backend=backend, chunk=8))

        shapes = re.findall(r"\w+\[([\d,]+)\]", str(jax.make_jaxpr(jax.grad(total))(query)))
        return max(math.prod(map(int, shape.split(","))) for shape in shapes)

    assert largest("plain") == B * H * 64 * 64
    assert largest("chunked") == max(B * H * 8 * 64, query.size, value.size)


# --- dropout ---------------------------------------------------------------------------------------------------------


def dropping(key, rate, generator="hash"):
    if key is None:
        return None
    return lambda weights, first: dropout(weights, rate, jax.random.fold_in(key, first), generator)


def dropped_weights(key, rate=0.3, backend="plain", generator="hash", rows=2, length=24):
    """Attention weights after dropout times their number, BxTxHxS: all weights are equal, and values are unit vectors."""
    query = jnp.zeros((rows, length, H, K))
    units = jnp.broadcast_to(jnp.eye(length)[None, :, None], (rows, length, H, length))
    mask = pairs(side(np.arange(length)), side(np.arange(length)))
    settings = {"drop": dropping(key, rate, generator), "backend": backend, "chunk": 9}
    return length * np.asarray(jax.jit(lambda q: attend(q, query, units, mask, scale=1.0, **settings))(query))


@pytest.mark.parametrize("generator", ["hash", "threefry"])
@pytest.mark.parametrize("backend", ["plain", "chunked"])
def test_dropout_drops_the_given_fraction_of_weights(backend, generator):
    weights = dropped_weights(jax.random.key(0), backend=backend, generator=generator)
    kept = weights != 0
    np.testing.assert_allclose(weights[kept], 1 / 0.7, rtol=1e-5)
    error = math.sqrt(0.3 * 0.7 / kept.size)
    assert abs(kept.mean() - 0.7) < 4 * error
    # Rows, queries, heads and keys draw apart: no two slices along an axis are the same, or nearly.
    for axis in range(4):
        slices = np.moveaxis(kept, axis, 0).reshape(kept.shape[axis], -1).astype(int)
        shares = [np.mean(a == b) for i, a in enumerate(slices) for b in slices[:i]]
        assert max(shares) < 0.58 + 5 * math.sqrt(0.25 / slices.shape[1])


@pytest.mark.parametrize("backend", ["plain", "chunked"])
def test_dropout_is_a_function_of_its_key(backend):
    weights = [dropped_weights(jax.random.key(seed), backend=backend) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.mean((weights[0] != 0) == (weights[2] != 0)) < 0.7
    assert np.all(dropped_weights(None, backend=backend) == pytest.approx(1))


@pytest.mark.parametrize("backend", ["plain", "chunked"])
def test_the_backward_pass_drops_what_the_forward_pass_dropped(backend):
    arguments = inputs(queries=9)
    mask = pairs(side(np.arange(9)), SHARED_KEYS)

    def total(value):
        keywords = {"drop": dropping(jax.random.key(2), 0.5), "backend": backend, "chunk": 4}
        return jnp.sum(attend(*arguments[:2], value, mask, scale=1.0, **keywords) ** 2) / 2

    # Attention is linear in its values, so that half its square has the gradient's product with the values as its double.
    amount, gradient = jax.jit(jax.value_and_grad(total))(arguments[2])
    np.testing.assert_allclose(2 * amount, jnp.sum(gradient * arguments[2]), rtol=1e-5)


# --- the module ------------------------------------------------------------------------------------------------------

WIDTH = 8


def projected(x, parameters):
    return np.einsum("...d,dhk->...hk", x, parameters["kernel"], dtype=np.float64) + parameters.get("bias", 0)


def head_norm(x, parameters, epsilon=1e-6):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon) * parameters["scale"]


def build(draw, cross=False, **settings):
    config = small.model(d_model=WIDTH, num_heads=H, d_k=K, d_v=V, positions="none", **settings)
    module = AttentionLayer(config, "decoder", "cross" if cross else "self", jax.nn.initializers.zeros)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, WIDTH)), jnp.float32)
    memory = stored(*inputs(keys=S)[1:]) if cross else None
    mask = pairs(PACKED, PACKED_KEYS) if cross else pairs(PACKED, PACKED, Causal())
    return module, draw(module, x, mask, memory=memory), x, mask, memory


def stored(key, value):
    return {"key": jnp.moveaxis(key, 1, 3), "value": jnp.swapaxes(value, 1, 2)}


def module_loop(parameters, config, x, mask, memory=None, gates=None):
    """The formula of the module: projections, the attention of each head, and the sum over heads of their parts of W^O."""
    parameters = jax.tree.map(np.asarray, parameters)
    query = projected(np.asarray(x), parameters["query"])
    own = (projected(np.asarray(x), parameters[name]) for name in ("key", "value"))
    key, value = (np.moveaxis(memory["key"], 3, 1), np.swapaxes(memory["value"], 1, 2)) if memory else own
    if config.attention.qk_norm:
        query = head_norm(query, parameters["query_norm"])
        key = key if memory else head_norm(key, parameters["key_norm"])
    scale = {"1/sqrt(d_k)": 0.5, "none": 1, "1/d_k": 0.25, "learned": parameters.get("scale")}[config.attention.scale]
    heads, weights = loop(query, key, value, mask, scale)
    gates = np.ones(H) if gates is None else gates
    output = sum(gates[h] * heads[:, :, h] @ parameters["output"]["kernel"][h] for h in range(H))
    return output + parameters["output"].get("bias", 0), weights


@pytest.mark.parametrize(
    ("cross", "settings"),
    [
        (False, {}),
        (True, {}),
        (False, {"attention__scale": "none", "attention__qk_norm": True}),
        (True, {"attention__scale": "1/d_k", "attention__qk_norm": True, "attention__bias": False}),
        (False, {"attention__scale": "learned", "attention__bias": False}),
    ],
)
def test_module_is_its_formula(draw, cross, settings):
    module, variables, x, mask, memory = build(draw, cross, **settings)
    gates = np.array([1.0, 0.0, 0.5], np.float32)

    def run(gates):
        with scaled_heads({f"decoder/{module.role}": gates[None]}):
            return module.apply(variables, x, mask, memory=memory)[0]

    output = jax.jit(run)(gates)
    (_, cache, _), state = module.apply(variables, x, mask, memory=memory, mutable=["intermediates"])
    expected, weights = module_loop(variables["params"], module.config, x, mask, memory, gates)
    assert cache is None
    np.testing.assert_allclose(output, expected, atol=2e-5)
    np.testing.assert_allclose(state["intermediates"]["weights"][0], weights, atol=1e-5)
    if settings.get("attention__bias") is False:
        assert not [path for path, _ in jax.tree.leaves_with_path(variables) if path[-1].key == "bias"]


def test_a_learned_scale_starts_at_the_papers(draw):
    module, variables, x, mask, _ = build(draw, attention__scale="learned")
    scale = jax.eval_shape(module.init, jax.random.key(0), x, mask)["params"]["scale"]
    assert scale.shape == (H,)
    np.testing.assert_allclose(jax.jit(module.init)(jax.random.key(0), x, mask)["params"]["scale"], 0.5)


@pytest.mark.parametrize("backend", ["plain", "chunked"])
def test_beams_share_the_keys_of_their_sentence(draw, backend):
    module, variables, x, _, memory = build(draw, cross=True, attention_backend=backend, attention_chunk=4)
    beams = 3
    x_beams = jnp.asarray(np.random.default_rng(1).normal(size=(B * beams, 2, WIDTH)), jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(2), (B * beams, 2))
    together = jax.jit(lambda x, mask: module.apply(variables, x, mask, memory=memory)[0])(
        x_beams, pairs(Tokens(positions), PACKED_KEYS)
    )
    for row in range(B * beams):
        sentence = slice(row // beams, row // beams + 1)
        own = jax.tree.map(lambda leaf, s=sentence: leaf[s], PACKED_KEYS)
        mask, of_sentence = pairs(Tokens(positions[row : row + 1]), own), {n: m[sentence] for n, m in memory.items()}
        alone, _ = module_loop(variables["params"], module.config, x_beams[row : row + 1], mask, of_sentence)
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_memory_is_each_layers_projection_of_the_states(draw, norm):
    sizes = {"d_model": WIDTH, "num_heads": 2 * H, "num_kv_heads": H, "d_k": K, "d_v": V, "num_decoder_layers": 3}
    module = MemoryProjection(small.model(**sizes, attention__qk_norm=norm), jax.nn.initializers.zeros)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(B, S, WIDTH)), jnp.float32)
    variables = draw(module, states, SHARED_KEYS)
    (streams,) = jax.jit(module.apply)(variables, states, SHARED_KEYS)
    assert streams["key"].shape == (3, B, H, K, S) and streams["value"].shape == (3, B, H, S, V)
    parameters = jax.tree.map(np.asarray, variables["params"])
    for layer in range(3):
        mine = jax.tree.map(lambda leaf, i=layer: leaf[i], parameters)
        key, value = (projected(states, mine[name]) for name in ("key", "value"))
        key = head_norm(key, mine["key_norm"]) if norm else key
        np.testing.assert_allclose(streams["key"][layer], np.moveaxis(key, 1, 3), atol=1e-5)
        np.testing.assert_allclose(streams["value"][layer], np.swapaxes(value, 1, 2), atol=1e-5)


# --- grouped heads, windows, arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["plain", "chunked"])
@pytest.mark.parametrize("shared", [1, 2])
def test_grouped_heads_are_heads_with_repeated_keys_and_values(shared, backend):
    query, key, value = inputs(queries=9, value_width=K)
    query = jnp.concatenate([query, 0.5 * query], axis=2)[:, :, :4]
    key, value, mask = key[:, :, :shared], value[:, :, :shared], pairs(side(np.arange(9)), SHARED_KEYS, Causal())
    result = attend(query, key, value, mask, scale=0.7, backend=backend, chunk=4)
    repeated = (jnp.repeat(each, 4 // shared, axis=2) for each in (key, value))
    np.testing.assert_allclose(result, attend(query, *repeated, mask, scale=0.7), atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "alibi", "shaw"])
@pytest.mark.parametrize("mask", [Causal() & Window(4), Prefix() & Window(5), All() & Window(3)], ids=str)
def test_a_window_in_blocks_is_the_window_over_all_pairs(mask, kind):
    length, generator = 27, np.random.default_rng(0)
    segments = np.sort(generator.integers(1, 4, (B, length)))
    segments[:, -2:] = 0
    starts = np.array([[np.argmax(row == s) for s in row] for row in segments])
    tokens = side(np.arange(length) - starts, segments, generator.random((B, length)) < 0.3 if "Prefix" in str(mask) else None)
    arguments = inputs(queries=length, keys=length)
    whole = Pairs(tokens, tokens, mask=mask)
    in_blocks = with_gradients(kind, whole.replace(aligned=True), arguments)
    assert_close(in_blocks, with_gradients(kind, whole, arguments))


def test_a_short_window_costs_less_than_all_pairs():
    arguments, tokens = inputs(queries=64, keys=64), side(np.arange(64))
    mask = Pairs(tokens, tokens, mask=Causal() & Window(4), aligned=True)

    def largest(mask):
        shapes = re.findall(
            r"\w+\[([\d,]+)\]", str(jax.make_jaxpr(lambda q: attend(q, *arguments[1:], mask, scale=1.0))(arguments[0]))
        )
        return max(math.prod(map(int, shape.split(","))) for shape in shapes)

    assert largest(mask) < largest(mask.replace(aligned=False)) == B * H * 64 * 64


@pytest.mark.parametrize("rows", [(), (1,), (B,)])
def test_booleans_are_a_mask(rows):
    seen, arguments = np.random.default_rng(0).random((*rows, T, S)) < 0.6, inputs()
    result = attention.attend(*arguments, jnp.asarray(seen))
    shown = pairs(SHARED, SHARED_KEYS).replace(allowed=jnp.asarray(seen).reshape((-1, T, S)))
    np.testing.assert_allclose(result, loop(*arguments, shown, 0.5)[0], atol=1e-5)
    np.testing.assert_allclose(attention.attend(*arguments), loop(*arguments, MASKS["all"], 0.5)[0], atol=1e-5)


def test_arguments_that_do_not_fit_are_named():
    query, key, value = inputs()
    with pytest.raises(ValueError, match=re.escape(str(key[:, :3].shape))):
        attention.attend(query, key[:, :3], value)
    with pytest.raises(ValueError, match="booleans"):
        attention.attend(query, key, value, jnp.ones((T, S)))
