"""Every setting that a variant inherits from attention changes the program, or is refused."""

import functools
from pathlib import Path

import every_variant
import jax
import jax.numpy as jnp
import pytest
import small

from transformer import registry
from transformer.components.attention import Attention
from transformer.components.masks import Causal, Pairs, Tokens
from transformer.config import Config
from transformer.errors import UserError
from transformer.models.attention import AttentionLayer
from transformer.settings import assign, fields
from transformer.validation import validate

OTHER = {
    "scale": "none",
    "scale_width": 3,
    "logit_cap": 0.5,
    "qk_norm": True,
    "qk_norm_over": "all_heads",
    "qk_norm_plus_one": True,
    "norm_epsilon": 0.01,
    "bias": False,
    "output_bias": False,
    "dropout_rate": 0.5,
    "query_init": "initializer/sqrt(d_k)",
}
VARIANTS = {Path(name).name: name for name in every_variant.names(Attention)}


def program(config: Config) -> str:
    """The initialization of self-attention and a forward pass in training, as text."""
    layer = AttentionLayer(config.model, "decoder", "self", jax.nn.initializers.normal(), deterministic=False)
    tokens = Tokens(jnp.arange(6))
    x, pairs = jnp.ones((2, 6, config.model.d_model)), Pairs(tokens, tokens, mask=Causal(), aligned=True)

    def run(key):
        params = layer.init({"params": key, "dropout": key}, x, pairs)["params"]
        return layer.apply({"params": params}, x, pairs, rngs={"dropout": key})[0]

    return str(jax.make_jaxpr(run)(jax.random.key(0)))


@pytest.mark.parametrize("name", VARIANTS)
def test_inherited_settings_have_an_effect_or_are_refused(name):
    """`norm_epsilon` and others are tried with `qk_norm` as well, without which they are refused."""
    sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1, "d_model": 16, "d_ff": 8, "num_heads": 2, "norm_order": "pre"}
    kept = {"dropout_rate": 0.0, "attention": VARIANTS[name], "positions": "none"}
    base = small.config(**{f"model__{each}": value for each, value in (sizes | kept).items()})

    @functools.cache
    def outcome(**changes) -> str | None:
        """None: refused."""
        config = assign(base, {f"model.attention.{each}": value for each, value in changes.items()})
        try:
            return program(validate(config))
        except UserError:
            return None

    assert outcome() is not None
    for each, value in OTHER.items():
        assert outcome(**{each: value}) != outcome(), each
        with_norm = outcome(qk_norm=True, **({} if each == "qk_norm" else {each: value}))
        assert each == "qk_norm" or with_norm is None or with_norm != outcome(qk_norm=True), each


def test_every_inherited_setting_is_tried():
    kind = registry.reference(Attention)
    found = {name.removeprefix("model.attention.") for name, _, _, _ in fields(Config()) if name.startswith("model.attention.")}
    assert kind == "multi_head" and found == OTHER.keys()
