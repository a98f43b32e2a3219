"""Creates the parameters that components declare in Flax modules, and rounds kernels for products."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components.parameters import Constant, Declared, Drawn, Kernel
from transformer.config import Model

Array = jax.Array
Initializer = Callable[..., Array]


class _Group(nn.Module):
    """A child module that holds the leaves of the parameters "module/leaf"."""

    declared: tuple[tuple[str, Any], ...]
    initializer: Initializer
    count: int | None

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        return {leaf: self.param(leaf, *_spec(each, self.initializer, self.count)) for leaf, each in self.declared}


def declare(
    module: nn.Module, declared: Declared, initializer: Initializer, count: int | None = None, prefix: str = ""
) -> dict[str, Array]:
    """Creates the declared parameters inside a compact method of `module`; "module/leaf" becomes a leaf of a child.

    `count`: the number of copies of each, drawn separately and stacked on a leading axis. `initializer` draws kernels
    (inputs x outputs). `prefix`: begins the names in the module, but not those of the result.
    """
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, each in declared.items():
        group, _, leaf = f"{prefix}{name}".rpartition("/")
        groups.setdefault(group, []).append((leaf, each))
    result = {}
    for group, leaves in groups.items():
        if group:
            values = _Group(tuple(leaves), initializer, count, name=group)()  # type: ignore[call-arg]
            result |= {f"{group}/{leaf}": value for leaf, value in values.items()}
        else:
            result |= {leaf: module.param(leaf, *_spec(each, initializer, count)) for leaf, each in leaves}
    return {name.removeprefix(prefix): value for name, value in result.items()}


def rounded(config: Model, kernel: Array) -> Array:
    """A kernel, rounded to bf16 if `config.matmul_dtype` says so."""
    return kernel.astype(jnp.bfloat16) if config.matmul_dtype == "bfloat16" else kernel


def _spec(each: Kernel | Constant | Drawn, initializer: Initializer, count: int | None) -> tuple[Initializer, tuple[int, ...]]:
    """Initializer and shape, the arguments of `nn.Module.param`."""

    def init(key: Array, shape: tuple[int, ...]) -> Array:
        if isinstance(each, Constant):
            return jnp.full(shape, each.value, jnp.float32)
        if isinstance(each, Drawn):
            return each.init(key, shape, jnp.float32)
        flat = math.prod(shape[: each.inputs]), math.prod(shape[each.inputs :])
        return initializer(key, flat, jnp.float32).reshape(shape) / each.divisor

    if count is None:
        return init, each.shape
    return lambda key, shape: jax.vmap(lambda k: init(k, shape[1:]))(jax.random.split(key, count)), (count, *each.shape)
