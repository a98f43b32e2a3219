"""Penalties that attention adds to the loss, and the values that it reports, summed over the layers of each attention site.

The sites are "encoder/self", "decoder/self" and "decoder/cross". A reported value is named NAME@SITE.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import traverse_util

from transformer.components.attention import Attention
from transformer.components.masks import Role, Stack
from transformer.config import Model
from transformer.models.stack import layers_in_order

Array = jax.Array


def names(model: Model, sites: Iterable[str]) -> list[str]:
    """The names of the values that attention reports at these sites; empty if no attention has a penalty."""
    result = []
    for site in sites:
        stack, role = cast(tuple[Stack, Role], site.split("/"))
        for each in model.layers_of_period(stack):
            if type(each.attention).penalty is Attention.penalty:
                continue
            sizes = each.sizes(stack, role)
            declared = {**each.attention.parameters(sizes), **each.attention.key_parameters(sizes)}
            p = {name: jax.ShapeDtypeStruct(one.shape, jnp.float32) for name, one in declared.items()}
            found = jax.eval_shape(lambda p, attention=each.attention: dict(attention.penalty(p, False)[1]), p)
            result += [f"{name}@{site}" for name in found]
    return list(dict.fromkeys(result))


def sum_over_layers(model: Model, sites: Iterable[str], params: Any, training: bool) -> tuple[Array, dict[str, Array]]:
    """The sum of all penalties, and the reported values, by name."""
    total, reported = jnp.zeros(()), {}
    for site in sites:
        stack, role = site.split("/")
        types = model.layers_of_period(stack)
        for number, layer in enumerate(layers_in_order(params[stack], len(types), model.depth(stack))):
            attention = types[number % len(types)].attention
            if type(attention).penalty is not Attention.penalty:
                p: Any = traverse_util.flatten_dict(layer[f"{role}_attention"], sep="/")
                penalty, found = attention.penalty(p, training)
                total += penalty
                for name, value in found.items():
                    reported[f"{name}@{site}"] = reported.get(f"{name}@{site}", 0.0) + value
    return total, reported


def means(sums: Mapping[str, Any], weight: float) -> dict[str, float]:
    """The reported values as means, from the sums of a loss and their weight."""
    return {name.removesuffix("_sum"): float(value) / weight for name, value in sums.items() if "@" in name}
