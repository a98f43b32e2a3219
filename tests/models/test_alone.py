"""Decoder-only and encoder-only models: caches, prefixes, padding, heads and masks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer.config import DataInfo, Model
from transformer.models.transformer import DecoderOnly, EncoderOnly, Heads

DATA_INFO = DataInfo(source_size=13, target_size=13, source_rows=16, target_rows=16)


def model(**changes) -> Model:
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 2, "d_model": 8, "d_ff": 12, "num_heads": 2}
    return small.model(**{**sizes, "dropout_rate": 0.0, **changes})


@functools.cache
def decoder(positions: str):
    net = DecoderOnly(model(positions=positions), DATA_INFO)
    # Not as initialised: biases that are zero and scales that are one would hide what is left out.
    return functools.partial(small.apply, net, small.drawn(net, {"inputs": jnp.zeros((1, 4), jnp.int32)}))


def draw(rows: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 13, (rows, length)).astype(np.int32)


@pytest.mark.parametrize(
    ("positions", "prefix"),
    [("sinusoidal", 0), ("learned", 3), ("rotary", 0), ("rotary", 3), ("alibi", 3), ("t5", 0), ("shaw", 3), ("none", 0)],
)
def test_with_a_cache_the_logits_are_those_without(positions, prefix):
    """A prompt of padded rows in one call, then one token at a time; in a prefix LM all tokens of the prompt see each other."""
    apply, tokens = decoder(positions), draw(2, 7)
    flags = np.arange(7)[None] < np.full((2, 1), prefix)
    batch = {"inputs": tokens} | ({"prefix": flags.astype(np.int32)} if prefix else {})
    wanted = np.asarray(apply(batch))
    cache = apply(None, 12, 2, method="start")
    shown = np.zeros((2, 5), np.int32)
    shown[:, 2:] = tokens[:, :3]
    valid = np.arange(5)[None] >= np.full((2, 1), 2)
    logits, cache = apply(shown, cache, None, valid, bool(prefix), method="step")
    np.testing.assert_allclose(logits[:, 2:, :13], wanted[:, :3, :13], atol=2e-5)
    for place in range(3, 7):
        logits, cache = apply(tokens[:, place : place + 1], cache, method="step")
        np.testing.assert_allclose(logits[:, 0, :13], wanted[:, place, :13], atol=2e-5)


@pytest.mark.parametrize("prefix", [0, 3])
def test_later_tokens_are_visible_only_in_a_prefix(prefix):
    net = DecoderOnly(model(), DATA_INFO)
    batch = {"inputs": draw(1, 6)} | ({"prefix": (np.arange(6)[None] < prefix).astype(np.int32)} if prefix else {})
    params = small.drawn(net, batch)["params"]

    def output(table, place):  # by a table for each place, so that gradients tell places apart
        tables = params | {"target_embedding": {"table": table}}
        return jnp.sum(net.apply({"params": tables}, batch | {"inputs": jnp.arange(6)[None]}, method="states")[0, place] ** 2)

    table, gradient = np.random.default_rng(2).normal(size=(16, 8)).astype(np.float32), jax.jit(jax.grad(output))
    for place in range(6):
        felt = np.abs(gradient(table, place)[:6]).sum(axis=1) > 0
        seen = np.arange(6) <= max(place, prefix - 1)
        np.testing.assert_array_equal(felt, seen)


def test_documents_that_share_a_row_do_not_see_each_other():
    apply, tokens = decoder("rotary"), draw(1, 7)
    segments, positions = np.array([[1, 1, 1, 2, 2, 2, 2]]), np.array([[0, 1, 2, 0, 1, 2, 3]])
    together = apply({"inputs": tokens, "segments": segments, "positions": positions})
    np.testing.assert_allclose(together[:, 3:], apply({"inputs": tokens[:, 3:]}), atol=1e-5)
    np.testing.assert_allclose(together[:, :3], apply({"inputs": tokens[:, :3]}), atol=1e-5)


@functools.cache
def encoder(heads: Heads, **changes):
    net = EncoderOnly(model(token_types=2, positions="learned", **changes), DATA_INFO, heads)
    return net, small.drawn(net, {"source": jnp.zeros((1, 4), jnp.int32)})["params"]


HEADS = {
    "masked_lm": (Heads(masked_lm=True), {"states": (2, 5, 8), "logits": (2, 5, 16)}),
    "next_sentence": (
        Heads(masked_lm=True, pooler=True, outputs=2),
        {"states": (2, 5, 8), "logits": (2, 5, 16), "scores": (2, 2)},
    ),
    "body": (Heads(pooler=True), {"states": (2, 5, 8), "pooled": (2, 8)}),
    "classify": (Heads(pooler=True, outputs=3), {"states": (2, 5, 8), "scores": (2, 3)}),
    "tag": (Heads(outputs=4, per_token=True), {"states": (2, 5, 8), "scores": (2, 5, 4)}),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_share_one_encoder(name):
    heads, shapes = HEADS[name]
    net, params = encoder(heads)
    output = small.apply(net, {"params": params}, {"source": draw(2, 5)})
    assert {key: value.shape for key, value in output.items()} == shapes
    body, _ = encoder(Heads())
    shared = {key: params[key] for key in ("source_embedding", "type_embedding", "encoder")}
    alone = small.apply(body, {"params": shared}, {"source": draw(2, 5)})
    np.testing.assert_allclose(alone["states"], output["states"], rtol=1e-6, atol=1e-6)


def test_a_classifier_reads_the_first_token_and_a_tagger_each_token():
    tokens = draw(1, 5)
    for name, places in (("classify", [0]), ("tag", [0, 1, 2, 3, 4])):
        net, params = encoder(HEADS[name][0])
        states = small.apply(net, {"params": params}, {"source": tokens}, method="states")

        @jax.jit
        @jax.grad
        def gradient(states, net=net, params=params):
            return jnp.sum(net.apply({"params": params}, states, method="scores") ** 2)

        felt = np.abs(gradient(states)[0]).sum(axis=1) > 0
        assert np.flatnonzero(felt).tolist() == places


def test_modernbert_head_precedes_classifiers_of_texts_and_of_tokens():
    """norm(gelu(x W)) of the mean of the states without padding, or of each state, against NumPy."""
    changes = {"prediction_head": "modernbert", "pooling": "mean", "head_bias": False, "pooler_activation": "gelu"}
    tokens = {"source": draw(2, 5), "source_segments": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}
    for heads in (Heads(pooler=True, outputs=3), Heads(pooler=True, outputs=3, per_token=True)):
        net, params = encoder(heads, **changes)
        output = small.apply(net, {"params": params}, tokens)
        x = np.asarray(output["states"])
        x = x if heads.per_token else np.stack([x[0, :3].mean(axis=0), x[1].mean(axis=0)])
        assert params["pooler"]["dense"].keys() == {"kernel"}
        x = np.asarray(jax.nn.gelu(x @ params["pooler"]["dense"]["kernel"], approximate=False))
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        x = x * params["pooler"]["norm"]["scale"] + params["pooler"]["norm"]["bias"]
        wanted = x @ params["classifier"]["dense"]["kernel"] + params["classifier"]["dense"]["bias"]
        np.testing.assert_allclose(output["scores"], wanted, atol=1e-5)


def test_token_types_and_padding_of_an_encoder():
    net, params = encoder(HEADS["tag"][0])
    tokens = draw(1, 5)
    plain = small.apply(net, {"params": params}, {"source": tokens})["scores"]
    zeros = small.apply(net, {"params": params}, {"source": tokens, "token_types": np.zeros_like(tokens)})["scores"]
    ones = small.apply(net, {"params": params}, {"source": tokens, "token_types": np.ones_like(tokens)})["scores"]
    np.testing.assert_array_equal(plain, zeros)
    assert np.abs(np.asarray(ones - plain)).max() > 1e-3
    padded = {"source": np.pad(tokens, [(0, 0), (0, 3)], constant_values=7), "source_segments": np.array([[1] * 5 + [0] * 3])}
    np.testing.assert_allclose(small.apply(net, {"params": params}, padded)["scores"][:, :5], plain, atol=1e-5)


def test_the_masked_language_model_is_the_published_formula():
    """norm(gelu(x W + b)) E^T + c, surplus entries masked (BERT's code, get_masked_lm_output)."""
    net, params = encoder(Heads(masked_lm=True), feed_forward__activation="gelu", logits_bias=True)
    tokens = draw(2, 5)
    states = np.asarray(small.apply(net, {"params": params}, {"source": tokens}, method="states"), np.float64)
    head, table = jax.tree.map(lambda x: np.asarray(x, np.float64), (params["masked_lm"], params["source_embedding"]["table"]))
    x = states @ head["transform"]["kernel"] + head["transform"]["bias"]
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * head["norm"]["scale"] + head["norm"]["bias"]
    wanted = x @ table.T + head["logits"]["bias"]
    found = np.asarray(small.apply(net, {"params": params}, {"source": tokens})["logits"])
    np.testing.assert_allclose(found[..., :13], wanted[..., :13], rtol=1e-3, atol=1e-4)
    assert found[..., 13:].max() < -1e20
