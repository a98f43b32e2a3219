"""Matrix products of states and parameters, or of queries and keys, and weights and values. On a CPU they are computed as it is
fast there.

A bf16 product with a bf16 result is computed by converting the factors to fp32. With an fp32 result, XLA uses the processor's
bf16 instructions, if there are any, which are twice as fast or more. So such products have an fp32 result, which is rounded if
the states are bf16, in the forward and in the backward pass.

The gradient of a kernel is a product of two factors that is summed over tokens, their first axes. XLA transposes one of them,
in some cases the wider one, in a slow loop. So the narrower one is transposed here, and afterwards the result if necessary.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

Array = jax.Array

_reverse_mode = contextvars.ContextVar("reverse_mode", default=False)


@contextlib.contextmanager
def reverse_mode() -> Iterator[None]:
    """What is traced inside is differentiated only in reverse mode, so on a CPU its products have the gradients that are
    written out here. Those in bf16 always have them."""
    token = _reverse_mode.set(True)
    try:
        yield
    finally:
        _reverse_mode.reset(token)


def product(subscripts: str, x: Array, kernel: Array) -> Array:
    """`jnp.einsum` of two factors, both in the narrower type of the two. The result has the type of the first, the states."""
    if _on_cpu() or narrower(x, kernel) != x.dtype:
        return wide_product(subscripts, x, kernel).astype(x.dtype)
    return jnp.einsum(subscripts, x, kernel.astype(x.dtype))


def wide_product(subscripts: str, x: Array, kernel: Array) -> Array:
    """`product` with a result of at least fp32."""
    kernel = kernel.astype(narrower(x, kernel))
    if kernel.dtype != x.dtype or (_on_cpu() and (_reverse_mode.get() or x.dtype == jnp.bfloat16)):
        return _with_gradients(subscripts, x.dtype, x, kernel)
    return _wide(subscripts, x, kernel)


def narrower(x: Array, kernel: Array) -> jnp.dtype:
    """The type in which both factors are multiplied."""
    return min(x.dtype, kernel.dtype, key=lambda dtype: dtype.itemsize)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _wide(subscripts: str, x: Array, kernel: Array) -> Array:
    return jnp.einsum(subscripts, x, kernel, preferred_element_type=jnp.float32 if x.dtype.itemsize < 4 else x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_gradients(subscripts: str, of_states: jnp.dtype, x: Array, kernel: Array) -> Array:
    return _wide(subscripts, x.astype(kernel.dtype), kernel)


def _forward(subscripts: str, of_states: jnp.dtype, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _with_gradients(subscripts, of_states, x, kernel), (x.astype(kernel.dtype), kernel)


def _backward(subscripts: str, of_states: jnp.dtype, factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = factors
    gradient = gradient.astype(kernel.dtype)
    states, parameter, result = subscripts.replace("->", ",").split(",")
    of_x = _wide(f"{result},{parameter}->{states}", gradient, kernel)
    return of_x.astype(of_states), _of_kernel(states, result, parameter, x, gradient).astype(kernel.dtype)


def _of_kernel(states: str, result: str, parameter: str, x: Array, gradient: Array) -> Array:
    """The gradient of the second factor, from the first and the gradient of the result."""
    if not _on_cpu():
        return _wide(f"{states},{result}->{parameter}", x, gradient)
    size = dict(zip(states + result, x.shape + gradient.shape, strict=True))
    batch = "".join(axis for axis in parameter if axis in states and axis in result)

    def own(names: str) -> str:
        return "".join(axis for axis in parameter if axis in names and axis not in batch)

    factors = [(states, x), (result, gradient)]
    (narrow, first), (wide, second) = sorted(factors, key=lambda each: math.prod(size[axis] for axis in own(each[0])))
    turned = batch + own(narrow) + "".join(axis for axis in narrow if axis not in parameter)
    made = batch + own(narrow) + own(wide)
    first = jax.lax.optimization_barrier(_transposed(narrow, turned, first))
    found = jax.lax.optimization_barrier(_wide(f"{turned},{wide}->{made}", first, second))
    return _transposed(made, parameter, found)


def _transposed(names: str, wanted: str, x: Array) -> Array:
    return jnp.transpose(x, [names.index(axis) for axis in wanted])


_with_gradients.defvjp(_forward, _backward)
