"""Products and their gradients, written out or not, for all subscripts that attention and layers use, against fp32 `einsum`."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.components.products import product, reverse_mode, wide_product

SHAPES = [
    ("btd,df->btf", (2, 3, 8), (8, 5)),  # the states are wider than the result, or narrower
    ("btd,df->btf", (2, 3, 5), (5, 8)),
    ("btd,dhk->bthk", (1, 1, 8), (8, 2, 3)),
    ("btd,dhk->bthk", (2, 3, 6), (6, 2, 3)),
    ("bthv,hvd->btd", (2, 3, 2, 3), (2, 3, 8)),
    ("bthv,hvd->btd", (2, 3, 2, 3), (2, 3, 4)),
    ("btd,nd->btn", (2, 3, 8), (5, 8)),
    ("btd,nd->btn", (2, 3, 5), (8, 5)),
    ("bthk,bshk->bhts", (2, 3, 2, 4), (2, 5, 2, 4)),
    ("bthk,bshk->bhts", (2, 3, 2, 5), (2, 4, 2, 5)),
    ("btngk,bsnk->bngts", (2, 3, 2, 2, 4), (2, 5, 2, 4)),
    ("bhts,bshv->bhtv", (2, 3, 2, 4), (2, 4, 3, 5)),
    ("bngts,bsnv->bngtv", (2, 2, 2, 3, 4), (2, 4, 2, 3)),
    ("btd,d->btd", (2, 3, 4), (4,)),  # the result has the axes of the states
]


EXACT, ROUNDED = {"rtol": 1e-5, "atol": 1e-5}, {"rtol": 0.02, "atol": 0.05}


def drawn(dtype, *shapes):
    draw = np.random.default_rng(0)
    return [jnp.asarray(draw.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("of_x", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("of_kernel", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("mode", [contextlib.nullcontext, reverse_mode])
@pytest.mark.parametrize(("subscripts", "x", "kernel"), SHAPES)
@pytest.mark.parametrize("function", [product, wide_product])
def test_forward_and_backward_match_rounded_fp32(function, subscripts, x, kernel, mode, of_x, of_kernel):
    """Factors are rounded to the narrower of their types."""
    factors = *drawn(of_x, x), *drawn(of_kernel, kernel)

    def both(function, x, kernel):
        value, back = jax.vjp(lambda *factors: function(subscripts, *factors), x, kernel)
        return value, *back(value * 1.5)

    with mode():
        found = jax.jit(lambda *factors: both(function, *factors))(*factors)
    assert [each.dtype for each in found] == [of_x if function is product else jnp.float32, of_x, of_kernel]
    half = jnp.bfloat16 in (of_x, of_kernel)
    wanted = both(jnp.einsum, *(each.astype(jnp.bfloat16 if half else jnp.float32).astype(jnp.float32) for each in factors))
    np.testing.assert_allclose(found[0], wanted[0], **(EXACT if found[0].dtype == jnp.float32 else ROUNDED))
    error = ROUNDED if half else EXACT
    for one, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, **error)


def test_in_fp32_only_what_is_traced_for_reverse_mode_has_no_forward_mode():
    """The product is linear in each factor."""
    x, kernel = drawn(jnp.float32, (2, 3, 8), (8, 5))

    def tangent():
        return jax.jvp(lambda x: product("btd,df->btf", x, kernel), [x], [2 * x])[1]

    np.testing.assert_allclose(tangent(), 2 * jnp.einsum("btd,df->btf", x, kernel), rtol=1e-6)
    with reverse_mode(), pytest.raises(TypeError, match="forward-mode"):
        tangent()
    tangent()
