"""Matrix products of states and parameters, in the type of the states.

On a CPU, XLA computes a bf16 product with a bf16 result by converting the factors to fp32. With an fp32 result it uses the
processor's bf16 instructions (AMX), if there are any, which are several times as fast. Therefore these products are computed
with an fp32 result, which is then rounded, in the forward and in the backward pass.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def product(subscripts: str, x: Array, kernel: Array) -> Array:
    """`jnp.einsum` of states and a parameter, in the type of the states."""
    kernel = kernel.astype(x.dtype)
    return wide_product(subscripts, x, kernel).astype(x.dtype) if _is_half(x) else jnp.einsum(subscripts, x, kernel)


def wide_product(subscripts: str, x: Array, kernel: Array) -> Array:
    """`product` with an fp32 result."""
    kernel = kernel.astype(x.dtype)
    wide: Any = _half if _is_half(x) else _wide
    return wide(subscripts, x, kernel)


def _is_half(x: Array) -> bool:
    return x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"


def _wide(subscripts: str, x: Array, kernel: Array) -> Array:
    return jnp.einsum(subscripts, x, kernel, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _half(subscripts: str, x: Array, kernel: Array) -> Array:
    return _wide(subscripts, x, kernel)


def _forward(subscripts: str, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _half(subscripts, x, kernel), (x, kernel)


def _backward(subscripts: str, factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = factors
    factor_names, result = subscripts.split("->")
    states, parameter = factor_names.split(",")
    gradient = gradient.astype(x.dtype)
    of_x = _wide(f"{result},{parameter}->{states}", gradient, kernel)
    of_kernel = _wide(f"{states},{result}->{parameter}", x, gradient)
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_half.defvjp(_forward, _backward)
