"""Every variant of attention and positions: against a NumPy loop, and the properties that all must have.

One program per variant computes what the properties compare: two texts alone, packed into one row, and with a cache."""

import dataclasses
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
import small
from flax.traverse_util import flatten_dict

from experiments.variants.cope import CoPE
from experiments.variants.differential import Differential
from experiments.variants.fire import FIRE
from experiments.variants.forgetting import Forgetting
from experiments.variants.gated_output import GatedOutput
from experiments.variants.latent import Latent
from experiments.variants.linear import Linear
from experiments.variants.reformer import Reformer
from experiments.variants.sigmoid import Sigmoid
from experiments.variants.sinks import Sinks
from experiments.variants.soft_cap import SoftCap
from experiments.variants.ssmax import SSMax
from experiments.variants.talking_heads import TalkingHeads
from experiments.variants.value_residual import ValueResidual
from transformer import validation
from transformer.components.attention import Attention
from transformer.components.masks import Causal, Pairs, Tokens
from transformer.components.norms import Norm
from transformer.components.positions import Alibi, Bound, NoPositions, Shaw
from transformer.components.rotary import DynamicNTK, Llama3, Rotary
from transformer.config import DataInfo
from transformer.errors import UserError
from transformer.models.attention import AttentionLayer
from transformer.models.transformer import DecoderOnly
from transformer.settings import Variations
from transformer.training import costs

D, H, K, LAYER = 8, 4, 2, 2
DATA_INFO = DataInfo(source_size=20, target_size=20, source_rows=20, target_rows=20)
SIZES = {"num_decoder_layers": 2, "d_model": D, "d_ff": 8, "num_heads": H, "dropout_rate": 0.0, "norm_order": "pre"}


# --- the loops ---------------------------------------------------------------------------------------------------------
# Each is given the parameters by name, the input BxTxD, and what each token sees, BxTxT.


def soft_cap(p, x, seen):
    return loops.attention(p, x, seen, change=lambda logits, *_: {s: 2 * math.tanh(each / 2) for s, each in logits.items()})


def sinks(p, x, seen):
    sink = p.get("sink", np.zeros(H))
    return loops.attention(p, x, seen, lambda logits, head: loops.softmax([*logits, sink[head]])[:-1])


def sigmoid(p, x, seen):
    return loops.attention(p, x, seen, lambda logits, _: [loops.sigmoid(each - math.log(len(logits))) for each in logits])


def ssmax(p, x, seen):
    scale = p["length_scale"]
    return loops.attention(
        p, x, seen, lambda logits, head: loops.softmax([scale[head] * math.log(len(logits)) * each for each in logits])
    )


def gated_output(p, x, seen):
    q, k, v = (loops.project(p, name, x) for name in ("query", "key", "value"))
    heads = loops.mix(loops.weights(loops.of_pairs(q, k, seen, K**-0.5)), v)
    for b, t, h in np.ndindex(*heads.shape[:3]):
        heads[b, t, h] *= loops.sigmoid(x[b, t] @ p["gate/kernel"][:, h] + p["gate/bias"][h])
    return loops.output(p, heads)


def talking_heads(p, x, seen):
    q, k, v = (loops.project(p, name, x) for name in ("query", "key", "value"))
    before, after = p["logits_mix/kernel"], p["weights_mix/kernel"]
    scores = loops.of_pairs(q, k, seen, K**-0.5)
    mixed = [
        [
            [{s: sum(row[h][t][s] * before[h, g] for h in range(H)) for s in row[g][t]} for t in range(len(row[g]))]
            for g in range(H)
        ]
        for row in scores
    ]
    weights = loops.weights(mixed)
    weights = np.stack([sum(weights[:, h] * after[h, g] for h in range(H)) for g in range(H)], axis=1)
    return loops.output(p, loops.mix(weights, v))


def value_residual(p, x, seen):
    """In the first layer, which has only its own values."""
    return loops.attention(p, x, seen)


