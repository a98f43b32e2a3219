"""bf16 products are rounded to the declared types, forward and backward, for all subscripts that attention and layers use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.components.products import product, wide_product


@pytest.mark.parametrize(
    ("subscripts", "x", "kernel"),
    [("btd,df->btf", (2, 3, 8), (8, 5)), ("btd,dhk->bthk", (1, 1, 8), (8, 2, 3)), ("bthv,hvd->btd", (2, 3, 2, 3), (2, 3, 8))],
)
@pytest.mark.parametrize("function", [product, wide_product])
def test_forward_and_backward_match_rounded_fp32(function, subscripts, x, kernel):
    draw = np.random.default_rng(0)
    factors = [jnp.asarray(draw.normal(size=shape), jnp.bfloat16) for shape in (x, kernel)]

    def both(function, x, kernel):
        value, back = jax.vjp(lambda *factors: function(subscripts, *factors), x, kernel)
        return value, *back(jnp.ones_like(value) * 1.5)

    found = jax.jit(lambda *factors: both(function, *factors))(*factors)
    assert [each.dtype for each in found] == [jnp.bfloat16 if function is product else jnp.float32, jnp.bfloat16, jnp.bfloat16]
    wanted = both(jnp.einsum, *(each.astype(jnp.float32) for each in factors))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0.01, atol=0.02)
