"""Metrics of a model before its first update, on the batch of that update (`config.train.init_metrics`).

A metric of the whole model is named `init/NAME`, a metric of a layer `init/NAME@SITE/LAYER`. Layer 1 is the one next to the
inputs, and `last` is another name of the one next to the outputs, whatever the depth.

logit_variance, attention_entropy, jacobian_norm: means over queries and heads of what softmax.py defines; SITE is
    a stack and a kind of its attention, `decoder/cross`. Of the model: the mean over all layers of all sites.
query_gradient: ||dL / dW_q|| / ||dL / dtheta||, L the mean loss, theta all parameters: which share of the gradient the kernels
    of the queries have, 0 to 1. SITE as above. Of the model: of all W_q together, the root of the sum of squares.
gradient_norm: ||dL / dtheta_layer||. SITE is a stack; a decoder's layer has its keys and values of the source too. Of the
    model: ||dL / dtheta||, as `train/gradient_norm` is, but for dropout.

Others are of the whole model alone:

sequential_products: matrix products one after another in dL / dtheta, forward and backward (models/program.py).
operations: 2 m n k of all products in it, over the target slots of the batch, padding included.
gradient_distance: reported as `init/gradient_distance@D`, D = 2, 4, 8, ..: the gradient of the first output token (of a
    decoder alone: the last) with respect to the token D before the end of what was read, over that to the token 1 before.
gradient_seconds: of dL / dtheta on this machine, the median of `TIMED` calls; it says nothing of other machines.

There is no dropout here, and a decoder is masked as it is where it is scored. Letters: L layers.
"""

import statistics
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from transformer import families
from transformer.config import Config, LayerMetric, Model, SoftmaxMetric
from transformer.models import program
from transformer.models.losses import Batch, Loss, Params, over_parts
from transformer.models.stack import layers_in_order
from transformer.probes import gradient_distance
from transformer.probes.sites import at_attention, visible
from transformer.probes.softmax import softmax_sums

Array = jax.Array

OF_SOFTMAX = typing.get_args(SoftmaxMetric)
OF_LAYERS = typing.get_args(LayerMetric)
LAST = "last"
TIMED = 5


def sites(config: Config, metric: str) -> Sequence[str]:
    """The sites in each layer at which a metric is measured."""
    attention = families.FAMILIES[config.family].attention
    return list(dict.fromkeys(site.split("/")[0] for site in attention)) if metric == "gradient_norm" else attention


def names(config: Config) -> list[str]:
    """The names of the metrics that a run with these settings reports of its initial model."""
    result = []
    for metric in dict.fromkeys(config.train.init_metrics):
        if metric == "gradient_distance":
            result += [f"init/{metric}@{distance}" for distance in gradient_distance.distances(config) if distance > 1]
            continue
        result.append(f"init/{metric}")
        for site in sites(config, metric) if metric in OF_LAYERS else ():
            layers = (*range(1, config.model.depth(site.split("/")[0]) + 1), LAST)
            result += [f"init/{metric}@{site}/{layer}" for layer in layers]
    return result


def make_init_step(loss: Loss, model: Any, config: Config) -> Callable[..., dict[str, Array]]:
    """`init_step(params, batch, axis_name=None) -> metrics`, the scalars of `names`, except those that are timed."""
    asked = list(dict.fromkeys(config.train.init_metrics))
    of_layers = [metric for metric in asked if metric in OF_LAYERS]

    def init_step(params: Params, batch: Batch, axis_name: str | None = None) -> dict[str, Array]:
        def of_part(part: Batch, number: Array | None = None) -> Any:
            softmax, gradients, weight = {}, {}, {}
            if set(of_layers) & set(OF_SOFTMAX):
                with at_attention(_sow_measures):
                    _, sown = model.apply({"params": params}, part, True, method="states", mutable=["intermediates"])
                softmax = sown["intermediates"]
            if set(of_layers) - set(OF_SOFTMAX):
                gradients, weight = jax.grad(_summed, argnums=1, has_aux=True)(loss, params, part)
            far = gradient_distance.norms(loss, config, params, part) if "gradient_distance" in asked else {}
            return softmax, gradients, weight, far

        parts = config.train.accumulate
        sums = of_part(batch) if parts == 1 else over_parts(of_part, batch, parts)
        if axis_name is not None:
            sums = jax.lax.psum(sums, axis_name)
        softmax, gradients, weight, far = sums
        gradients = jax.tree.map(lambda g: g / jnp.maximum(weight["weight_sum"], 1.0), gradients)
        result = _of_program(loss, params, batch, asked)
        if far:
            result |= {
                f"init/gradient_distance@{distance}": value for distance, value in gradient_distance.relative(far).items()
            }
        for metric in of_layers:
            if metric in OF_SOFTMAX:
                by_site = {site: _mean(config.model, softmax, site, metric) for site in sites(config, metric)}
                whole = jnp.mean(jnp.concatenate(list(by_site.values())))
            else:
                squares = _query_squares if metric == "query_gradient" else _layer_squares
                found = {site: squares(config.model, gradients, site) for site in sites(config, metric)}
                norm = optax.tree.norm(gradients)
                unit = norm if metric == "query_gradient" else 1.0
                by_site = {site: jnp.sqrt(squares_L) / unit for site, squares_L in found.items()}
                of_all = jnp.sqrt(jnp.sum(jnp.concatenate(list(found.values())))) / unit
                whole = of_all if metric == "query_gradient" else norm
            result |= {f"init/{metric}": whole} | _by_layer(metric, by_site)
        return result

    return init_step


