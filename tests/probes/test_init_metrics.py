"""Metrics at initialization: a model with one layer against NumPy, deeper ones from weights and gradients by hand."""

import functools
import math

import jax
import numpy as np
import pytest
import small

from transformer import effects, families, settings
from transformer.config import Config
from transformer.errors import UserError
from transformer.probes import init_metrics
from transformer.validation import validate

ALL = ("logit_variance", "attention_entropy", "jacobian_norm", "query_gradient", "gradient_norm")
FAMILIES = {
    "encoder_decoder": {},
    "encoder_only": {"family": "encoder_only", "objective__kind": "masked_lm"},
    "decoder_only": {"family": "decoder_only", "objective__kind": "causal_lm", "model__tying": "two_way"},
}
DEEP = {"model__num_encoder_layers": 2, "model__num_decoder_layers": 3, "train__init_metrics": ALL}


def batch(family: str, rows: int = 8) -> dict[str, np.ndarray]:
    made = small.batch(5, rows)
    if family == "encoder_only":
        targets = {"targets": made["source"], "weights": (made["source_segments"] > 0).astype(np.float32)}
        return {name: value for name, value in made.items() if name.startswith("source")} | targets
    return made


def parts(config: Config):
    """The model, its loss, and drawn parameters."""
    data_info = small.DATA_INFO if config.objective.kind != "masked_lm" else settings.replace(small.DATA_INFO, "mask", 3)
    model, params = small.untrained(config, data_info)
    return model, families.task_of(config).loss(model, config, data_info), params


def measured(config: Config, rows: int = 8) -> dict[str, float]:
    model, loss, params = parts(config)
    found = jax.jit(init_metrics.make_init_step(loss, model, config))(params, batch(config.family, rows))
    return {name: float(value) for name, value in found.items()}


@functools.cache
def deep(family: str) -> dict[str, float]:
    return measured(small.config(**FAMILIES[family], **DEEP))


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@pytest.mark.parametrize("scale", ["none", "1/sqrt(d_k)"])
def test_one_layer_matches_numpy(scale):
    """An encoder without positions: its queries and keys are products of embeddings, times sqrt(d_model)."""
    changes = {"model__positions": "none", "model__attention__scale": scale, "model__d_k": 3, "train__init_metrics": ALL[:3]}
    config = small.config(**FAMILIES["encoder_only"], **changes)
    _, _, params = parts(config)
    given, layer = batch("encoder_only"), params["encoder"]["layers"]["self_attention"]
    x = params["source_embedding"]["table"].astype(np.float64)[given["source"]] * math.sqrt(8)
    query, key = (np.einsum("bsd,dhk->bshk", x, layer[n]["kernel"][0]) + layer[n]["bias"][0] for n in ("query", "key"))
    segments, found = given["source_segments"], []
    for b, t, h in np.ndindex(*query.shape[:3]):
        seen = [s for s in range(x.shape[1]) if segments[b, s] == segments[b, t] > 0]
        if len(seen) < 2:
            continue
        logits = np.array([query[b, t, h] @ key[b, s, h] for s in seen]) * (1 if scale == "none" else 3**-0.5)
        p = softmax(logits)
        jacobian = np.linalg.norm(np.diag(p) - np.outer(p, p))
        found.append((logits.var(), -np.sum(p * np.log(p)) / math.log(len(seen)), jacobian))
    wanted = dict(zip(ALL, np.mean(found, axis=0), strict=False))
    assert len(found) > 20
    of_layer = {f"init/{name}{at}": v for name, v in wanted.items() for at in ("", "@encoder/self/1", "@encoder/self/last")}
    assert measured(config) == pytest.approx(of_layer, rel=1e-4)


