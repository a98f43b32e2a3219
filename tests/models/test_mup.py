"""muP: parameters that depend on the width; activations do not grow with width in muP, but do in the standard
parametrization."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.variants.fire import FIRE
from experiments.variants.forgetting import Forgetting
from experiments.variants.gated_output import GatedOutput
from experiments.variants.latent import Latent
from experiments.variants.talking_heads import TalkingHeads
from transformer import families
from transformer.config import Config, DataInfo, Model, Objective, Train
from transformer.errors import UserError
from transformer.probes import coordinates
from transformer.training import trainer
from transformer.validation import validate

INFO = DataInfo(30, 30, 32, 32)
WIDTHS = (32, 256)


def config(width: int, parametrization: str, **model) -> Config:
    of_model = dict(num_decoder_layers=2, d_model=width, d_ff=2 * width, num_heads=4, norm_order="pre", dropout_rate=0.0)
    mup = {"parametrization": "mup", "base_width": WIDTHS[0]} if parametrization == "mup" else {}
    train = Train(learning_rate=0.02, warmup_steps=0, schedule="constant", coordinates=True, label_smoothing=0.0)
    return Config("decoder_only", Model(**{**of_model, **mup, **model}), Objective("causal_lm"), train=train)


def batch(rng: np.random.Generator) -> dict[str, np.ndarray]:
    inputs = rng.integers(4, 30, (4, 12)).astype(np.int32)
    return {
        "inputs": inputs,
        "targets": np.roll(inputs, -1, axis=1),
        "weights": np.ones((4, 12), np.float32),
        "segments": np.ones((4, 12), np.int32),
        "positions": np.broadcast_to(np.arange(12, dtype=np.int32), (4, 12)),
    }


def sizes(of: Config, updates: int, seed: int) -> dict[str, float]:
    """The sizes of activations after some updates on one batch."""
    model = families.FAMILIES[of.family].model(of, INFO)
    made, data = trainer.make(of, INFO, model), batch(np.random.default_rng(seed))
    state = made.begin(model.init(jax.random.key(seed), data)["params"])
    step = jax.jit(made.step)
    for _ in range(updates):
        state, _ = step(state, data)
    found = jax.jit(coordinates.make_step(model, of))(state.params, data)
    return coordinates.complete(of, {name: float(value) for name, value in found.items()})


@pytest.mark.slow
@pytest.mark.parametrize("tying", ["three_way", "none"])
def test_coordinates_are_flat_in_mup_and_grow_otherwise(tying):
    """The ratio of the wide to the small model after four updates with a large learning rate."""
    grown = {}
    for parametrization in ("mup", "standard"):
        narrow, wide = (sizes(config(width, parametrization, tying=tying), 4, 0) for width in WIDTHS)
        grown[parametrization] = {name: wide[name] / narrow[name] for name in narrow}
    assert max(grown["mup"].values()) < 1.5
    assert min(value for name, value in grown["mup"].items() if "self" not in name) > 0.6  # logits of attention may fall
    assert min(grown["standard"].values()) > 2


def test_at_the_base_width_it_is_the_standard_one():
    same = config(WIDTHS[0], "mup"), config(WIDTHS[0], "standard")
    assert sizes(same[0], 2, 0) == sizes(same[1], 2, 0)


def test_what_depends_on_the_width():
    """Table 8 of Yang et al.: embeddings keep their size and learning rate; kernels shrink as 1 / sqrt(width), their rate as 1
    / width."""
    wide = config(128, "mup", initializer="normal", tying="none")
    model = families.FAMILIES[wide.family].model(wide, INFO)
    data = batch(np.random.default_rng(0))
    params = model.init(jax.random.key(0), data)["params"]
    layer = params["decoder"]["layers"]
    assert float(jnp.std(params["target_embedding"]["table"])) == pytest.approx(32**-0.5, rel=0.05)
    assert float(jnp.std(layer["feed_forward"]["inner"]["kernel"])) == pytest.approx(0.02 / 2, rel=0.05)
    assert float(jnp.std(params["logits"]["kernel"])) == pytest.approx(0.02 / 4, rel=0.05)
    made = trainer.make(wide, INFO, model)
    state, _ = jax.jit(made.step)(made.begin(params), data)
    moved = jax.tree.map(lambda new, old: float(jnp.max(jnp.abs(new - old))), state.params, params)
    rate = wide.train.learning_rate  # of Adam's first update each number moves by the rate
    assert moved["target_embedding"]["table"] == pytest.approx(rate, rel=0.01)
    assert moved["decoder"]["layers"]["feed_forward"]["inner"]["kernel"] == pytest.approx(rate / 4, rel=0.01)
    assert moved["decoder"]["layers"]["self_attention"]["output"]["kernel"] == pytest.approx(rate / 4, rel=0.01)
    assert moved["logits"]["kernel"] == pytest.approx(rate / 4, rel=0.01)
    assert moved["decoder"]["layers"]["feed_forward_norm"]["scale"] == pytest.approx(rate, rel=0.01)


def test_attention_is_scaled_by_the_width_of_a_head():
    """sqrt(base d_k) / d_k; a d_k that does not grow with the model is its own base."""
    wide = config(128, "mup").model
    assert wide.logits_factor * wide.key_width**-0.5 == pytest.approx(8**0.5 / 32)
    more_heads = dataclasses.replace(wide, num_heads=16, base_d_k=8)
    assert more_heads.logits_factor == 1
    # A stated d_k grows with the width as well; at the base width the model is the standard one.
    assert config(WIDTHS[0], "mup", d_k=32).model.logits_factor == 1
    assert config(4 * WIDTHS[0], "mup", d_k=32).model.logits_factor == 0.5


def test_parameters_that_are_not_trained():
    frozen = config(64, "mup")
    frozen = dataclasses.replace(frozen, train=dataclasses.replace(frozen.train, freeze=("*embedding*",)))
    model = families.FAMILIES[frozen.family].model(frozen, INFO)
    data = batch(np.random.default_rng(0))
    made = trainer.make(frozen, INFO, model)
    params = model.init(jax.random.key(0), data)["params"]
    state, _ = jax.jit(made.step)(made.begin(params), data)
    moved = jax.tree.map(lambda new, old: float(jnp.max(jnp.abs(new - old))), state.params, params)
    assert moved["target_embedding"]["table"] == 0
    assert moved["decoder"]["layers"]["feed_forward"]["inner"]["kernel"] == pytest.approx(0.02 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("optimizer", lambda c: dataclasses.replace(c, train=dataclasses.replace(c.train, optimizer="muon"))),
        ("scale", lambda c: _model(c, attention=dataclasses.replace(c.model.attention, scale="none"))),
        ("scale_width", lambda c: _model(c, attention=dataclasses.replace(c.model.attention, scale_width=16))),
        ("logits_mix/kernel of .*TalkingHeads", lambda c: _model(c, attention=TalkingHeads())),
        ("key/kernel of .*Latent", lambda c: _model(c, attention=Latent())),
        ("hidden/kernel of .*FIRE", lambda c: _model(c, positions=FIRE())),
        ("lora_rank", lambda c: _model(c, lora_rank=2)),
    ],
)
def test_parameters_without_a_mup_rule_are_refused(named, change):
    with pytest.raises(UserError, match=named):
        validate(change(config(64, "mup")))


def test_components_whose_kernels_grow_with_the_width():
    validate(_model(config(64, "mup"), attention=GatedOutput(), positions=Forgetting()))


def _model(of: Config, **changes) -> Config:
    return dataclasses.replace(of, model=dataclasses.replace(of.model, **changes))
