"""The table of families is consistent, and its losses are those of the plain definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer import families
from transformer.cli import flags
from transformer.data.tokenizers.vocabulary import Bytes
from transformer.errors import UserError
from transformer.models.losses import cross_entropy

PAIRS = [(family, kind) for kind, row in families.TASKS.items() if "train" in row.modes for family in row.objectives]


@pytest.mark.parametrize(("family", "kind"), PAIRS)
@pytest.mark.parametrize("next_sentence", [False, True])
def test_a_row_fits_together(family, kind, next_sentence):
    """The modes exist, the model reads the features that the objective makes, and the loss gives the sums that a
    report needs."""
    config, row = (
        small.config(family=family, objective__kind=kind, objective__next_sentence=next_sentence),
        families.TASKS[kind],
    )
    assert families.task_of(config) is row and set(row.modes) <= set(flags.MODES)
    data_info = dataclasses.replace(small.DATA_INFO, mask=16, sentinels=4, labels=("a", "b", "c"))
    objective = families.make_objective(config, data_info, dict.fromkeys(row.fields, Bytes()))
    model = families.FAMILIES[family].model(config, data_info)
    batch = {
        k: jnp.zeros((2, LENGTHS.get(sequence.name, 4)), d)
        for sequence in objective.sequences
        for k, d in sequence.features.items()
    }
    for sequence in objective.sequences:
        batch |= {
            name: jnp.ones((2, LENGTHS.get(sequence.name, 4)), jnp.int32) for name in (sequence.positions, sequence.segments)
        }
    params = jax.eval_shape(lambda: families.init_params(model, objective, 0))
    sums = jax.eval_shape(lambda params: row.loss(model, config, data_info)(params, batch, None), params)
    assert {"loss_sum", "nll_sum", "correct_sum", "weight_sum"} <= sums.keys()
    assert all(x.shape == () and x.dtype == jnp.float32 for x in sums.values())


LENGTHS = {"label": 1, "span": 1, "related": 1}  # of sides that have something else than a token's length


@pytest.mark.parametrize(
    ("family", "kind"), [("decoder_only", "denoise"), ("recurrent", "denoise"), ("encoder_only", "causal_lm")]
)
def test_what_does_not_fit_says_what_does(family, kind):
    with pytest.raises(UserError, match=f"config.objective.kind {kind} is for .*, not {family}, which has"):
        families.task_of(small.config(family=family, objective__kind=kind))


def test_a_mode_that_an_objective_lacks_says_which_it_has():
    config = small.config(family="encoder_only", objective__kind="classify")
    families.check_mode(config, "predict")
    with pytest.raises(
        UserError, match="--mode=translate: config.family encoder_only .* has the modes train, evaluate, predict"
    ):
        families.check_mode(config, "translate")


def loss_of(config, data_info):
    model = families.FAMILIES[config.family].model(config, data_info)
    return model, jax.jit(lambda params, batch: families.task_of(config).loss(model, config, data_info)(params, batch, None))


def labelled(kind: str, **settings):
    config = small.config(family="encoder_only", objective__kind=kind, train__label_smoothing=0.0, **settings)
    data_info = dataclasses.replace(small.DATA_INFO, mask=16, labels=("a", "b", "c"))
    objective = families.make_objective(config, data_info, {"text": Bytes()})
    model, loss = loss_of(config, data_info)
    draw = np.random.default_rng(2)
    segments = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    batch = {"source": draw.integers(3, 17, (2, 5)) * segments, "token_types": segments * 0, "source_segments": segments}
    return model, loss, small.filled(model, objective), {k: v.astype(np.int32) for k, v in batch.items()}


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_loss_of_labels_is_that_of_the_classifier():
    model, loss, params, batch = labelled("classify")
    batch |= {"label": np.array([[2], [0]]), "weights": np.array([[1.0], [0.5]], np.float32)}
    scores = log_softmax(small.apply(model, {"params": params}, batch)["scores"])
    sums = loss(params, batch)
    np.testing.assert_allclose(sums["nll_sum"], -scores[0, 2] - 0.5 * scores[1, 0], rtol=1e-5)
    assert sums["weight_sum"] == 1.5


def test_loss_of_a_span_is_the_mean_of_both_ends_over_the_tokens_there_are():
    model, loss, params, batch = labelled("answer")
    batch |= {"first": np.array([[1], [0]]), "last": np.array([[4], [2]]), "weights": np.ones((2, 1), np.float32)}
    scores = np.asarray(small.apply(model, {"params": params}, batch)["scores"], np.float64)
    whole, part = log_softmax(scores[0].T), log_softmax(scores[1, :3].T)  # the second row has three tokens
    sums = loss(params, batch)
    np.testing.assert_allclose(sums["nll_sum"], -(whole[0, 1] + whole[1, 4] + part[0, 0] + part[1, 2]) / 2, rtol=1e-5)
    assert sums["weight_sum"] == 2


def test_next_sentence_weighs_as_much_as_all_tokens():
    model, loss, params, batch = labelled("masked_lm", objective__next_sentence=True)
    weights = np.array([[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]], np.float32)
    batch |= {"targets": batch["source"], "weights": weights}
    batch |= {"related": np.array([[1], [0]]), "related_weights": np.ones((2, 1), np.float32)}
    outputs = small.apply(model, {"params": params}, batch)
    tokens, guessed = log_softmax(outputs["logits"]), log_softmax(outputs["scores"])
    token_nll = -(np.take_along_axis(tokens, batch["targets"][..., None], -1)[..., 0] * weights).sum()
    sums = loss(params, batch)
    np.testing.assert_allclose(sums["nll_sum"], token_nll, rtol=1e-5)
    np.testing.assert_allclose(sums["loss_sum"], token_nll - (guessed[0, 1] + guessed[1, 0]) * 3 / 2, rtol=1e-5)


def test_initialization_depends_on_the_seed():
    config = small.config()
    model = families.FAMILIES[config.family].model(config, small.DATA_INFO)
    objective = families.make_objective(config, small.DATA_INFO, {})
    one, same, other = (families.init_params(model, objective, seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernels = [(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True) if np.std(a) > 0]
    assert len(kernels) > 8 and all(np.any(a != b) for a, b in kernels)
    assert len({np.asarray(a).tobytes() for a, _ in kernels}) == len(kernels)  # and no two modules begin the same


@pytest.mark.parametrize("tying", small.some(["three_way", "none"], "none"))
def test_loss_and_gradient_are_those_of_whole_logits(tying):
    """Slices of tokens reach every parameter, those of the logits (a table that is shared, or a kernel and a bias) too."""
    config = small.config(model__tying=tying, model__logits_bias=True, train__loss_chunk=10, train__label_smoothing=0.2)
    model = families.FAMILIES[config.family].model(config, small.DATA_INFO)
    _, _, loss = small.trainer(config)
    params, batch = small.params(config), small.batch(1, 5)

    def plain(params, batch, key):
        logits = model.apply({"params": params}, batch)
        return cross_entropy(logits, batch["targets"], batch["weights"], 0.2, small.DATA_INFO.target_size)

    def gradient(loss):
        return jax.jit(
            jax.grad(lambda params: (lambda sums: (sums["loss_sum"], sums))(loss(params, batch, None)), has_aux=True)
        )

    (found, sums), (wanted, plain_sums) = gradient(loss)(params), gradient(plain)(params)
    assert sums["weight_sum"] == batch["weights"].sum() > 0
    for name, value in plain_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest), found, wanted)


def test_dropout_is_on_with_a_key_alone():
    state, _, loss = small.trainer(small.config(model__dropout_rate=0.3))
    params, batch, key = state.params, small.batch(1, 4), jax.random.key(0)
    loss = jax.jit(loss)
    without, again = (float(loss(params, batch, None)["loss_sum"]) for _ in range(2))
    with_key, same, other = (float(loss(params, batch, k)["loss_sum"]) for k in (key, key, jax.random.fold_in(key, 1)))
    assert without == again and with_key == same and len({without, with_key, other}) == 3