@pytest.mark.parametrize("family", small.some(FAMILIES, "encoder_decoder"))
def test_reported_metrics_are_those_of_names(family):
    config = small.config(**FAMILIES[family], **DEEP)
    found = deep(family)
    assert set(found) == set(init_metrics.names(config)) and np.isfinite(list(found.values())).all()
    kinds = {name.partition("@")[2].rpartition("/")[0] for name in found} - {""}
    attention = {"encoder_only": {"encoder/self"}, "decoder_only": {"decoder/self"}}
    attention |= {"encoder_decoder": {"encoder/self", "decoder/self", "decoder/cross"}}
    assert kinds == attention[family] | {place.split("/")[0] for place in attention[family]}
    asked = settings.replace(config, "train.init_metrics", ("gradient_norm",))
    assert set(measured(asked)) == set(init_metrics.names(asked)) == {name for name in found if "/gradient_norm" in name}


@pytest.mark.parametrize("family", small.some(FAMILIES, "encoder_decoder"))
def test_each_attention_is_measured_by_its_own_weights(family):
    """From the weights observed in inference: ln p differs from the logits by a constant for all keys."""
    model, _, params = parts(small.config(**FAMILIES[family], **DEEP))
    run = functools.partial(model.apply, deterministic=True, method="states", mutable=["intermediates"])
    _, seen = jax.jit(run)({"params": params}, batch(family))
    means = {}
    for stack, layers in seen["intermediates"].items():
        for name, sown in layers["layers"].items():
            for number, weights in enumerate(np.asarray(sown["weights"][0], np.float64), 1):
                rows = [row[row > 0] for row in weights.reshape(-1, weights.shape[-1]) if np.sum(row > 0) > 1]
                found = [(np.log(p).var(), -np.sum(p * np.log(p)) / math.log(len(p))) for p in rows]
                found = [(*two, np.linalg.norm(np.diag(p) - np.outer(p, p))) for two, p in zip(found, rows, strict=True)]
                means[f"{stack}/{name.removesuffix('_attention')}/{number}"] = np.mean(found, axis=0)
    for index, metric in enumerate(ALL[:3]):
        wanted = {f"init/{metric}@{place}": values[index] for place, values in means.items()}
        wanted[f"init/{metric}"] = np.mean([values[index] for values in means.values()])
        found = {name: value for name, value in deep(family).items() if f"/{metric}" in name and "last" not in name}
        assert found == pytest.approx(wanted, rel=2e-3), metric
        assert len({f"{value:.4g}" for value in wanted.values()}) == len(wanted)  # no two are alike


@pytest.mark.parametrize("family", small.some(FAMILIES, "encoder_decoder"))
def test_gradients_are_those_of_the_mean_loss(family):
    _, loss, params = parts(small.config(**FAMILIES[family], **DEEP))
    given = batch(family)
    gradients = jax.jit(jax.grad(lambda p: loss(p, given, None)["loss_sum"] / given["weights"].sum()))(params)

    def norm(tree):
        return math.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)))

    whole, queries, found = norm(gradients), [], deep(family)
    wanted = {"init/gradient_norm": whole}
    for stack in ("encoder", "decoder"):
        for number in range({"encoder": 2, "decoder": 3}[stack] if stack in gradients else 0):
            own = {"layer": gradients[stack]["layers"]}
            if stack == "decoder" and "memory" in gradients:
                own["memory"] = gradients["memory"]
            own = jax.tree.map(lambda leaf, n=number: leaf[n], own)
            wanted[f"init/gradient_norm@{stack}/{number + 1}"] = norm(own)
            for kind in ("self", "cross"):
                if (module := own["layer"].get(f"{kind}_attention")) is not None:
                    queries.append(norm(module["query"]["kernel"]))
                    wanted[f"init/query_gradient@{stack}/{kind}/{number + 1}"] = queries[-1] / whole
    wanted["init/query_gradient"] = norm(queries) / whole
    kept = {name: value for name, value in found.items() if "gradient" in name and "last" not in name}
    assert kept == pytest.approx(wanted, rel=1e-4)
    lasts = {name.rpartition("/")[0]: value for name, value in found.items() if name.endswith("last")}
    depth = {"encoder": 2, "decoder": 3}
    assert lasts == {place: found[f"{place}/{depth[place.partition('@')[2].split('/')[0]]}"] for place in lasts}