def differential(p, x, seen):
    q, k, v = (loops.project(p, name, x) for name in ("query", "key", "value"))
    first, second = (
        loops.weights(loops.of_pairs(q[:, :, n * H : (n + 1) * H], k[:, :, n * H : (n + 1) * H], seen, 1.0)) for n in (0, 1)
    )
    initial = 0.8 - 0.6 * math.exp(-0.3 * LAYER)
    factor = math.exp(p["lambda_q1"] @ p["lambda_k1"]) - math.exp(p["lambda_q2"] @ p["lambda_k2"]) + initial
    heads = loops.unit(loops.mix(first - factor * second, v), p["heads_norm/scale"], 1e-5)
    return loops.output(p, (1 - initial) * heads)


def latent(p, x, seen):
    """Without positions: the rotated entries are ordinary entries."""
    q = loops.project(p, "query", x)
    c = loops.unit(x @ p["latent/kernel"], p["latent_norm/scale"])
    shared = np.repeat(loops.project(p, "rotated_key", x), H, axis=2)
    k = np.concatenate([loops.project(p, "key", c), shared], axis=-1)
    weights = loops.weights(loops.of_pairs(q, k, seen, (K + 2) ** -0.5))
    return loops.output(p, loops.mix(weights, loops.project(p, "value", c)))


def reformer(p, x, seen):
    q = loops.project(p, "query", x)
    k = q / np.sqrt(np.square(q).sum(-1, keepdims=True) + 1e-6)
    logits = loops.of_pairs(q, k, seen, K**-0.5)
    for row in logits:
        for head in row:
            for t, found in enumerate(head):
                if len(found) > 1:
                    found.pop(t, None)
    return loops.output(p, loops.mix(loops.weights(logits), loops.project(p, "value", x)))


def linear(p, x, seen):
    q, k, v = (loops.project(p, name, x) for name in ("query", "key", "value"))
    q, k = (np.where(each > 0, each + 1, np.exp(each)) for each in (q, k))
    products = loops.of_pairs(q, k, seen, 1.0)
    return loops.output(p, loops.mix(loops.weights(products, lambda row, _: [each / sum(row) for each in row]), v))


def fire(p, x, seen):
    """Positions are those of the packed rows below."""
    psi = lambda distance: math.log(abs(p["position_c"]) * distance + 1)  # noqa: E731

    def change(logits, b, h, t, q):
        place = PLACES[b, t]
        longest = max(place, 3.0 * abs(p["position_threshold_factor"]))
        result = {}
        for s, each in logits.items():
            relative = psi(place - PLACES[b, s]) / psi(longest)
            hidden = np.maximum(relative * p["position_hidden/kernel"][0] + p["position_hidden/bias"], 0)
            result[s] = each + float(hidden @ p["position_output/kernel"][:, h] + p["position_output/bias"][h])
        return result

    return loops.attention(p, x, seen, change=change)


def cope(p, x, seen):
    def change(logits, b, h, t, q):
        result = {}
        for s, each in logits.items():
            place = min(sum(loops.sigmoid(logits[r]) for r in logits if r >= s), 2.0)
            low, high = math.floor(place), math.ceil(place)
            table = p["position_table"][low] * (1 - (place - low)) + p["position_table"][high] * (place - low)
            result[s] = each + float(q @ table)
        return result

    return loops.attention(p, x, seen, change=change)


def forgetting(p, x, seen):
    kept = np.log(loops.sigmoid(x @ p["position_forget/kernel"] + p["position_forget/bias"]))

    def change(logits, b, h, t, q):
        return {s: each + sum(kept[b, r, h] for r in range(s + 1, t + 1)) for s, each in logits.items()}

    return loops.attention(p, x, seen, change=change)


# --- the variants ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A variant, its loop, and its possible combinations. `more`: parameters that multi-head attention does not have."""

    loop: Any
    attention: Attention = dataclasses.field(default_factory=Attention)
    positions: Any = dataclasses.field(default_factory=NoPositions)
    windows: bool = True
    kv_heads: bool = True
    with_positions: Any = Rotary()  # in the whole model
    more: dict[str, tuple[int, ...] | None] = dataclasses.field(default_factory=dict)


def of_positions(loop, positions, **more):
    more = {f"position_{name.replace('__', '/')}": shape for name, shape in more.items()}
    return Case(loop, positions=positions, with_positions=positions, more=more)


