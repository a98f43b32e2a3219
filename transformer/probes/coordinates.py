"""The size of a model's activations, for coordinate checks (Yang et al. 2022, appendix D.1).

With muP, the mean absolute value of each activation does not depend on the width, neither at initialization nor after some
updates. In the standard parametrization it grows with the width after the first updates.

Names are those of `names`: `coordinates@decoder/2` is the mean absolute value of the residual stream after layer 2,
`coordinates@decoder/self/2` that of the logits of its self-attention over the keys that are seen, `coordinates@logits` that
of the logits. Layer 1 is the one next to the inputs, and `last` is another name of the one next to the outputs. Padding is
excluded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from transformer import families
from transformer.config import Config
from transformer.models.stack import layers_in_order
from transformer.probes.inside import is_layer, residual_stream
from transformer.probes.sites import at_attention, visible

Array = jax.Array
LOGITS = "coordinates@logits"


def names(config: Config) -> list[str]:
    """The names of the metrics."""
    result = []
    for site in _sites(config):
        result += [f"coordinates@{site}/{layer}" for layer in (*range(1, _depth(config, site) + 1), "last")]
    return [*result, LOGITS]


def _sites(config: Config) -> list[str]:
    attention = families.FAMILIES[config.family].attention
    return [*dict.fromkeys(site.split("/")[0] for site in attention), *attention]


def _depth(config: Config, site: str) -> int:
    return config.model.depth(site.split("/")[0])


def make_step(model: Any, config: Config) -> Callable[..., dict[str, Array]]:
    """`step(params, batch, axis_name=None) -> metrics`, deterministic, except those of `last`."""

    def step(params: Any, batch: Mapping[str, Array], axis_name: str | None = None) -> dict[str, Array]:
        def outputs(module: Any) -> tuple[Array, Array]:
            states = module.states(batch, True)
            return states, module.logits(states)

        with at_attention(_sow_logits):
            (states, logits), sown = model.apply(
                {"params": params}, method=outputs, capture_intermediates=is_layer, mutable=["intermediates"]
            )
        kept, sums = sown["intermediates"], {}
        for site in _sites(config):
            of_stack, _, role = site.partition("/")
            layers = layers_in_order(kept[of_stack], len(config.model.layers_of_period(of_stack)), _depth(config, site))
            for number, layer in enumerate(layers, 1):
                if role:
                    sums[f"coordinates@{site}/{number}"] = layer[f"{role}_attention"]["logits"][0]
                else:
                    sums[f"coordinates@{site}/{number}"] = _sizes(
                        residual_stream(config.model, layer), _tokens(batch, of_stack)
                    )
        stack, side = ("decoder", "target") if "inputs" in batch else ("encoder", "source")
        entries = getattr(model.data_info, f"{side}_size")  # rows of the table that are not in the vocabulary are masked
        sums[LOGITS] = _sizes(logits[..., :entries], _tokens(batch, stack))
        if axis_name is not None:
            sums = jax.lax.psum(sums, axis_name)
        return {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}

    return step


def complete(config: Config, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of `step` and those of `last`, in the order of `names`."""
    last = {f"coordinates@{site}/last": metrics[f"coordinates@{site}/{_depth(config, site)}"] for site in _sites(config)}
    return {name: {**metrics, **last}[name] for name in names(config)}


def _tokens(batch: Mapping[str, Array], stack: str) -> Array:
    """False for padding, BxT."""
    tokens, segments = ("source", "source_segments") if stack == "encoder" else ("inputs", "segments")
    return batch[segments] > 0 if segments in batch else jnp.ones(batch[tokens].shape, bool)


def _sizes(values_BxTxN: Array, tokens_BxT: Array) -> tuple[Array, Array]:
    there = jnp.broadcast_to(tokens_BxT[..., None], values_BxTxN.shape)
    return jnp.sum(jnp.abs(values_BxTxN.astype(jnp.float32)), where=there), jnp.sum(there, dtype=jnp.float32)


def _sow_logits(layer: Any, heads: Array, site: Any) -> Array:
    logits = site.logits()
    seen = visible(site, logits)
    sums = jnp.sum(jnp.abs(logits.astype(jnp.float32)), where=seen), jnp.sum(seen, dtype=jnp.float32)
    layer.sow("intermediates", "logits", sums)
    return heads