def test_micro_batches_and_dropout_change_nothing():
    one = FAMILIES["encoder_only"] | {"train__init_metrics": ("logit_variance", "gradient_norm")}
    changed = {"train__accumulate": 2, "model__dropout_rate": 0.5, "model__attention__dropout_rate": 0.5}
    assert measured(small.config(**one, **changed)) == pytest.approx(measured(small.config(**one)), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "metrics", "named"),
    [
        ({"family": "recurrent", "data__batching": "bucketed"}, (*ALL[:2], "operations"), "logit_variance,attention_entropy"),
        (FAMILIES["encoder_only"], ("operations", "gradient_distance"), "gradient_distance"),
    ],
)
def test_metrics_that_a_family_lacks_are_refused(changes, metrics, named):
    wrong = effects.without_idle(small.config(**changes, train__init_metrics=metrics))
    with pytest.raises(UserError) as error:
        validate(wrong)
    assert f"config.train.init_metrics {named}" in str(error.value) and "\n" not in str(error.value)
    validate(settings.replace(wrong, "train.init_metrics", ("operations",)))


FED = {
    "encoder_decoder": {"data__batching": "packed"},
    "recurrent": {"family": "recurrent", "data__batching": "bucketed"},
    "decoder_only": {"family": "decoder_only", "objective__kind": "causal_lm"},
}


@pytest.mark.parametrize(
    "family", ["decoder_only", *(pytest.param(n, marks=pytest.mark.slow) for n in FED if n != "decoder_only")]
)
def test_gradient_distance_matches_gradients_of_the_embedding_table(family):
    """No token occurs twice in a row, so each row of the table is one position. Rows have different ends; one row has two
    packed texts."""
    config = small.config(**FED[family], model__tying="none", train__init_metrics=("gradient_distance", "sequential_products"))
    model, loss, params = parts(config)
    side, length, ends = ("inputs" if family == "decoder_only" else "source"), 9, (9, 6, 7)
    draw = np.random.default_rng(2)
    tokens = np.stack([draw.permutation(np.arange(4, 4 + length)) for _ in ends]).astype(np.int32)
    segments = np.stack([np.where(np.arange(length) < end, 1, 0) for end in ends]).astype(np.int32)
    alone, packed = family == "decoder_only", family != "recurrent"
    if packed:
        segments[0, 4:] = 2  # of the two texts, the first target belongs to one, the last to the other
    given = {"source": tokens, "source_segments": segments, "inputs": tokens, "segments": segments, "targets": tokens}
    given["weights"] = (segments > 0).astype(np.float32)
    found = jax.jit(init_metrics.make_init_step(loss, model, config))(params, given)
    norms: dict[int, list[float]] = {}
    table = "target_embedding" if side == "inputs" else "source_embedding"
    differentiate = jax.jit(jax.grad(lambda p, b: loss(p, b, None)["loss_sum"]))
    for row, end in enumerate(ends):
        one = {name: value[row : row + 1] for name, value in given.items()}
        weights = np.zeros((1, length), np.float32)
        begins, end = ((4, end) if alone else (0, 4)) if row == 0 and packed else (0, end)
        weights[0, end - 1 if alone else begins] = 1
        gradient = np.asarray(differentiate(params, one | {"weights": weights})[table]["table"])
        for place in range(begins, end):
            norm = math.sqrt(np.sum(np.square(gradient[tokens[row, place]], dtype=np.float64)))
            norms.setdefault(end - 1 - place, []).append(norm)
    means = {distance: np.mean(values) for distance, values in norms.items()}
    for distance in (2, 4, 8):
        wanted = means[distance] / means[1] if distance in means else math.nan
        assert float(found[f"init/gradient_distance@{distance}"]) == pytest.approx(wanted, rel=1e-3, nan_ok=True), distance
    assert set(found) == set(init_metrics.names(config))