LAMBDAS = {f"lambda_{name}": (1,) for name in ("q1", "k1", "q2", "k2")}
DIFFERENTIAL = {"query/kernel": (D, 2 * H, 1), "query/bias": (2 * H, 1), "key/kernel": (D, 2 * H, 1), "key/bias": (2 * H, 1)}
LATENT = {"key/kernel": (3, H, K), "value/kernel": (3, H, K), "key/bias": None, "value/bias": None}
LATENT |= {"latent/kernel": (D, 3), "latent_norm/scale": (3,), "rotated_key/kernel": (D, 1, 2)}
CASES = {
    "soft_cap": Case(soft_cap, SoftCap(cap=2.0)),
    "sinks, learned": Case(sinks, Sinks(), more={"sink": (H,)}),
    "sinks, zero": Case(sinks, Sinks(sink="zero")),
    "sigmoid": Case(sigmoid, Sigmoid()),
    "ssmax": Case(ssmax, SSMax(), more={"length_scale": (H,)}),
    "gated_output": Case(gated_output, GatedOutput(), more={"gate/kernel": (D, H), "gate/bias": (H,)}),
    "talking_heads": Case(talking_heads, TalkingHeads(), more={"logits_mix/kernel": (H, H), "weights_mix/kernel": (H, H)}),
    "differential": Case(
        differential, Differential(), with_positions=Alibi(), more=DIFFERENTIAL | LAMBDAS | {"heads_norm/scale": (K,)}
    ),
    "latent": Case(
        latent,
        Latent(latent_width=3, rotated_width=2),
        kv_heads=False,
        more=LATENT | {"query/kernel": (D, H, K + 2), "query/bias": (H, K + 2)},
    ),
    "value_residual": Case(value_residual, ValueResidual(share=0.25)),
    "reformer": Case(reformer, Reformer(), kv_heads=False, more={"key/kernel": None, "key/bias": None}),
    "linear": Case(linear, Linear(), windows=False, with_positions=NoPositions()),
    "fire": of_positions(
        fire,
        FIRE(width=3, threshold=3.0),
        hidden__kernel=(1, 3),
        hidden__bias=(3,),
        output__kernel=(3, H),
        output__bias=(H,),
        c=(),
        threshold_factor=(),
    ),
    "cope": of_positions(cope, CoPE(largest=2), table=(3, K)),
    "forgetting": of_positions(forgetting, Forgetting(), forget__kernel=(D, H), forget__bias=(H,)),
}
each_case = pytest.mark.parametrize("name", CASES)

# Two segments in the first row; in the second, padding at the end, which sees nothing.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 0]])
PLACES = np.array([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 0]])


def layer(case: Case, **settings: Any) -> AttentionLayer:
    model = small.model(**SIZES, attention=case.attention, positions=case.positions, **settings)
    return AttentionLayer(model, "decoder", "self", jax.nn.initializers.lecun_normal())


@each_case
def test_a_variant_is_its_loop(draw, name):
    case = CASES[name]
    tokens = Tokens(jnp.asarray(PLACES), jnp.asarray(SEGMENTS))
    pairs = Pairs(tokens, tokens, LAYER, mask=Causal(), aligned=True)
    x = np.random.default_rng(0).normal(size=(2, 6, D))
    module = layer(case)
    variables = draw(module, jnp.asarray(x, jnp.float32), pairs)
    found, *_ = jax.jit(module.apply)(variables, jnp.asarray(x, jnp.float32), pairs)
    own = {n: np.asarray(leaf, np.float64) for n, leaf in _flat(variables).items()}
    seen = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (SEGMENTS[:, None] > 0) & np.tri(6, dtype=bool)[None]
    np.testing.assert_allclose(found, case.loop(own, x, seen), atol=2e-5)
    plain = {n: leaf.shape for n, leaf in _flat(draw(layer(Case(None)), jnp.asarray(x, jnp.float32), pairs)).items()}
    wanted = {n: shape for n, shape in (plain | case.more).items() if shape is not None}
    assert {n: leaf.shape for n, leaf in _flat(variables).items()} == wanted


def _flat(variables):
    return flatten_dict(variables["params"], sep="/")


# --- properties of a whole model ---------------------------------------------------------------------------------------


