"""The encoder-decoder against the same model written in NumPy: fp64, one sentence, one head and one layer at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from experiments.variants.qkv import HardMax, SharedQKInputValues
from experiments.variants.summed_heads import SummedHeads
from transformer.components.norms import LayerNorm
from transformer.components.residuals import ParallelSublayers
from transformer.config import DataInfo
from transformer.models.transformer import EncoderDecoder

DATA_INFO = DataInfo(source_size=30, target_size=40, source_rows=32, target_rows=40)
JOINT = DataInfo(source_size=40, target_size=40, source_rows=40, target_rows=40)
D, HEADS, CLIP = 16, 4, 2

# Every choice that changes the sum is in one of these; the first is the paper's model.
CASES = {
    "paper": {},
    "BART": {
        "positions": "learned",
        "positions__offset": 2,
        "positions__size": 9,
        "embedding_norm": True,
        "embedding_scale": "none",
        "feed_forward__activation": "gelu",
        "logits_bias": True,
        "norm__epsilon": 1e-5,
    },
    "Marian": {"positions__layout": "halves", "feed_forward__activation": "silu", "logits_bias": True, "tying": "two_way"},
    "T5": {
        "positions": "t5",
        "norm_order": "pre",
        "norm": "rms",
        "attention__scale": "none",
        "attention__bias": False,
        "feed_forward__bias": False,
        "embedding_scale": "none",
        "logits_scale": "1/sqrt(d_model)",
    },
    "rotary": {
        "positions": "rotary",
        "positions__base": 100.0,
        "norm_order": "pre",
        "norm": "rms",
        "attention__qk_norm": True,
        "feed_forward__activation": "swiglu",
        "tying": "none",
        "d_k": 6,
        "d_v": 5,
    },
    "alibi": {
        "positions": "alibi",
        "norm_order": "pre",
        "final_norm": False,
        "norm__bias": False,
        "feed_forward__activation": "gelu_tanh",
    },
    "shaw": {
        "positions": "shaw",
        "positions__clip": CLIP,
        "final_norm": True,
        "attention__scale": "learned",
        "feed_forward__activation": "geglu",
        "tying": "two_way",
        "d_k": 6,
        "d_v": 5,
    },
    "variants": {"positions": "rotary", "attention": SharedQKInputValues(), "attention__qk_norm": True},
    "summed": {"positions": "learned", "positions__offset": 2, "attention": SummedHeads()},
    "hard": {"positions": "alibi", "attention": HardMax()},
    "grouped, window": {"positions": "rotary", "num_kv_heads": 2, "window": 3, "attention__qk_norm": True},
    "multi-query, window": {"positions": "shaw", "positions__clip": CLIP, "num_kv_heads": 1, "window": 2},
    "Gemma": {
        "positions": "rotary",
        "norm_order": "sandwich",
        "norm": "rms",
        "norm__plus_one": True,
        "attention__qk_norm": True,
        "attention__qk_norm_plus_one": True,
        "attention__scale_width": 9,
        "attention__logit_cap": 0.5,
        "logits_cap": 2.0,
        "num_kv_heads": 2,
    },
    "OLMo 2": {
        "positions": "rotary",
        "norm_order": "output",
        "attention__qk_norm": True,
        "attention__qk_norm_over": "all_heads",
    },
    "GPT-NeoX": {
        "positions": "none",
        "norm_order": "pre",
        "residual": "parallel",
        "attention__bias": False,
        "attention__output_bias": True,
        "logits_bias": True,
        "logits_cap": 3.0,
    },
    "attention only": {"feed_forward": "none", "norm_order": "pre"},
    "none": {
        "positions": "none",
        "attention__scale": "1/d_k",
        "attention__qk_norm": True,
        "feed_forward__activation": "geglu_tanh",
        "d_v": 3,
    },
}


def erf_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


FUNCTIONS = {"relu": lambda x: np.maximum(x, 0), "silu": silu, "swiglu": silu}
FUNCTIONS |= {"gelu": erf_gelu, "geglu": erf_gelu, "gelu_tanh": tanh_gelu, "geglu_tanh": tanh_gelu}


class Reference:
    """Logits TxN for one source and the inputs of one target. Arrays have no batch axis and no padding."""

    def __init__(self, config, parameters):
        self.config, self.kind = config, type(config.positions).name
        self.parameters = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters)

    def logits(self, source, inputs):
        config, parameters = self.config, self.parameters
        tables = {"source": parameters.get("source_embedding", parameters["target_embedding"])["table"]}
        tables["target"] = parameters["target_embedding"]["table"]
        factor = math.sqrt(D) if config.embedding_scale == "sqrt(d_model)" else 1
        states = self.stack("encoder", tables["source"][source] * factor, config.num_encoder_layers)
        states = self.stack("decoder", tables["target"][inputs] * factor, config.num_decoder_layers, states)
        if config.logits_scale == "1/sqrt(d_model)":
            states = states / math.sqrt(D)
        kernel = parameters["logits"]["kernel"] if config.tying == "none" else tables["target"].T
        return self.capped(states @ kernel + (parameters["logits"]["bias"] if config.logits_bias else 0), config.logits_cap)

    def capped(self, x, cap):
        return x if cap is None else cap * np.tanh(x / cap)

    def stack(self, name, x, layers, memory=None):
        mine = self.parameters[name]
        x = x + self.added(mine, len(x))
        if self.config.embedding_norm:
            x = self.norm(x, mine["embedding_norm"])
        for index in range(layers):
            layer = jax.tree.map(lambda leaf, i=index: leaf[i], mine["layers"])
            read = x if isinstance(self.config.residual, ParallelSublayers) else None
            x = self.sublayer(
                x, read, layer, "self_attention", lambda x, layer=layer: self.self_attention(x, layer, name, mine)
            )
            if memory is not None:
                keys = jax.tree.map(lambda leaf, i=index: leaf[i], self.parameters["memory"])
                cross = lambda x, layer=layer, keys=keys: self.cross_attention(x, layer, keys, memory)  # noqa: E731
                x = self.sublayer(x, read, layer, "cross_attention", cross)
            if self.config.feed_forward.name != "none":
                forward = lambda x, layer=layer: self.feed_forward(x, layer["feed_forward"])  # noqa: E731
                x = self.sublayer(x, read, layer, "feed_forward", forward)
        return self.norm(x, mine["final_norm"]) if "final_norm" in mine else x

    def sublayer(self, x, read, layer, name, function):
        read, order, norm = x if read is None else read, self.config.norm_order, layer[f"{name}_norm"]
        if order == "post":
            return self.norm(x + function(read), norm)
        if order == "output":
            return x + self.norm(function(read), norm)
        y = function(self.norm(read, norm))
        return x + (self.norm(y, layer[f"{name}_output_norm"]) if order == "sandwich" else y)

    def norm(self, x, parameters):
        if isinstance(self.config.norm, LayerNorm):
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config.norm.epsilon)
        return x * (parameters["scale"] + getattr(self.config.norm, "plus_one", 0)) + parameters.get("bias", 0)

    def head_norm(self, x, parameters):
        attention = self.config.attention
        axes = (-2, -1) if attention.qk_norm_over == "all_heads" else -1
        x = x / np.sqrt((x**2).mean(axes, keepdims=True) + attention.norm_epsilon)
        return x * (parameters["scale"] + attention.qk_norm_plus_one)

    def feed_forward(self, x, parameters):
        def dense(x, name):
            return x @ parameters[name]["kernel"] + parameters[name].get("bias", 0)

        hidden = FUNCTIONS[self.config.feed_forward.activation](dense(x, "inner"))
        if "glu" in self.config.feed_forward.activation:
            hidden = hidden * dense(x, "gate")
        return dense(hidden, "outer")

    def added(self, stack, length):
        if self.kind == "learned":
            return stack["position_table"][2 : 2 + length]
        if self.kind != "sinusoidal":
            return 0
        result = np.zeros((length, D))
        for p, i in np.ndindex(length, D // 2):
            sine, cosine = (i, D // 2 + i) if self.config.positions.layout == "halves" else (2 * i, 2 * i + 1)
            result[p, sine], result[p, cosine] = math.sin(p / 10000 ** (2 * i / D)), math.cos(p / 10000 ** (2 * i / D))
        return result

    def self_attention(self, x, layer, name, stack):
        parameters, kind, both = layer["self_attention"], self.kind, name == "encoder"
        query, key, value = (
            np.einsum("td,dhk->thk", x, parameters[n]["kernel"]) + parameters[n].get("bias", 0) if n in parameters else None
            for n in ("query", "key", "value")
        )
        if self.config.attention.qk_norm:
            query = self.head_norm(query, parameters["query_norm"])
            key = None if key is None else self.head_norm(key, parameters["key_norm"])
        key, value = query if key is None else key, self.slices(x) if value is None else value
        if kind == "rotary":
            query, key = self.turned(query), self.turned(key)

        def bias(head, q, t, s):
            if kind == "alibi":
                return -abs(s - t) / (4, 16, 64, 256)[head]
            if kind == "t5":  # these sentences are so short that each distance has a bucket of its own
                return stack["position_table"][t - s if s <= t else 16 + s - t, head]
            if kind == "shaw":
                return q @ parameters["position_keys"][np.clip(s - t, -CLIP, CLIP) + CLIP]
            return 0

        def moved(t, s):
            return parameters["position_values"][np.clip(s - t, -CLIP, CLIP) + CLIP] if kind == "shaw" else 0

        window = self.config.window or 99

        def sees(t, s):
            return abs(s - t) <= window // 2 if both else 0 <= t - s < window

        return self.attention(query, key, value, parameters, sees, bias, moved)

    def cross_attention(self, x, layer, memory, states):
        parameters = layer["cross_attention"]
        query = np.einsum("td,dhk->thk", x, parameters["query"]["kernel"]) + parameters["query"].get("bias", 0)
        key, value = (
            np.einsum("td,dhk->thk", states, memory[n]["kernel"]) + memory[n].get("bias", 0)
            if n in memory
            else self.slices(states)
            for n in ("key", "value")
        )
        if self.config.attention.qk_norm:
            query, key = self.head_norm(query, parameters["query_norm"]), self.head_norm(key, memory["key_norm"])
        return self.attention(query, key, value, parameters, lambda t, s: True, lambda *_: 0, lambda *_: 0)

    def slices(self, x):
        return np.stack([x[:, h * D // HEADS : (h + 1) * D // HEADS] for h in range(HEADS)], axis=1)

    def turned(self, x):
        half = x.shape[-1] // 2
        turn = np.exp(1j * np.arange(len(x))[:, None] * self.config.positions.base ** (-np.arange(half) / half))
        pairs = (x[..., :half] + 1j * x[..., half:]) * turn[:, None]
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    def attention(self, query, key, value, parameters, sees, bias, moved):
        width = self.config.attention.scale_width or query.shape[-1]
        scale = {"1/sqrt(d_k)": width**-0.5, "none": 1, "1/d_k": 1 / query.shape[-1]}.get(self.config.attention.scale)
        scale = parameters["scale"] if scale is None else np.full(HEADS, scale)
        summed = isinstance(self.config.attention, SummedHeads)
        last = parameters["summed_output" if summed else "output"]
        output = np.zeros((len(query), D)) + last.get("bias", 0)
        for t, h in np.ndindex(len(query), HEADS):
            q, seen = query[t, h] * scale[h], [s for s in range(len(key)) if sees(t, s)]
            shared = h * key.shape[1] // HEADS  # the head of keys and values
            cap = self.config.attention.logit_cap
            powers = [math.exp(self.capped(q @ key[s, shared] + bias(h, q, t, s), cap)) for s in seen]
            if isinstance(self.config.attention, HardMax):
                powers = [float(power == max(powers)) for power in powers]
            head = sum(power * (value[s, shared] + moved(t, s)) for power, s in zip(powers, seen, strict=True)) / sum(powers)
            output[t] += head @ (last["kernel"] if summed else last["kernel"][h])
        return output


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_reference(draw, name):
    config = small.model(num_encoder_layers=2, num_decoder_layers=3, d_model=D, d_ff=24, num_heads=HEADS, **CASES[name])
    data_info = JOINT if config.tying == "three_way" else DATA_INFO
    network = EncoderDecoder(config, data_info)
    generator = np.random.default_rng(2)
    lengths = [(7, 5), (4, 6), (1, 1)]  # of sources and targets
    batch = {"source": generator.integers(1, 30, (3, 8)), "inputs": generator.integers(1, 40, (3, 6))}
    for side, names in enumerate([("source", "source_segments"), ("inputs", "segments")]):
        batch[names[1]] = np.array([[t < row[side] for t in range(batch[names[0]].shape[1])] for row in lengths], np.int32)
    batch = jax.tree.map(jnp.asarray, batch)
    variables = draw(network, batch)
    logits = np.asarray(jax.jit(network.apply)(variables, batch))
    assert logits.dtype == np.float32
    reference = Reference(config, variables["params"])
    for row, (source, target) in enumerate(lengths):
        expected = reference.logits(np.asarray(batch["source"])[row, :source], np.asarray(batch["inputs"])[row, :target])
        np.testing.assert_allclose(logits[row, :target], expected, rtol=1e-4, atol=1e-4)
