"""Counts held against the published ones, against the products in the traced program, and against XLA's own."""

import dataclasses
import math
import re
import typing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from transformer import families
from transformer.config import Activation, Config, Data, Facts, Model, Objective, Positions, Recurrent, Train
from transformer.data.vocabulary import Bytes
from transformer.errors import UserError
from transformer.models import accounting, accounts, losses
from transformer.models.layers import ACTIVATIONS
from transformer.models.transformer import EncoderDecoder
from transformer.settings import from_file, replace
from transformer.training import optimizer as optimizers
from transformer.training import step as steps


def joint(size):
    return Facts(size, size, size, size)


def tokens(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def make_batch(rows, source, target):
    """A packed batch's shapes."""
    names = {"source": source, "source_positions": source, "source_segments": source}
    names |= {"inputs": target, "positions": target, "segments": target, "targets": target}
    batch = {name: tokens(rows, length) for name, length in names.items()}
    return batch | {"weights": jax.ShapeDtypeStruct((rows, target), jnp.float32)}


def make_step(config, facts, batch):
    """The training step, its state's shapes, and the parameters' shapes. Deterministic: no rate of dropout is above 0."""
    network = EncoderDecoder(config.model, facts)
    params = jax.eval_shape(network.init, jax.random.key(0), batch)["params"]
    update = optimizers.make_optimizer(config.train)
    schedule = optimizers.make_schedule(config.train, config.model)
    step = steps.make_train_step(families.token_loss(network, config, facts), update, schedule, config.train)
    return step, jax.eval_shape(lambda p: steps.init_state(p, update, config.train), params), params


# Table 3 of Vaswani et al. 2017: what a row changes of the base model, and its column "params", in millions.
TABLE_3: list[tuple[dict[str, Any], int]] = [
    ({}, 65),
    ({"d_k": 16, "d_v": 64}, 58),
    ({"d_k": 32, "d_v": 64}, 60),
    ({"num_encoder_layers": 2, "num_decoder_layers": 2}, 36),
    ({"num_encoder_layers": 4, "num_decoder_layers": 4}, 50),
    ({"num_encoder_layers": 8, "num_decoder_layers": 8}, 80),
    ({"d_model": 256, "d_k": 32, "d_v": 32}, 28),
    ({"d_model": 1024, "d_k": 128, "d_v": 128}, 168),
    ({"d_ff": 1024}, 53),
    ({"d_ff": 4096}, 90),
]


@pytest.mark.parametrize(("changes", "millions"), TABLE_3, ids=lambda value: str(value))
def test_table_3_of_the_paper(changes, millions):
    account = accounts.encoder_decoder(Config(model=Model(**changes)), joint(41_000))
    assert abs(account.size / 1e6 - millions) <= 1


def test_the_big_model_of_the_paper():
    big = Model(d_model=1024, d_ff=4096, num_heads=16)
    account = accounts.encoder_decoder(Config(model=big), joint(37_000))
    assert abs(account.size / 1e6 - 213) <= 2


def test_parameters_are_grouped_by_module_with_all_layers_together():
    model = Model(num_encoder_layers=3, num_decoder_layers=2, d_model=16, d_ff=24, num_heads=4, d_k=5, d_v=7, tying="none")
    counts = accounts.encoder_decoder(Config(model=model), Facts(50, 60, 56, 64)).parameters
    assert counts["source_embedding"] == 56 * 16
    assert counts["target_embedding"] == counts["logits"] == 64 * 16
    assert counts["encoder/layers/self_attention/query"] == 3 * (16 + 1) * 4 * 5
    assert counts["decoder/layers/cross_attention/output"] == 2 * (4 * 7 + 1) * 16
    assert counts["encoder/layers/feed_forward/inner"] == 3 * (16 + 1) * 24
    assert counts["memory"] == 2 * (16 + 1) * 4 * (5 + 7)


def test_without_embeddings_leaves_out_the_tables_alone():
    account = accounts.encoder_decoder(Config(model=Model(d_model=64, tying="two_way")), Facts(50, 60, 56, 64))
    assert account.size - account.size_without_embeddings == (56 + 64) * 64


def products(jaxpr):
    """FLOPs of the matrix products in a traced program; what a scan repeats counts as often."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += products(inner) * equation.params.get("length", 1)
    return total


SMALL: dict[str, Any] = {"num_encoder_layers": 2, "num_decoder_layers": 3, "d_model": 16, "d_ff": 24, "num_heads": 4}
VARIANTS: list[dict[str, Any]] = [{"positions": name} for name in typing.get_args(Positions)]
VARIANTS += [{"activation": name} for name in typing.get_args(Activation)]
VARIANTS += [{"d_k": 6, "d_v": 3, "tying": "none", "qk_norm": True, "norm_order": "pre"}]
VARIANTS += [{"attention_keys": "queries", "d_k": 6}, {"attention_values": "inputs"}, {"attention_heads": "summed", "d_v": 3}]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda value: str(value))
def test_matrix_products_are_those_of_the_traced_model(changes):
    model, facts, batch = Model(**SMALL, **changes), Facts(50, 60, 56, 64), make_batch(2, 7, 5)
    network = EncoderDecoder(model, facts)
    variables = jax.eval_shape(network.init, jax.random.key(0), batch)
    traced = jax.make_jaxpr(network.apply)(variables, batch)
    work = accounts.encoder_decoder_work(model, facts, 7, 5)
    assert 2 * sum(part.matmul for part in work.values()) == products(traced.jaxpr)


def make_config(kind: str, family: str, **changes) -> Config:
    return Config(family=family, objective=Objective(kind=kind), model=Model(**SMALL, **changes), data=Data(row_length=7))


RECURRENT = [("gru", "none"), ("lstm", "bahdanau"), ("gru", "luong_dot"), ("lstm", "luong_concat"), ("gru", "luong_general")]
OTHERS = [
    make_config("causal_lm", "decoder_only", positions="t5"),
    make_config("masked_lm", "encoder_only", token_types=2),
    replace(make_config("masked_lm", "encoder_only"), "objective.next_sentence", True),
    make_config("classify", "encoder_only"),
    make_config("tag", "encoder_only", positions="shaw"),
    make_config("answer", "encoder_only"),
    *(make_config("translate", "recurrent", recurrent=Recurrent(cell=c, attention=a)) for c, a in RECURRENT),
]


@pytest.mark.parametrize("config", OTHERS, ids=lambda c: f"{c.objective.kind} {c.model.recurrent.attention}")
def test_matrix_products_of_other_families(config):
    facts, family = Facts(50, 60, 56, 64, labels=("a", "b", "c")), families.FAMILIES[config.family]
    network, batch = family.model(config, facts), make_batch(2, 7, 7)
    batch |= {"token_types": batch["source"]}
    traced = jax.make_jaxpr(network.apply)(jax.eval_shape(network.init, jax.random.key(0), batch), batch)
    counted = sum(part.matmul for part in family.account(config, facts, ()).row.values())
    assert 2 * counted == products(traced.jaxpr)


PUBLISHED = {
    "bert_base": 109.5e6,
    "bert_large": 335e6,
    "gpt2_small": 124e6,
    "gpt2_medium": 355e6,
    "gpt2_large": 774e6,
    "gpt2_xl": 1.56e9,
    "t5_small": 60.5e6,
    "t5_base": 223e6,
    "t5_large": 738e6,
    "t5_3b": 2.85e9,
    "t5_11b": 11.3e9,
    "bart_base": 139e6,
    "bart_large": 406e6,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_counts(name):
    config = from_file(Path(__file__).parents[2] / "experiments" / "published" / f"{name}.py", Config)
    account = families.FAMILIES[config.family].account(config, accounts.assumed_facts(config), ())
    body = sum(n for module, n in account.parameters.items() if not module.startswith(("masked_lm", "classifier")))
    assert body == pytest.approx(PUBLISHED[name], rel=0.01)


def test_training_has_three_times_the_forward_products():
    config = Config(model=Model(**SMALL, dropout_rate=0.0))
    batch = make_batch(2, 7, 5)
    step, state, _ = make_step(config, joint(50), batch)
    work = accounts.encoder_decoder_work(config.model, joint(50), 7, 5)
    assert 2 * 3 * sum(part.matmul for part in work.values()) == products(jax.make_jaxpr(step)(state, batch).jaxpr)


def xla_flops(function, *arguments):
    """XLA's own count, on the CPU, where no product hides in a library's call. Code is not optimised: it is not run."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        options = {"xla_backend_optimization_level": "0"}
        if jax.__version_info__ < (0, 11):  # else, without what conftest.py turns off, XLA makes a loop of a scatter
            options["xla_cpu_use_fusion_emitters"] = "True"
        compiled = jax.jit(function).lower(*arguments).compile(options)
    text, analysis = compiled.as_text(), compiled.cost_analysis()
    assert text and analysis
    assert " while(" not in text and "custom-call" not in text  # their insides are not counted
    return analysis["flops"]


PAPER = Model(
    num_encoder_layers=2, num_decoder_layers=1, d_model=64, d_ff=256, num_heads=4, dropout_rate=0.0, attention_backend="plain"
)
MODERN = Model(
    num_encoder_layers=1,
    num_decoder_layers=2,
    d_model=128,
    d_ff=384,
    num_heads=8,
    d_v=24,
    positions="rotary",
    norm_order="pre",
    norm_kind="rms",
    qk_norm=True,
    activation="geglu",
    tying="none",
    dropout_rate=0.0,
    attention_backend="plain",
)
# Model, training, vocabulary, then rows of source and target tokens.
SHAPES = {
    "d_model 64": (PAPER, Train(), joint(500), (4, 16, 24)),
    "d_model 128": (MODERN, Train(optimizer="adamw", clip_norm=1.0, ema_decay=0.999), Facts(700, 600, 704, 640), (6, 40, 32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_flops_are_those_that_xla_counts(name):
    model, train, facts, (rows, source, target) = SHAPES[name]
    # A scan unrolled to the end is no loop.
    config = Config(model=dataclasses.replace(model, unroll=2), train=dataclasses.replace(train, batch_tokens=rows * target))
    batch = make_batch(rows, source, target)
    step, state, params = make_step(config, facts, batch)
    network = EncoderDecoder(config.model, facts)
    account = accounts.encoder_decoder(config, facts, (source, target))
    matmul = rows * sum(part.matmul for part in account.row.values())

    forward = xla_flops(network.apply, {"params": params}, batch)
    counted = account.forward_flops * rows * target
    assert counted == pytest.approx(forward, rel=0.05)
    # The rest is so small a share here that its own count could be wrong by half and pass.
    assert counted - matmul == pytest.approx(forward - matmul, rel=0.25)

    training = xla_flops(step, state, batch)
    counted = account.training_flops * rows * target
    assert counted == pytest.approx(training, rel=0.05)
    assert counted - 3 * matmul == pytest.approx(training - 3 * matmul, rel=0.25)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_losses_cost_what_xla_counts(label_smoothing):
    def loss(logits_BxTxN, targets_BxT, weights_BxT):
        sums = losses.cross_entropy(logits_BxTxN, targets_BxT, weights_BxT, label_smoothing, 1000)
        return sums["loss_sum"], sums

    batch = make_batch(3, 16, 16)
    logits = jax.ShapeDtypeStruct((3, 16, 1000), jnp.float32)
    counted = xla_flops(jax.grad(loss, has_aux=True), logits, batch["targets"], batch["weights"])
    assert accounting.loss_flops(Train(label_smoothing=label_smoothing), 3 * 16, 1000) == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("name", typing.get_args(Activation))
def test_activations_cost_what_xla_counts(name):
    function, gated = ACTIVATIONS[name]
    counted = accounting.ACTIVATION[name] + accounting.ERFC.get(name, 0) - gated
    assert counted * 64 * 256 == xla_flops(function, jax.ShapeDtypeStruct((64, 256), jnp.float32))


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor"])
def test_updates_cost_what_xla_counts(name, clip_norm):
    train = Train(optimizer=name, clip_norm=clip_norm, weight_decay=0.1 * (name == "adamw"))
    rule = optimizers.make_optimizer(train)
    params = {"kernel": jax.ShapeDtypeStruct((2, 256, 384), jnp.float32), "bias": jax.ShapeDtypeStruct((384,), jnp.float32)}

    def update(params, state, gradients, weight):
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, state = rule.update(gradients, state, params)
        return jax.tree.map(lambda p, u: p - 0.1 * u, params, updates), state, optax.tree.norm(gradients)

    counted = xla_flops(update, params, jax.eval_shape(rule.init, params), params, jax.ShapeDtypeStruct((), jnp.float32))
    assert accounting.update_flops(train, 2 * 256 * 384 + 384) == pytest.approx(counted, rel=0.2)


@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor"])
def test_bytes_are_those_of_the_training_state(name):
    config = Config(model=Model(d_model=128, d_ff=256), train=Train(optimizer=name, ema_decay=0.9))
    batch = make_batch(1, 8, 8)
    _, state, params = make_step(config, joint(300), batch)

    def size(tree):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.size > 1)  # no counters

    counted = accounts.encoder_decoder(config, joint(300)).bytes
    assert list(counted.values()) == [size(params), size(params), size(state.optimizer_state), size(state.average)]


def test_describe_makes_no_array_and_adds_up():
    model = Model(num_encoder_layers=100, num_decoder_layers=100, d_model=16384, d_ff=65536, num_heads=128)  # terabytes
    text = accounts.table(accounts.encoder_decoder(Config(model=model), joint(41_000)))
    counts = re.findall(r"^  (encoder/\S+|decoder/\S+|memory|target_embedding|total) +([\d,]+)(?: .* M)?$", text, re.MULTILINE)
    *parts, total = [int(count.replace(",", "")) for _, count in counts]
    assert total == sum(parts) > 10**11


def test_total_training_flops_are_updates_times_tokens_times_flops_per_token():
    config = Config(model=Model(**SMALL), train=Train(steps=7, batch_tokens=1000))
    account = accounts.encoder_decoder(config, joint(50), (10, 20))
    rows = 7 * 1000 / 20
    work = rows * (sum(part.training for part in account.row.values()) + account.loss) + 7 * account.update
    assert account.total_flops == pytest.approx(work)
    assert f"{account.total_flops:.3g} FLOP" in accounts.table(account)


def test_assumed_facts_are_as_large_as_the_settings_allow():
    config = Config()
    assert accounts.assumed_facts(config).target_rows == config.data.vocabulary_size
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, vocabulary="bytes"))
    assert accounts.assumed_facts(config).source_size == Bytes().size


def test_positions_whose_work_is_not_known_do_not_count_as_none():
    other: Any = "another"
    with pytest.raises(UserError, match="config.model.positions another"):
        accounts.encoder_decoder(Config(model=Model(**SMALL, positions=other)), joint(50))