def network(case: Case, **settings: Any) -> DecoderOnly:
    """Two layers, the first with a window if the variant has windows; two key-value heads, if it has fewer than heads."""
    local = {"layer_pattern": ("local", "global"), "layer_types": Variations({"local": {"window": 3}, "global": {"d_ff": 8}})}
    chosen = (local if case.windows else {}) | ({"num_kv_heads": 2} if case.kv_heads else {})
    return DecoderOnly(
        small.model(**SIZES | chosen, attention=case.attention, positions=case.with_positions, **settings), DATA_INFO
    )


TEXTS = np.random.default_rng(0).integers(3, 20, (2, 10))
THERE = np.arange(10)[None] < np.array([[10], [8]])  # the second text is shorter


def batch():
    """Three rows: each text alone, with padding, and both packed."""
    inputs, segments, positions = np.full((3, 20), 3), np.zeros((3, 20), int), np.zeros((3, 20), int)
    for row, start, text, segment in ((0, 0, 0, 1), (1, 0, 1, 1), (2, 0, 0, 1), (2, 10, 1, 2)):
        length = THERE[text].sum()
        where = slice(start, start + length)
        inputs[row, where], segments[row, where], positions[row, where] = TEXTS[text, :length], segment, np.arange(length)
    return {n: jnp.asarray(each) for n, each in (("inputs", inputs), ("segments", segments), ("positions", positions))}


def decoded(net, variables):
    """Twice four tokens, then one at a time. Two of the first eight tokens of the second row are padding."""
    valid = np.ones((2, 10), bool)
    valid[1, [0, 6]] = False
    tokens = np.zeros((2, 10), int)
    tokens[0], tokens[1, valid[1]] = TEXTS[0], TEXTS[1, :8]

    def step(cache, fed):
        logits, cache = net.apply(variables, fed[0], cache, None, fed[1], method="step")
        return cache, logits

    cache, found = net.apply(variables, None, 10, 2, method="start"), []
    for first, last, size in ((0, 8, 4), (8, 10, 1)):
        parts = (each[:, first:last].reshape(2, -1, size).swapaxes(0, 1) for each in (tokens, valid))
        cache, logits = jax.lax.scan(step, cache, tuple(map(jnp.asarray, parts)))
        found.append(jnp.moveaxis(logits, 0, 1).reshape(2, last - first, -1))
    whole = jnp.concatenate(found, axis=1)
    return jnp.stack([whole[0], jnp.pad(whole[1, np.flatnonzero(valid[1])], ((0, 2), (0, 0)))])


# What changes one function of logits, or none, is shown by the loops as well.
POINTWISE = ("soft_cap", "sinks, learned", "sinks, zero", "sigmoid", "gated_output", "talking_heads", "fire")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in POINTWISE else []) for n in CASES])
def test_texts_alone_packed_in_chunks_and_cached_have_the_same_logits(draw, name):
    net, chunked = network(CASES[name]), network(CASES[name], attention_backend="chunked", attention_chunk=3)
    variables = draw(net, batch())
    whole, cached = jax.jit(lambda v: (chunked.apply(v, batch()), decoded(net, v)))(variables)
    wanted = np.asarray(whole[:2, :10])[THERE]
    packed = np.concatenate([whole[2, :10], whole[2, 10:18]])
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(packed, wanted, atol=3e-5, err_msg="packed")
    np.testing.assert_allclose(np.asarray(cached)[THERE], wanted, atol=3e-5, err_msg="cached")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoNorm(Norm):
    """Flax's norms are not strict about types."""

    def __call__(self, p, x):
        return x


@each_case
def test_half_precision_mixes_no_types(draw, name):
    """Nothing is compiled: training and decoding are traced with strict type promotion."""
    net = network(CASES[name], dtype="bfloat16", norm=NoNorm())
    variables = draw(net, batch())
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(lambda v: (net.apply(v, batch()), decoded(net, v)), variables)


