"""Residual connections as components: what a sublayer reads, and how its output is added to the residual stream.

Letters: B rows, T tokens, D d_model.
"""

import dataclasses
from typing import NamedTuple

import jax

from transformer.components.masks import Sizes
from transformer.components.parameters import Declared, Parameters
from transformer.registry import Component

Array = jax.Array


class Sublayer(NamedTuple):
    """One sublayer of a stack.

    `name`: self_attention, cross_attention or feed_forward. `number`: of sublayers of the stack below it. `count`: of
    sublayers of the stack. Both are int32 scalars, which are traced.
    """

    name: str
    number: Array
    count: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual(Component, name="sequential"):
    """x + f(x), where each sublayer f reads the output of the one below it (Vaswani et al. 2017, 3.1).

    Norms and dropout are not part of it: `config.model.norm_order` says where a norm stands, and dropout is applied to `y`
    before `write`. A stream may have axes between T and D, if `open` and `close` are replaced as well.
    """

    def parameters(self, sizes: Sizes) -> Declared:
        """Learned parameters of the connection of one sublayer, by name."""
        return {}

    def supports(self, norm_order: str, final_norm: bool) -> str | None:
        """Why it cannot be used with norms at these places, as one line that names the settings; None: it can."""
        return None

    def open(self, x_BxTxD: Array) -> Array:
        """The stream below the first layer, from embedded inputs."""
        return x_BxTxD

    def read(self, p: Parameters, stream: Array, start: Array, sublayer: Sublayer) -> Array:
        """What the sublayer reads, BxTxD, of the stream before it or of the stream at the start of its layer, `start`."""
        return stream

    def write(self, p: Parameters, stream: Array, y_BxTxD: Array, sublayer: Sublayer) -> Array:
        """The stream after the sublayer, from the stream before it and the sublayer's output."""
        return stream + y_BxTxD

    def close(self, stream: Array) -> Array:
        """The output BxTxD of a stack, before the final norm."""
        return stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelSublayers(Residual, name="parallel"):
    """All sublayers of a layer read the layer's input (GPT-NeoX; Wang and Komatsuzaki 2021)."""

    def supports(self, norm_order: str, final_norm: bool) -> str | None:
        if norm_order != "post":
            return None
        return (
            "config.model.residual parallel: with config.model.norm_order=post sublayers read each other's output; "
            "set it to pre, sandwich or output"
        )

    def read(self, p: Parameters, stream: Array, start: Array, sublayer: Sublayer) -> Array:
        return start
