"""Gates of heads that training can close: "hard concrete" factors (Louizos et al. 2018), as Voita et al. 2019, section 5, use
them.

A gate is 0, 1, or between; which, training learns: as a sum of its chance to be open, times `config.train.head_penalty`, is
added to the loss. L layers, H heads.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from transformer.config import Model

Array = jax.Array

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1  # beta, gamma, zeta (Louizos et al. 2018, section 4)
OPEN = 2.5  # log alpha at first: without noise the gate is 1, with noise it is open 98 times of 100
TOLD = "open_heads@"


def gate(log_alpha: Array, key: Array | None = None) -> Array:
    """Factors, fp32, of the shape of `log_alpha`: drawn (their equations 10 and 11), or without a key what stands for them
    (equation 13)."""
    if key is None:
        stretched = jax.nn.sigmoid(log_alpha)
    else:
        u = jax.random.uniform(key, log_alpha.shape, minval=jnp.finfo(jnp.float32).tiny)
        stretched = jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_alpha) / TEMPERATURE)
    return jnp.clip(stretched * (HIGH - LOW) + LOW, 0.0, 1.0)


def chance_open(log_alpha: Array) -> Array:
    """How likely a gate that is drawn is not 0 (equation 12)."""
    return jax.nn.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def has_gates(model: Model, place: str) -> bool:
    """Whether the heads of a kind of attention have gates; `place`: "encoder/self", "decoder/cross"."""
    return model.head_gates in ("all", place)


def open_heads(params: Any, places: Iterable[str], drawn: bool) -> dict[str, Array]:
    """By place, how many heads are open: the expected number, or, if gates are not `drawn`, those whose factor is not 0."""
    found = {}
    for place in places:
        stack, kind = place.split("/")
        log_alpha_LxH = params[stack][f"{kind}_gates"]
        opened_LxH = chance_open(log_alpha_LxH) if drawn else gate(log_alpha_LxH) > 0
        found[place] = jnp.sum(opened_LxH, dtype=jnp.float32)
    return found


def told(opened: Mapping[str, Any], weight: Any) -> dict[str, Any]:
    """`opened`, by place, among a loss's sums: times its weight, so that the mean over batches is `opened`."""
    return {f"{TOLD}{place}_sum": weight * count for place, count in opened.items()}


def means(sums: Mapping[str, Any], weight: float) -> dict[str, float]:
    """What `told` told, as "open_heads@encoder/self", of a loss's sums and their weight."""
    return {name.removesuffix("_sum"): float(value) / weight for name, value in sums.items() if name.startswith(TOLD)}
