"""The work of a program, and its longest chain of matrix products, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from transformer.config import DataInfo, Model, Recurrent
from transformer.models.program import count, sequential_products, total
from transformer.models.recurrent import RecurrentEncoderDecoder
from transformer.models.transformer import EncoderDecoder

X = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def turns(count):
    """One product for each of `count` rows, each of which needs the previous one."""
    return lambda x: jax.lax.scan(lambda carry, row: (carry @ x, carry @ row), x, jnp.ones((count, 4)))


CHAINS = {
    "no product": (0, lambda x: x + 1),
    "side by side": (1, lambda x: x @ x + (2 * x) @ x),
    "one after another": (3, lambda x: ((x @ x) @ x) @ x),
    "the longer side": (3, lambda x: (x @ x @ x) @ (x @ x)),
    "what nobody needs": (1, lambda x: (x @ x, (x @ x @ x).shape)[0]),
    "called": (3, lambda x: jax.jit(lambda y: y @ y)(jax.checkpoint(lambda y: y @ y)(x)) @ x),
    "a loop that hands on": (7, turns(7)),
    "a loop that does not": (1, lambda x: jax.lax.map(lambda row: row @ x, x)),
    "after a loop": (8, lambda x: turns(7)(x)[0] @ x),
    "the longer branch": (2, lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name):
    wanted, function = CHAINS[name]
    assert sequential_products(function, X) == wanted


COSTS = {
    "no product": (0, lambda x: x + 1),
    "m n k": (2 * 4 * 4 * 4 + 2 * 4 * 4, lambda x: (x @ x) @ x[0]),
    "batches": (2 * 7 * 4 * 4 * 4, lambda x: jnp.einsum("bij,bjk->bik", *(jnp.broadcast_to(x, (7, 4, 4)),) * 2)),
    "two axes": (2 * 4 * 16, lambda x: jnp.einsum("ij,ijk->k", x, jnp.ones((4, 4, 4)))),
    "a loop": (7 * 2 * 2 * 4 * 4, lambda x: jax.lax.map(lambda row: row @ x @ x, jnp.ones((7, 4)))),
    "called": (3 * 128, lambda x: jax.jit(lambda y: y @ y)(jax.checkpoint(lambda y: y @ y)(x)) @ x),
    "the longer branch": (256, lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x)),
    "a gradient": (3 * 128, jax.grad(lambda x: jnp.sum(jnp.sin(x @ jnp.sin(x))))),
}


@pytest.mark.parametrize("name", COSTS)
def test_operations(name):
    wanted, function = COSTS[name]
    assert total(function, X).products == wanted


ELEMENTWISE = {
    "an addition": (16, lambda x: x + x),
    "a sum": (16, lambda x: x.sum()),
    "no exponentials": (0, lambda x: jnp.exp(x).astype(jnp.bfloat16).T),
    "a softmax": (16 + 4 + 16 + 16 + 16, lambda x: jax.nn.softmax(x, axis=-1)),  # maxima, difference, sum, quotient
    "the same once": (32, lambda x: (x + 1) * (x + 1)),
    "what is not used": (16, lambda x: (x + 1, x * 2)[0]),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_work_by_element(name):
    wanted, function = ELEMENTWISE[name]
    assert total(function, X).elementwise == wanted


def test_work_is_known_by_scope():
    def function(x):
        with jax.named_scope("outer"):
            return jax.lax.map(lambda row: jax.named_scope("inner")(lambda y: y @ x)(row), x)

    found = {scope: work.products for scope, work in count(function, X).items() if work.products}
    assert list(found.values()) == [128] and "outer" in next(iter(found)) and "inner" in next(iter(found))


@pytest.mark.parametrize("count", [total, sequential_products])
def test_a_loop_of_unknown_length_is_refused(count):
    with pytest.raises(ValueError, match="whose length depends on the data"):
        count(lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x), X)


def of(model, source, target):
    data_info = DataInfo(source_size=50, target_size=50, source_rows=56, target_rows=56)
    network = (RecurrentEncoderDecoder if model.recurrent.cell == "lstm" else EncoderDecoder)(model, data_info)
    batch = {
        name: jax.ShapeDtypeStruct((2, length), jnp.int32)
        for name, length in {"source": source, "source_segments": source, "inputs": target, "segments": target}.items()
    }
    variables = jax.eval_shape(network.init, jax.random.key(0), batch)
    return sequential_products(network.apply, variables, batch)


@pytest.mark.parametrize(("encoder", "decoder"), [(1, 1), (2, 3)])
def test_the_depth_of_a_transformer_does_not_depend_on_length(encoder, decoder):
    """Self-attention has a chain of four (query, weights, values, output), the feed-forward layer of two. The first
    cross-attention needs the encoder's keys, whose projection adds one; the last product is that of the logits."""
    wanted = 6 * encoder + 1 + (3 + 2) + 10 * (decoder - 1) + 1
    model = Model(num_encoder_layers=encoder, num_decoder_layers=decoder, d_model=16, d_ff=24, num_heads=4)
    assert of(model, 5, 7) == of(model, 40, 60) == wanted


def test_the_depth_of_a_recurrent_model_grows_with_text_length():
    """Each token of source and target adds one, and each layer adds one for the whole text."""
    model = Model(num_encoder_layers=1, num_decoder_layers=1, d_model=16, recurrent=Recurrent("lstm", "none"))
    first = of(model, 5, 7)
    assert of(model, 25, 7) - first == 20 and of(model, 5, 47) - first == 40
    assert 5 + 7 <= first <= 5 + 7 + 3
