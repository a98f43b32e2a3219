"""Variants of attention and masks for studies: each against NumPy or an equivalent computation, and by its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from experiments.variants.causal_mask import UnmaskedEvaluation, UnmaskedTraining
from experiments.variants.qkv import EvenWeights, HardMax, InputValues, SharedQK, SharedQKInputValues
from experiments.variants.summed_heads import SummedHeads
from transformer.components import attention
from transformer.components.attention import Attention, Backend
from transformer.components.masks import All, Causal, Pairs, Tokens
from transformer.config import DataInfo
from transformer.models.attention import AttentionLayer
from transformer.models.transformer import DecoderOnly, EncoderDecoder
from transformer.probes.sites import scaled_heads

B, T, H, K, D = 2, 5, 2, 4, 8
DATA_INFO = DataInfo(source_size=40, target_size=40, source_rows=40, target_rows=40)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mask():
    """In the second row, padding follows two tokens and sees nothing."""
    tokens = Tokens(jnp.arange(T), jnp.array([[1, 1, 1, 1, 1], [1, 1, 2, 2, 0]]))
    return Pairs(tokens, tokens, mask=Causal())


def soft_weights(query, key, seen):
    """The softmax weights in fp64: BxHxTxS."""
    logits = np.where(seen, np.einsum("bthk,bshk->bhts", np.asarray(query, np.float64), key), -np.inf)
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True, initial=-1e9))
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-30)


@pytest.mark.parametrize("backend", ["plain", "chunked", "fused"])
def test_a_hard_maximum_looks_at_one_key_and_learns_by_the_softmax(backend):
    query, key, value, cotangent = (normal(B, T, H, K, seed=seed) for seed in range(4))

    def total(query, key, value):
        result = attention.attend(query, key, value, mask(), scale=1.0, attention=HardMax(), backend=Backend(backend, 3))
        return jnp.sum(result * cotangent), result

    gradients, result = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    seen = np.asarray(mask().seen())
    soft = soft_weights(query, key, seen)
    hard = (soft == soft.max(-1, keepdims=True)) * seen
    assert set(hard.sum(-1).ravel()) == {0.0, 1.0}  # a query in padding sees nothing
    np.testing.assert_allclose(result, np.einsum("bhts,bshk->bthk", hard, value), atol=1e-6)
    # The values' gradient is that of one key; that of queries and keys is the softmax's, its values being what is asked for.
    np.testing.assert_allclose(gradients[2], np.einsum("bhts,bthk->bshk", hard, cotangent), atol=1e-6)
    wanted = np.einsum("bthk,bshk->bhts", cotangent, value)
    slopes = soft * (wanted - (soft * wanted).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradients[0], np.einsum("bhts,bshk->bthk", slopes, key), atol=1e-5)
    np.testing.assert_allclose(gradients[1], np.einsum("bhts,bthk->bshk", slopes, query), atol=1e-5)
    assert np.abs(gradients[0]).max() > 0.1


def module(attention=None, **settings):
    model = small.model(d_model=D, num_heads=H, positions="none", attention=attention or Attention(), **settings)
    return AttentionLayer(model, "decoder", "self", jax.nn.initializers.lecun_normal())


def test_of_equal_logits_a_hard_maximum_takes_the_first():
    zeros, value = jnp.zeros((B, T, H, K)), normal(B, T, H, K)
    result = attention.attend(zeros, zeros, value, mask(), scale=1.0, attention=HardMax())
    first = np.array([[0, 0, 0, 0, 0], [0, 0, 2, 2, 0]])
    expected = np.asarray(value)[np.arange(B)[:, None], first] * np.array([[1] * 5, [1] * 4 + [0]])[..., None, None]
    np.testing.assert_array_equal(result, expected)


def test_even_weights_are_even_and_leave_queries_and_keys_alone(draw):
    layer, x = module(EvenWeights()), normal(B, T, D)
    variables = draw(layer, x, mask())
    _, state = layer.apply(variables, x, mask(), mutable=["intermediates"])
    seen = np.asarray(mask().seen())
    even = seen / np.maximum(seen.sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(state["intermediates"]["weights"][0], np.broadcast_to(even, (B, H, T, T)), atol=1e-6)
    gradients = jax.grad(lambda v: jnp.sum(layer.apply(v, x, mask())[0] ** 2))(variables)["params"]
    norms = {name: float(jnp.linalg.norm(gradients[name]["kernel"])) for name in ("query", "key", "value", "output")}
    assert norms["query"] == norms["key"] == 0 and norms["value"] > 0.1 and norms["output"] > 0.1


def test_heads_that_are_summed_are_heads_concatenated_before_equal_rows(draw):
    """Concatenation and W^O is also a sum over heads, each with its own rows of W^O; summing the heads means that these rows
    are equal."""
    layer, x = module(SummedHeads()), normal(B, T, D)
    parameters = draw(layer, x, mask())["params"]
    shared = parameters["summed_output"]["kernel"]
    assert shared.shape == (D // H, D)
    apart = {name: parameters[name] for name in ("query", "key", "value")}
    apart |= {"output": {"kernel": jnp.stack([shared] * H), "bias": parameters["summed_output"]["bias"]}}
    with scaled_heads({"decoder/self": jnp.array([[1.0, 0.3]])}):
        summed, *_ = layer.apply({"params": parameters}, x, mask())
        concatenated, *_ = module().apply({"params": apart}, x, mask())
    np.testing.assert_allclose(summed, concatenated, atol=1e-5)


def test_queries_of_t5_start_smaller_by_the_root_of_their_width():
    x = normal(B, T, D)
    usual, other = (
        module(Attention(query_init=name), d_k=3).init(jax.random.key(0), x, mask())["params"]
        for name in ("initializer", "initializer/sqrt(d_k)")
    )
    np.testing.assert_allclose(other["query"]["kernel"], usual["query"]["kernel"] / np.sqrt(3), rtol=1e-6)
    for name in ("key", "value", "output"):
        np.testing.assert_array_equal(other[name]["kernel"], usual[name]["kernel"])


# --- the causal mask, in training and in evaluation ------------------------------------------------------------------

SMALL = {"num_encoder_layers": 1, "num_decoder_layers": 2, "d_model": D, "d_ff": 8, "num_heads": H, "dropout_rate": 0.0}
BATCH = {"source": jnp.array([[4, 5, 6], [7, 8, 0]]), "source_segments": jnp.array([[1, 1, 1], [1, 1, 0]])}
BATCH |= {"inputs": jnp.array([[9, 3, 5, 7], [6, 8, 4, 2]])}
FAMILIES = {"encoder_decoder": EncoderDecoder, "decoder_only": DecoderOnly}


@functools.cache
def network(family, **settings):
    return FAMILIES[family](small.model(**SMALL, **settings), DATA_INFO)


@pytest.mark.parametrize(
    ("family", "training", "evaluation"), [("encoder_decoder", True, False), ("decoder_only", False, True)]
)
def test_the_mask_is_there_when_it_is_asked_for(draw, family, training, evaluation):
    net = network(family, mask=UnmaskedEvaluation() if training else UnmaskedTraining())
    variables, inputs = draw(net, BATCH), jnp.arange(20, 25)[None]  # a token is an input, so that gradients tell who is seen
    batch = {name: leaf[:1] for name, leaf in BATCH.items()} | {"inputs": inputs}

    def outputs(table, *, deterministic):
        parameters = variables["params"] | {"target_embedding": {"table": table}}
        states = net.apply({"params": parameters}, batch, deterministic, method="states")
        return states[0] @ normal(D)

    for deterministic, masked in ((False, training), (True, evaluation)):
        jacobian = jax.jit(jax.jacrev(functools.partial(outputs, deterministic=deterministic)))
        gradients_TxNxD = jacobian(variables["params"]["target_embedding"]["table"])
        seen = np.any(np.asarray(gradients_TxNxD)[:, 20:25] != 0, axis=-1)
        np.testing.assert_array_equal(seen, np.tri(5, dtype=bool) if masked else np.ones((5, 5), bool))


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_prefix_sees_no_more_than_the_rest(draw, causal):
    """The first output of a prefix of three tokens, which is read at once and, with a cache, before two more tokens."""
    net = network("decoder_only", **({"mask": Causal()} if causal else {}))
    variables, inputs = draw(net, BATCH), BATCH["inputs"]
    other = inputs.at[:, 2].add(1)
    flags = jnp.broadcast_to(jnp.arange(4) < 3, (2, 4)).astype(jnp.int32)
    plain = jax.jit(lambda inputs: net.apply(variables, {"inputs": inputs, "prefix": flags}))

    @jax.jit
    def stepped(inputs):
        cache = net.apply(variables, None, 4, 2, method="start")
        return net.apply(variables, inputs[:, :3], cache, None, None, True, method="step")[0]

    changed = np.abs(plain(inputs) - plain(other)).max(axis=(0, 2)) > 0
    np.testing.assert_array_equal(changed, [not causal, not causal, True, True])
    np.testing.assert_allclose(stepped(inputs), plain(inputs)[:, :3], atol=1e-5)


@pytest.mark.parametrize("family", small.some(FAMILIES, "encoder_decoder"))
def test_without_a_mask_each_step_recomputes_the_prefix(draw, family):
    """Two tokens and then one at a time, two beams per sentence: each step gives the output of a full pass over the text so
    far."""
    net = network(family, mask=All(), positions="learned", positions__size=8)
    variables = draw(net, BATCH)
    plain = jax.jit(net.apply)

    @jax.jit
    def stepped(variables, batch):
        apply = functools.partial(net.apply, variables)
        memory = apply(batch["source"], None, batch["source_segments"], method="encode") if hasattr(net, "encode") else None
        rows = jnp.repeat(batch["inputs"], 2, axis=0)
        cache, logits = apply(memory, 6, 4, method="start"), []
        for first, last in ((0, 2), (2, 3), (3, 4)):
            step_logits, cache = apply(rows[:, first:last], cache, memory, method="step")
            logits.append(step_logits[:, -1])
        return jnp.stack(logits)

    for length, logits in zip((2, 3, 4), stepped(variables, BATCH), strict=True):
        so_far = jnp.broadcast_to(jnp.arange(4) < length, (2, 4)).astype(jnp.int32)
        expected = plain(variables, BATCH | {"segments": so_far})[:, length - 1]
        np.testing.assert_allclose(logits, jnp.repeat(expected, 2, axis=0), atol=1e-5)
        if length < 4:  # what follows would have been seen
            assert np.abs(expected - plain(variables, BATCH)[:, length - 1]).max() > 0.01


# --- shared queries and keys, values that are the inputs ---------------------------------------------------------------


@pytest.mark.parametrize("variant", [SharedQK, InputValues, SharedQKInputValues])
def test_what_is_shared_is_what_full_attention_gives_with_equal_kernels(draw, variant):
    """Full attention whose key kernel is the query's, and whose value kernel is the identity."""
    layer, x = module(variant(bias=False, qk_norm=True)), normal(B, T, D)
    parameters = draw(layer, x, mask())["params"]
    whole = dict(parameters)
    if issubclass(variant, SharedQK):
        assert "key" not in parameters and "key_norm" not in parameters
        whole |= {"key": parameters["query"], "key_norm": parameters["query_norm"]}
    if issubclass(variant, InputValues):
        assert "value" not in parameters
        whole |= {"value": {"kernel": jnp.eye(D).reshape(D, H, D // H)}}
    found, *_ = layer.apply({"params": parameters}, x, mask())
    wanted, *_ = module(Attention(bias=False, qk_norm=True)).apply({"params": whole}, x, mask())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "variant", small.some([SharedQKInputValues, SummedHeads, EvenWeights, HardMax], SharedQKInputValues, SummedHeads)
)
def test_variants_decode_with_a_cache_as_without(draw, variant):
    """Self- and cross-attention, rotary positions, two beams a sentence."""
    net = network("encoder_decoder", attention=variant(), positions="rotary")
    variables = draw(net, BATCH)

    @jax.jit
    def stepped(variables):
        apply = functools.partial(net.apply, variables)
        memory = apply(BATCH["source"], None, BATCH["source_segments"], method="encode")
        rows, cache, logits = jnp.repeat(BATCH["inputs"], 2, axis=0), apply(memory, 6, 4, method="start"), []
        for first, last in ((0, 2), (2, 3), (3, 4)):
            found, cache = apply(rows[:, first:last], cache, memory, method="step")
            logits.append(found)
        return jnp.concatenate(logits, axis=1)

    np.testing.assert_allclose(stepped(variables), np.repeat(small.apply(net, variables, BATCH), 2, axis=0), atol=2e-5)
