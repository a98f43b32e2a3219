"""Activations and gradients of a trained model for a batch: the states after each layer, and the gradients of its inputs.

Letters: L layers, B rows, S source tokens, T target tokens, D d_model.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.components.attention import MASKED
from transformer.config import Config, Model
from transformer.errors import UserError
from transformer.models.layers import Layer
from transformer.models.stack import layers_in_order
from transformer.probes.sites import added_to_embeddings, at_attention

Array = jax.Array
Batch = Mapping[str, np.ndarray]
SEGMENTS = {"source": "source_segments", "inputs": "segments"}  # by embedding: the array of segments, which are 0 for padding


def hidden_states(config: Config, model: nn.Module, params: object, batch: Batch) -> dict[str, np.ndarray]:
    """The residual stream after each layer, LxBxTxD by stack ("encoder", "decoder"), before a final norm.

    UserError if the model has no residual stream.
    """
    if config.family == "recurrent":
        raise UserError(f"hidden states: config.family {config.family} has no layers of attention")
    result = {}
    for stack, sown in _kept(model)(params, batch).get("intermediates", {}).items():
        period, depth = len(config.model.layers_of_period(stack)), config.model.depth(stack)
        layers = layers_in_order(sown, period, depth)
        result[stack] = np.stack([np.asarray(residual_stream(config.model, layer)) for layer in layers])
    return result


@functools.lru_cache(maxsize=64)  # equal models share their programs
def _kept(model: nn.Module) -> Callable[..., Any]:
    def kept(params: Any, batch: Any) -> Any:
        with at_attention(lambda layer, heads, site: heads):  # instead of keeping all weights
            return model.apply({"params": params}, batch, capture_intermediates=is_layer, mutable=["intermediates"])[1]

    return jax.jit(kept)


def is_layer(module: nn.Module, method: str) -> bool:
    """Selects the calls that Flax captures: those whose output has the residual stream after a layer."""
    return isinstance(module, Layer) and method == "__call__"


def residual_stream(config: Model, captured: Mapping[str, Any]) -> Array:
    """The residual stream after a layer, BxTxD, from what Flax captured of it: what the stack would return after this layer."""
    (carried, _cache), *_ = captured["__call__"]
    return config.residual.close(carried[0])


def input_gradients(config: Config, model: nn.Module, params: object, batch: Batch) -> dict[str, np.ndarray]:
    """d log p / dx for each embedded token x, by name: BxSxD for the source, BxTxD for the decoder's inputs.

    p is the probability of the decoder's tokens after the prefix or, without a decoder, of the model's predictions. UserError
    if the model predicts nothing.
    """
    if config.objective.kind == "embed":
        raise UserError("gradients: config.objective.kind embed: the model computes vectors and predicts nothing")
    zeros = {name: np.zeros((*batch[name].shape, config.model.d_model), np.float32) for name in SEGMENTS if name in batch}
    found = _gradients(model, config.objective.kind == "answer")(zeros, params, batch)
    return {name: np.asarray(each) for name, each in found.items()}


@functools.lru_cache(maxsize=64)
def _gradients(model: nn.Module, answers: bool) -> Callable[..., Any]:
    def log_probability(added: Mapping[str, Array], params: Any, batch: Mapping[str, Array]) -> Array:
        with added_to_embeddings(*(added[name] for name in SEGMENTS if name in added)):
            given = model.apply({"params": params}, batch)
        logits = given if not isinstance(given, Mapping) else given["scores" if "scores" in given else "logits"]
        logits = jnp.asarray(logits).astype(jnp.float32)
        if answers:  # BxSx2: where the answer begins and where it ends
            logits = jnp.where(batch["source_segments"][..., None] > 0, logits, MASKED)
            return jnp.sum(jnp.max(jax.nn.log_softmax(logits, axis=1), axis=1))
        log_probs = jax.nn.log_softmax(logits)
        if "inputs" not in batch:
            there = batch["source_segments"] > 0 if log_probs.ndim == 3 else 1
            return jnp.sum(jnp.max(log_probs, axis=-1) * there)
        counted_BxT = batch["segments"][:, 1:] > 0
        if "prefix" in batch:
            counted_BxT = counted_BxT & (batch["prefix"][:, 1:] == 0)
        own_BxT = jnp.take_along_axis(log_probs[:, :-1], batch["inputs"][:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(own_BxT * counted_BxT)

    return jax.jit(jax.grad(log_probability))
