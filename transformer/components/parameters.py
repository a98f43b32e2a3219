"""What components declare and are handed: parameters by name, and streams of one side of an attention."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

Array = jax.Array
Parameters = Mapping[str, Array]  # "module/leaf" -> array
Streams = dict[str, Array]  # arrays of one side of an attention, by name, with the token axis second


class Kernel(NamedTuple):
    """A parameter that the model's initializer fills: a matrix with `inputs` leading axes of inputs, flattened for it.

    `axes` are the names of the axes that a mesh may split (sharding.RULES). `divisor` divides what is drawn.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...] = ()
    inputs: int = 1
    divisor: float = 1.0


class Constant(NamedTuple):
    """A parameter that begins with the same value everywhere."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...] = ()
    value: float = 0.0


class Drawn(NamedTuple):
    """A parameter with an initializer of its own."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[..., Array]


Declared = Mapping[str, Kernel | Constant | Drawn]  # "module/leaf" -> what it is
