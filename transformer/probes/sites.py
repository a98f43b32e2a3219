"""Reads or changes the heads of all attention layers of a model, without code for it in the model.

    with at_attention(function):
        model.apply(variables, batch)

Letters: B rows of a batch, T queries, H heads, V width of a head's values, L layers.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax

from transformer.models.attention import AttentionLayer, Site
from transformer.models.layers import Embedding

Array = jax.Array


def at_attention(function: Callable[[AttentionLayer, Array, Site], Array]) -> AbstractContextManager[Any]:
    """A context in which `function(layer, heads, site)` replaces the heads of each attention layer that is traced without
    cache.

    `heads` are BxTxHxV, before the output projection; `site` has the arguments of attention. The layer is bound, so `layer.sow`
    works.
    """

    def interceptor(call: Callable[..., Any], arguments: Any, named: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, AttentionLayer) and context.method_name == "heads":
            return function(layer, *arguments, **named)
        return call(*arguments, **named)

    return nn.intercept_methods(interceptor)


def visible(site: Site, logits_BxHxTxS: Array) -> Array:
    """True where a query sees a key, in the shape of the logits."""
    seen = site.pairs.seen()
    return jax.numpy.broadcast_to(jax.numpy.ones((1,) * 4, bool) if seen is None else seen, logits_BxHxTxS.shape)


def added_to_embeddings(*added: Array) -> AbstractContextManager[Any]:
    """A context in which these arrays are added to the outputs of a call's embeddings, in order; the source's comes first."""
    left = list(added)

    def interceptor(call: Callable[..., Any], arguments: Any, named: Any, context: Any) -> Any:
        result = call(*arguments, **named)
        if isinstance(context.module, Embedding) and context.method_name == "__call__" and left:
            return result + left.pop(0).astype(result.dtype)
        return result

    return nn.intercept_methods(interceptor)


def scaled_heads(factors: Mapping[str, Array]) -> AbstractContextManager[Any]:
    """A context in which heads are multiplied by factors by site ("decoder/cross"): LxH, or LxBxH if they differ by row."""

    def scale(layer: AttentionLayer, heads_BxTxHxV: Array, site: Site) -> Array:
        factors_of_layers = factors.get(f"{layer.stack}/{layer.role}")
        if factors_of_layers is None:
            return heads_BxTxHxV
        own = jax.numpy.asarray(factors_of_layers)[site.pairs.layer].astype(heads_BxTxHxV.dtype)
        return heads_BxTxHxV * own.reshape((-1, 1, own.shape[-1], 1))

    return at_attention(scale)
