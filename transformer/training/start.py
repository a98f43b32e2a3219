"""What is measured of a model before its first update, on that update's batch (`config.train.start_metrics`).

A metric is told of the whole model as `start/NAME`, and of each layer as `start/NAME@PLACE/LAYER`. LAYER is 1 for the one
next to the inputs, and `last` is one more name of the one next to the outputs, whatever the depth.

logit_variance, attention_entropy, jacobian_norm: means over queries and heads of what models/measures.py defines; PLACE is
    a stack and a kind of its attention, `decoder/cross`. Of the model: the mean over all layers of all places.
query_gradient: ||dL / dW_q|| / ||dL / dtheta||, L the mean loss, theta all parameters: which share of the gradient the kernels
    of the queries have, 0 to 1. PLACE as above. Of the model: of all W_q together, the root of the sum of squares.
gradient_norm: ||dL / dtheta_layer||. PLACE is a stack; a decoder's layer has its keys and values of the source too. Of the
    model: ||dL / dtheta||, as `train/gradient_norm` is, but for dropout.

There is no dropout here, and a decoder is masked as it is where it is scored. Letters: L layers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from transformer import families
from transformer.config import Config
from transformer.training.step import Batch, Loss, Params, over_parts

Array = jax.Array

OF_SOFTMAX = ("logit_variance", "attention_entropy", "jacobian_norm")
LAST = "last"


def places(config: Config, metric: str) -> Sequence[str]:
    """Where a metric is measured, in each layer."""
    attention = families.FAMILIES[config.family].attention
    return list(dict.fromkeys(place.split("/")[0] for place in attention)) if metric == "gradient_norm" else attention


def names(config: Config) -> list[str]:
    """What a run with these settings tells of its start."""
    result = []
    for metric in dict.fromkeys(config.train.start_metrics):
        result.append(f"start/{metric}")
        for place in places(config, metric):
            layers = (*range(1, config.model.depth(place.split("/")[0]) + 1), LAST)
            result += [f"start/{metric}@{place}/{layer}" for layer in layers]
    return result


def make_start_step(loss: Loss, model: Any, config: Config) -> Callable[..., dict[str, Array]]:
    """`start_step(params, batch, axis_name=None) -> metrics`, the scalars that `names` names."""
    asked = list(dict.fromkeys(config.train.start_metrics))

    def start_step(params: Params, batch: Batch, axis_name: str | None = None) -> dict[str, Array]:
        def of_part(part: Batch, number: Array | None = None) -> Any:
            softmax, gradients, weight = {}, {}, {}
            if set(asked) & set(OF_SOFTMAX):
                _, sown = model.apply({"params": params}, part, True, method="states", mutable=["measures"])
                softmax = sown["measures"]
            if set(asked) - set(OF_SOFTMAX):
                gradients, weight = jax.grad(_summed, argnums=1, has_aux=True)(loss, params, part)
            return softmax, gradients, weight

        parts = config.train.accumulate
        sums = of_part(batch) if parts == 1 else over_parts(of_part, batch, parts)
        if axis_name is not None:
            sums = jax.lax.psum(sums, axis_name)
        softmax, gradients, weight = sums
        gradients = jax.tree.map(lambda g: g / jnp.maximum(weight["weight_sum"], 1.0), gradients)
        result = {}
        for metric in asked:
            if metric in OF_SOFTMAX:
                by_place = {place: _mean(softmax, place, metric) for place in places(config, metric)}
                whole = jnp.mean(jnp.concatenate(list(by_place.values())))
            else:
                squares = _query_squares if metric == "query_gradient" else _layer_squares
                found = {place: squares(gradients, place) for place in places(config, metric)}
                norm = optax.tree.norm(gradients)
                unit = norm if metric == "query_gradient" else 1.0
                by_place = {place: jnp.sqrt(squares_L) / unit for place, squares_L in found.items()}
                of_all = jnp.sqrt(jnp.sum(jnp.concatenate(list(found.values())))) / unit
                whole = of_all if metric == "query_gradient" else norm
            result |= {f"start/{metric}": whole} | _by_layer(metric, by_place)
        return result

    return start_step


def _summed(loss: Loss, params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
    sums = loss(params, batch, None)
    return sums["loss_sum"], {"weight_sum": sums["weight_sum"]}


def _mean(softmax: Any, place: str, metric: str) -> Array:
    """By layer, over queries and heads: L. NaN where no query sees two keys."""
    stack, kind = place.split("/")
    (sums,) = softmax[stack]["layers"][f"{kind}_attention"]["softmax"]
    return sums[metric] / sums["queries"]


def _query_squares(gradients: Any, place: str) -> Array:
    stack, kind = place.split("/")
    return _squares(gradients[stack]["layers"][f"{kind}_attention"]["query"]["kernel"])


def _layer_squares(gradients: Any, stack: str) -> Array:
    memory = gradients.get("memory", {}) if stack == "decoder" else {}
    return sum(map(_squares, jax.tree.leaves((gradients[stack]["layers"], memory))), start=jnp.zeros(()))


def _squares(gradient: Array) -> Array:
    """Sums of squares by layer, whose axis is the first."""
    return jnp.sum(jnp.square(gradient), axis=range(1, gradient.ndim))


def _by_layer(metric: str, by_place: Mapping[str, Array]) -> dict[str, Array]:
    result = {}
    for place, values_L in by_place.items():
        result |= {f"start/{metric}@{place}/{layer}": value for layer, value in enumerate(values_L, 1)}
        result[f"start/{metric}@{place}/{LAST}"] = values_L[-1]
    return result