@pytest.mark.parametrize("name", ["latent", "forgetting"])
def test_costs_are_counted_as_of_any_attention(draw, name):
    config = small.config(family="decoder_only", objective__kind="causal_lm")
    net = network(CASES[name])
    counted = costs.count(dataclasses.replace(config, model=net.config), DATA_INFO, (8,))
    assert counted.size == sum(leaf.size for leaf in jax.tree.leaves(draw(net, batch())))
    assert counted.generating["cache of 8 tokens"] > 0


# --- what only some have -----------------------------------------------------------------------------------------------


def test_values_of_the_first_layer_reach_all_layers(draw):
    """Against a loop over three layers of attention."""
    module = layer(CASES["value_residual"])
    x, tokens = np.random.default_rng(0).normal(size=(2, 6, D)), Tokens(jnp.asarray(PLACES), jnp.asarray(SEGMENTS))
    seen = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (SEGMENTS[:, None] > 0) & np.tri(6, dtype=bool)[None]
    below, first = {"first_value": jnp.zeros((2, 6, H, K)), "known": jnp.zeros((2, 6))}, None
    for number in range(3):
        pairs = Pairs(tokens, tokens, number, mask=Causal(), aligned=True)
        variables = draw(module, jnp.asarray(x, jnp.float32), pairs)
        found, _, below = module.apply(variables, jnp.asarray(x, jnp.float32), pairs, below=below)
        p = {n: np.asarray(leaf, np.float64) for n, leaf in _flat(variables).items()}
        q, k, v = (loops.project(p, name, x) for name in ("query", "key", "value"))
        first = v if first is None else first
        np.testing.assert_allclose(below["first_value"], first, atol=1e-5)
        weights = loops.weights(loops.of_pairs(q, k, seen, K**-0.5))
        x = loops.output(p, loops.mix(weights, 0.75 * v + 0.25 * first))
        np.testing.assert_allclose(found, x, atol=1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Undeclared(Attention):
    def from_below(self, p, k, below, pairs):
        return k, {"key": k["key"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WronglyDeclared(Undeclared):
    def passed_up(self, sizes):
        return {"key": (sizes.d_k,)}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Undeclared, "passes up key, which passed_up does not declare"),
        (WronglyDeclared, r"passes up key of shape \(1, 6, 4, 2\); by passed_up its shape is \(1, 6, 2\)"),
    ],
)
def test_what_is_passed_up_must_be_declared(kind, line):
    tokens = Tokens(jnp.arange(6))
    with pytest.raises(UserError, match=line):
        layer(Case(None, kind())).init(jax.random.key(0), jnp.ones((1, 6, D)), Pairs(tokens, tokens, 0, Causal()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherWeights(Attention):
    def weights(self, p, q, k, pairs, positions):
        return super().weights(p, q, k, pairs, positions) ** 2


def test_weights_that_are_shown_are_those_that_are_used(draw):
    """Of a variant that replaces `weights`, not `normalize`; and they are no softmax unless the variant says so."""
    module, tokens = layer(Case(None, OtherWeights())), Tokens(jnp.arange(6))
    x, pairs = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, D)), jnp.float32), Pairs(tokens, tokens, 0, Causal())
    variables = draw(module, x, pairs)
    shown, plain = (
        each.apply(variables, x, pairs, mutable=["intermediates"])[1]["intermediates"]["weights"][0]
        for each in (module, layer(Case(None)))
    )
    np.testing.assert_allclose(shown, plain**2, rtol=1e-5)
    assert Attention().is_softmax and SoftCap().is_softmax and not OtherWeights().is_softmax and not Sinks().is_softmax


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardCap(Attention):
    def capped(self, logits_BxHxTxS):
        return jnp.clip(logits_BxHxTxS, -1, 1)


def test_no_kernel_computes_another_cap():
    tokens = Tokens(jnp.arange(6))
    pairs = Pairs(tokens, tokens, 0, Causal(), network(Case(None)).config.sizes("decoder"), aligned=True)
    q, k = {"query": jnp.ones((1, 6, H, K))}, {"key": jnp.ones((1, 6, H, K)), "value": jnp.ones((1, 6, H, K))}
    assert HardCap().fused({}, q, k, pairs, Bound()) == "HardCap replaces steps of attention"
    assert not isinstance(Attention().fused({}, q, k, pairs, Bound()), str)


