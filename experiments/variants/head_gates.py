"""Heads with gates that training can close: "hard concrete" factors (Louizos et al. 2018), as used by Voita et al. (2019).

A gate is between 0 and 1. Training learns it: the expected number of open gates, times `penalty_per_head`, is added to the
loss. Gates are trained with `rate` times the learning rate: a gate has to move by about five units, and an update of Adam moves
it by at most about the learning rate, so a short run needs a rate of 50 or so. Supports every mask and position encoding.

Letters: B rows, T queries, H heads, V width of a head's values, D d_model.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from transformer.components.attention import Attention
from transformer.components.masks import Sizes
from transformer.components.parameters import Constant, Declared, Parameters
from transformer.settings import setting

Array = jax.Array

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1  # beta, gamma, zeta in Louizos et al. 2018
OPEN = 2.5  # initial log alpha: without noise the gate is 1, with noise it is open in 98 of 100 cases


def gate(log_alpha: Array, key: Array | None = None) -> Array:
    """Factors in fp32 with the shape of `log_alpha`: sampled or, without a key, the deterministic gates of evaluation."""
    if key is None:
        stretched = jax.nn.sigmoid(log_alpha)
    else:
        u = jax.random.uniform(key, log_alpha.shape, minval=jnp.finfo(jnp.float32).tiny)
        stretched = jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_alpha) / TEMPERATURE)
    return jnp.clip(stretched * (HIGH - LOW) + LOW, 0.0, 1.0)


def chance_open(log_alpha: Array) -> Array:
    """The probability that a sampled gate is not 0."""
    return jax.nn.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadGates(Attention):
    """The output of each head is multiplied by its gate, which is sampled in every update."""

    random: ClassVar[bool] = True
    place: Literal["all", "encoder/self", "decoder/self", "decoder/cross"] = setting("all", "which attention has gates")
    penalty_per_head: float = setting(0.01, "penalty of an open gate, in nats, added to the loss of every token", at_least=0)
    rate: float = setting(1.0, "factor on the learning rate of the gates", above=0)

    def parameters(self, sizes: Sizes) -> Declared:
        gated = self.place in ("all", f"{sizes.stack}/{sizes.role}")
        gates = {"gates": Constant((sizes.num_heads,), (), OPEN / self.rate)} if gated else {}
        return dict(super().parameters(sizes)) | gates

    def output(self, p: Parameters, heads_BxTxHxV: Array, x_BxTxD: Array, sizes: Sizes) -> Array:
        if "gates" in p:
            factor_H = gate(self.rate * p["gates"], p.get("random_key"))
            heads_BxTxHxV = heads_BxTxHxV * factor_H.astype(heads_BxTxHxV.dtype)[None, None, :, None]
        return super().output(p, heads_BxTxHxV, x_BxTxD, sizes)

    def penalty(self, p: Parameters, training: bool) -> tuple[Array, Mapping[str, Array]]:
        if "gates" not in p:
            return jnp.zeros(()), {}
        log_alpha_H = self.rate * p["gates"]
        opened = jnp.sum(chance_open(log_alpha_H) if training else gate(log_alpha_H) > 0, dtype=jnp.float32)
        return self.penalty_per_head * opened, {"open_heads": opened}