def seconds(compile: Callable[..., Any], loss: Loss, params: Params, batch: Batch) -> float:
    """`gradient_seconds` for placed parameters and batch. `compile`: Runtime.compile_eval."""

    def gradient_norm(params: Params, batch: Batch, axis_name: str | None = None) -> dict[str, Array]:
        gradients, _ = jax.grad(_summed, argnums=1, has_aux=True)(loss, params, batch)
        norm = optax.tree.norm(gradients)
        return {"norm": norm if axis_name is None else jax.lax.psum(norm, axis_name)}

    step, times = compile(gradient_norm), []
    for _turn in range(TIMED + 1):  # the first call includes compilation
        begun = time.perf_counter()
        jax.block_until_ready(step(params, batch))
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def _of_program(loss: Loss, params: Params, batch: Batch, asked: Sequence[str]) -> dict[str, Array]:
    """Metrics that are counted in the program of dL / dtheta, from shapes only."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, dict(batch)))
    gradient, result = jax.grad(lambda p, b: loss(p, b, None)["loss_sum"]), {}
    if "sequential_products" in asked:
        result["init/sequential_products"] = jnp.float32(program.sequential_products(gradient, *shapes))
    if "operations" in asked:
        result["init/operations"] = jnp.float32(program.total(gradient, *shapes).products / batch["weights"].size)
    return result


def _sow_measures(layer: Any, heads: Array, site: Any) -> Array:
    logits = site.logits()
    layer.sow("intermediates", "softmax", softmax_sums(logits, site.weights(), visible(site, logits)))
    return heads


def _summed(loss: Loss, params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
    sums = loss(params, batch, None)
    return sums["loss_sum"], {"weight_sum": sums["weight_sum"]}


def _mean(model: Model, softmax: Any, site: str, metric: str) -> Array:
    """The mean over queries and heads for each layer: L. NaN if no query sees two keys."""
    stack, kind = site.split("/")
    sums = [layer[f"{kind}_attention"]["softmax"][0] for layer in _layers(model, softmax, stack)]
    return jnp.stack([each[metric] / each["queries"] for each in sums])


def _query_squares(model: Model, gradients: Any, site: str) -> Array:
    stack, kind = site.split("/")
    kernels = [layer[f"{kind}_attention"]["query"]["kernel"] for layer in _layers(model, gradients, stack)]
    return jnp.stack([jnp.sum(jnp.square(kernel)) for kernel in kernels])


def _layer_squares(model: Model, gradients: Any, stack: str) -> Array:
    squares_L = jnp.stack([jnp.square(optax.tree.norm(layer)) for layer in _layers(model, gradients, stack)])
    memory, period = gradients.get("memory", {}) if stack == "decoder" else {}, len(model.layers_of_period("decoder"))
    for name, leaves in memory.items():  # for each kind of layer in the pattern, the axis of layers is first
        first = int(name.split("_")[0]) if period > 1 else 0
        for leaf in jax.tree.leaves(leaves):
            squares_L = squares_L.at[first::period].add(jnp.sum(jnp.square(leaf), axis=range(1, leaf.ndim)))
    return squares_L


def _layers(model: Model, tree: Any, stack: str) -> tuple[Any, ...]:
    return layers_in_order(tree[stack], len(model.layers_of_period(stack)), model.depth(stack))


def _by_layer(metric: str, by_site: Mapping[str, Array]) -> dict[str, Array]:
    result = {}
    for site, values_L in by_site.items():
        result |= {f"init/{metric}@{site}/{layer}": value for layer, value in enumerate(values_L, 1)}
        result[f"init/{metric}@{site}/{LAST}"] = values_L[-1]
    return result
