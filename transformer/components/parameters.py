"""Types of the parameters that components declare and receive, and of the streams of queries or keys."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

Array = jax.Array
Parameters = Mapping[str, Array]  # "module/leaf" -> array
Streams = dict[str, Array]  # arrays of the queries or of the keys, by name, with the token axis second


class Kernel(NamedTuple):
    """A parameter that is drawn by the model's initializer, as a matrix: the first `inputs` axes are flattened to its rows.

    `axes` are the names of the axes that a mesh may split (sharding.RULES); an axis without a name, None, has the same size
    in a wider model. The initial values are divided by `divisor`.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...] = ()
    inputs: int = 1
    divisor: float = 1.0

    @property
    def grows(self) -> bool:
        """Whether the number of inputs is larger in a wider model."""
        return any(self.axes[: self.inputs])


class Constant(NamedTuple):
    """A parameter whose entries are all initialized to the same value."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...] = ()
    value: float = 0.0


class Drawn(NamedTuple):
    """A parameter with its own initializer."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[..., Array]


Declared = Mapping[str, Kernel | Constant | Drawn]  # "module/leaf" -> what it is
