"""Published shapes of today's models: Llama, Mistral, Qwen, Gemma, Pythia, ModernBERT, NLLB. `--mode=describe` counts them.

The shapes are those of the published weights, which `--mode=import` reads; the training recipe (`RECIPE`) is the same for all
and is not the published one.
"""

import dataclasses
from typing import Any

from experiments.shapes import published, small
from transformer.components.attention import Attention
from transformer.components.feed_forward import FeedForward
from transformer.components.norms import LayerNorm, RMSNorm
from transformer.components.positions import Sinusoidal
from transformer.components.residuals import ParallelSublayers
from transformer.components.rotary import Llama3, Rotary
from transformer.config import Config, Data, Model, Objective
from transformer.settings import Variations

RECIPE = dataclasses.replace(published.GPT2, steps=100_000, learning_rate=3e-4)
NORMAL: dict[str, Any] = {"initializer": "normal", "embedding_init": "normal", "embedding_scale": "none", "dropout_rate": 0.0}


def _decoder(entries: int, longest: int, **model: Any) -> Config:
    return Config(
        family="decoder_only",
        objective=Objective(kind="causal_lm"),
        model=Model(**NORMAL | model),
        data=small.documents(vocabulary_size=entries, max_target_length=longest),
        train=RECIPE,
    )


def _llama(entries: int, positions: Rotary, **model: Any) -> Config:
    """RMSNorm before each sublayer, rotary positions, SwiGLU, grouped heads, no biases (Touvron et al. 2023)."""
    shared = {
        "positions": positions,
        "norm": RMSNorm(epsilon=1e-5),
        "norm_order": "pre",
        "attention": Attention(bias=False),
        "feed_forward": FeedForward(activation="swiglu", bias=False),
    }
    return _decoder(entries, 4096, **shared | model)


def _sizes(layers: int, d_model: int, d_ff: int, heads: int, kv_heads: int, d_k: int) -> dict[str, Any]:
    sizes = {"num_decoder_layers": layers, "d_model": d_model, "d_ff": d_ff, "num_heads": heads}
    return sizes | {"num_kv_heads": kv_heads, "d_k": d_k, "d_v": d_k}


def llama_3_2_1b() -> Config:
    positions = Rotary(base=500_000.0, size=131_072, scaling=Llama3(factor=32.0, trained_length=8192))
    return _llama(128_256, positions, **_sizes(16, 2048, 8192, 32, 8, 64))


def llama_3_8b() -> Config:
    return _llama(128_256, Rotary(base=500_000.0, size=8192), tying="none", **_sizes(32, 4096, 14_336, 32, 8, 128))


def mistral_7b() -> Config:
    """Jiang et al. 2023, table 1."""
    sizes = _sizes(32, 4096, 14_336, 32, 8, 128)
    return _llama(32_000, Rotary(size=32_768), window=4096, tying="none", **sizes)


def qwen3(layers: int, d_model: int, d_ff: int, heads: int, **model: Any) -> Config:
    """Queries and keys are normalized (Yang et al. 2025, tables 1 and 2)."""
    attention = Attention(bias=False, qk_norm=True)
    sizes = _sizes(layers, d_model, d_ff, heads, 8, 128)
    return _llama(151_936, Rotary(base=1e6, size=40_960), attention=attention, norm=RMSNorm(), **sizes | model)


def _gemma(entries: int, positions: Rotary, attention: Attention, **model: Any) -> Config:
    """Norms before and after each sublayer, with a factor of 1 + scale; GeGLU; embeddings times sqrt(d_model)."""
    return _decoder(
        entries,
        4096,
        positions=positions,
        attention=attention,
        norm=RMSNorm(plus_one=True),
        norm_order="sandwich",
        feed_forward=FeedForward(activation="geglu_tanh", bias=False),
        **model | {"embedding_scale": "sqrt(d_model)"},
    )


def gemma_2_2b() -> Config:
    """Riviere et al. 2024, table 1: windows of 4,096 tokens in every other layer, soft caps on both kinds of logits."""
    return _gemma(
        256_000,
        Rotary(size=8192),
        Attention(bias=False, logit_cap=50.0, scale_width=256),
        logits_cap=30.0,
        layer_pattern=("local", "global"),
        layer_types=Variations({"local": {"window": 4096}, "global": {}}),
        **_sizes(26, 2304, 9216, 8, 4, 256),
    )


def gemma_3_1b() -> Config:
    """Gemma Team 2025, section 2: five layers with a window for each one without, which has another base of rotary
    positions."""
    return _gemma(
        262_144,
        Rotary(base=1e6, size=32_768),
        Attention(bias=False, qk_norm=True, qk_norm_plus_one=True, scale_width=256),
        layer_pattern=("local",) * 5 + ("global",),
        layer_types=Variations({"local": {"window": 512, "positions.base": 1e4}, "global": {}}),
        **_sizes(26, 1152, 6912, 4, 1, 256),
    )


def pythia(layers: int, d_model: int, heads: int) -> Config:
    """Biderman et al. 2023, table 1: GPT-NeoX, with parallel residuals and a quarter of each head rotated."""
    return _decoder(
        50_304,
        2048,
        num_decoder_layers=layers,
        d_model=d_model,
        d_ff=4 * d_model,
        num_heads=heads,
        positions=Rotary(fraction=0.25, size=2048),
        norm=LayerNorm(epsilon=1e-5),
        norm_order="pre",
        residual=ParallelSublayers(),
        feed_forward=FeedForward(activation="gelu"),
        tying="none",
    )


def modernbert_base() -> Config:
    """Warner et al. 2024, table 4: an encoder with windows of 128 tokens in two layers of three."""
    types = {"first": {"attention_norm": False}, "local": {"window": 128, "positions.base": 1e4}, "global": {}}
    turn = ("global", "local", "local")
    return Config(
        family="encoder_only",
        objective=Objective(kind="masked_lm"),
        model=Model(
            **NORMAL,
            num_encoder_layers=22,
            d_model=768,
            d_ff=1152,
            num_heads=12,
            positions=Rotary(base=160_000.0, size=8192),
            attention=Attention(bias=False),
            feed_forward=FeedForward(activation="geglu", bias=False),
            norm=LayerNorm(epsilon=1e-5, bias=False),
            norm_order="pre",
            embedding_norm=True,
            head_bias=False,
            logits_bias=True,
            layer_pattern=("first", *(turn[n % 3] for n in range(1, 22))),
            layer_types=Variations(types),
        ),
        data=small.documents(vocabulary_size=50_368, max_source_length=1024),
        train=RECIPE,
    )


def nllb_600m() -> Config:
    """NLLB Team 2022, section 6.4: the distilled model with 600 million parameters."""
    shape: dict[str, Any] = {"num_encoder_layers": 12, "num_decoder_layers": 12, "d_model": 1024, "d_ff": 4096, "num_heads": 16}
    return Config(
        model=Model(
            **NORMAL | shape | {"embedding_scale": "sqrt(d_model)", "dropout_rate": 0.1},
            positions=Sinusoidal(layout="halves", spacing="tensor2tensor", offset=2, size=1024),
            norm=LayerNorm(epsilon=1e-5),
            norm_order="pre",
            attention=Attention(dropout_rate=0.1),
        ),
        data=Data(source="text", vocabulary_size=256_206, max_source_length=512, max_target_length=512),
        train=dataclasses.replace(RECIPE, label_smoothing=0.1),
    )