def test_latents_are_all_that_is_cached():
    net, plain = (network(dataclasses.replace(CASES[n], kv_heads=False, windows=False)) for n in ("latent", "soft_cap"))
    empty, ordinary = (jax.eval_shape(lambda n=n: n.apply({}, None, 64, 1, method="start"))["layers"][0] for n in (net, plain))
    assert {name: leaf.shape for name, leaf in empty["slots"].items()} == {"latent": (1, 64, 3), "rotated_key": (1, 64, 2)}
    assert sum(leaf.size for leaf in jax.tree.leaves(ordinary)) == 64 * 2 * H * K


def test_a_state_does_not_grow():
    net = network(CASES["linear"])
    short, long = (jax.eval_shape(lambda n=n: net.apply({}, None, n, 1, method="start"))["layers"] for n in (8, 800))
    assert short == long and all(set(each) == {"state"} for each in short)


REFUSED = {
    "a window": ({"attention": Linear(), "positions": "none", "window": 3}, "config.model.window"),
    "rotary": ({"attention": Linear(), "positions": "rotary"}, "config.model.positions"),
    "dropout": ({"attention": Linear(dropout_rate=0.1), "positions": "none"}, "config.model.attention.dropout_rate"),
    "Shaw": ({"attention": Differential(), "positions": Shaw()}, "config.model.positions"),
    "CoPE": ({"attention": Latent(), "positions": CoPE()}, "config.model.positions"),
    "an odd width": ({"attention": Differential(), "d_k": 3, "positions": "none"}, "config.model.d_k"),
    "an odd rotated width": ({"attention": Latent(rotated_width=3), "positions": "rotary"}, "attention.rotated_width"),
    "grouped": ({"attention": Reformer(), "num_kv_heads": 1, "positions": "none"}, "config.model.num_kv_heads"),
    "values of two sizes": (
        {
            "attention": ValueResidual(),
            "layer_pattern": ("one", "all"),
            "layer_types": Variations({"one": {"num_kv_heads": 1}, "all": {"window": 3}}),
        },
        "config.model.layer_types: self-attention passes up first_value",
    ),
    "a dynamic scaling of one pair": (
        {"positions": Rotary(scaling=DynamicNTK()), "d_k": 2},
        "config.model.d_k is 2: scaling dynamic needs two pairs",
    ),
    "frequencies in the wrong order": (
        {"positions": Rotary(scaling=Llama3(low_frequency_factor=4.0))},
        "scaling.low_frequency_factor 4 is not below high_frequency_factor 4",
    ),
    "no causal mask": ({"positions": Forgetting(), "mask": "all"}, "config.model.mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_variant_does_not_support_is_refused_before_the_run(case):
    settings, named = REFUSED[case]
    config = small.config(family="decoder_only", objective__kind="causal_lm")
    with pytest.raises(UserError, match=named):
        validation.validate(dataclasses.replace(config, model=small.model(config.model, **settings)))


def test_encoders_and_searches_from_a_prefix_are_refused_where_they_cannot_be():
    base = small.config(model__positions=FIRE())
    with pytest.raises(UserError, match="config.model.layer_types.encoder.positions"):
        validation.validate(base)
    for kind in ("translate", "prefix_lm"):
        alone = small.config(family="decoder_only", objective__kind=kind, model__attention=Linear(), model__positions="none")
        with pytest.raises(UserError, match="config.model.attention.*a search removes"):
            validation.validate(alone)
    measured = small.config(model__attention=Sigmoid(), train__init_metrics=("attention_entropy",))
    with pytest.raises(UserError, match="config.train.init_metrics"):
        validation.validate(measured)


def test_every_axis_of_heads_is_named():
    """A mesh splits axes of heads by their declared names."""
    for case in CASES.values():
        sizes = network(case).config.sizes("decoder")
        declared = {**case.attention.parameters(sizes), **case.attention.key_parameters(sizes)}
        declared |= case.positions.parameters(sizes, 0.02)
        for name, each in declared.items():
            named = [*each.axes, *[None] * (len(each.shape) - len(each.axes))]
            wanted = any(map(operator.eq, each.shape, (sizes.num_heads, sizes.num_heads)))
            assert "heads" in named or not wanted or len(each.shape) < 2, name
