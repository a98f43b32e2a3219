"""Losses against a dense target in NumPy, and slices of tokens against all tokens at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from transformer.components.attention import MASKED
from transformer.models import losses
from transformer.models.losses import cross_entropy, in_chunks

SIZE, ROWS = 11, 14  # entries of the vocabulary, and of its table


def example(batch=3, length=5):
    """Logits with masked surplus entries, targets, and different weights."""
    draw = np.random.default_rng(0)
    logits = 3 * draw.normal(size=(batch, length, ROWS)).astype(np.float32)
    logits[..., SIZE:] = MASKED
    targets = draw.integers(0, SIZE, (batch, length)).astype(np.int32)
    weights = np.where(draw.random((batch, length)) < 0.3, 0, draw.random((batch, length)) * 2).astype(np.float32)
    right = draw.random((batch, length)) < 0.4
    logits[right, targets[right]] = 9.0
    return logits, targets, weights


def dense(logits, targets, weights, smoothing):
    """The sums by definition, -sum_k q_k log p_k, in float64."""
    logits = logits[..., :SIZE].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    log_p = np.log(powers / powers.sum(axis=-1, keepdims=True))
    right = np.eye(SIZE)[targets]
    q = (1 - smoothing) * right + smoothing / SIZE
    correct = logits.argmax(axis=-1) == targets
    sums = {"loss_sum": -(q * log_p).sum(axis=-1), "nll_sum": -(right * log_p).sum(axis=-1), "correct_sum": correct}
    return {name: (value * weights).sum() for name, value in sums.items()} | {"weight_sum": weights.sum(dtype=np.float64)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_sums_of_a_dense_target(smoothing):
    logits, targets, weights = example()
    wanted = dense(logits, targets, weights, smoothing)
    found = cross_entropy(*map(jnp.asarray, (logits, targets, weights)), smoothing, SIZE)
    assert found.keys() == wanted.keys() and 0 < wanted["correct_sum"] < wanted["weight_sum"]
    for name, value in wanted.items():
        assert found[name].dtype == jnp.float32 and found[name].shape == ()
        np.testing.assert_allclose(found[name], value, rtol=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_of_a_dense_target(smoothing):
    logits, targets, weights = map(jnp.asarray, example())

    def plain(logits):
        q = (1 - smoothing) * jax.nn.one_hot(targets, SIZE) + smoothing / SIZE
        return -jnp.sum(jnp.sum(q * jax.nn.log_softmax(logits[..., :SIZE]), axis=-1) * weights)

    found = jax.grad(lambda x: cross_entropy(x, targets, weights, smoothing, SIZE)["loss_sum"])(logits)
    np.testing.assert_allclose(found, jax.grad(plain)(logits), atol=1e-6)
    assert not np.any(found[..., SIZE:])


def test_bfloat16_logits_are_summed_in_fp32():
    logits, targets, weights = example(20, 50)
    logits = jnp.asarray(logits, jnp.bfloat16)
    wanted = dense(np.asarray(logits, np.float32), targets, weights, 0.1)
    found = cross_entropy(logits, jnp.asarray(targets), jnp.asarray(weights), 0.1, SIZE)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


# --- slices ------------------------------------------------------------------------------------------------------------

BATCH, LENGTH, WIDTH = 2, 7, 3


def head():
    """A head with two parameters, one of which does not multiply the states; states and labels."""
    draw = np.random.default_rng(1)
    params = {"kernel": draw.normal(size=(WIDTH, ROWS)), "bias": draw.normal(size=ROWS)}
    states = draw.normal(size=(BATCH, LENGTH, WIDTH))
    _, targets, weights = example(BATCH, LENGTH)
    params, states = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, states))
    return params, states, (jnp.asarray(targets), jnp.asarray(weights))


def sums(params, states, labels):
    logits = jnp.einsum("btd,dn->btn", states, params["kernel"]) + params["bias"][None, None]
    logits = jnp.where((jnp.arange(ROWS) < SIZE)[None, None], logits, MASKED)
    return cross_entropy(logits, *labels, 0.1, SIZE)


def close(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


# Slices of 1 token (also where even one of every row is too much), of some that 7 is no multiple of, and all at once.
@pytest.mark.parametrize(
    ("slots", "compiled"), [*((slots, True) for slots in (1, 2, 5, 6, 8, 13, 14, 1000)), (6, False), (1000, False)]
)
def test_slices_give_the_same_loss_as_the_whole(slots, compiled):
    params, states, labels = head()

    def both(total):
        def loss(params, states):
            found = total(params, jnp.tanh(states), labels)  # states that have a past
            return -2.5 * found["loss_sum"], found  # a cotangent that is not 1

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    sliced = both(lambda params, states, labels: in_chunks(sums, params, states, labels, slots))
    close((jax.jit(sliced) if compiled else sliced)(params, states), both(sums)(params, states))


@pytest.mark.parametrize("slots", [5, 1000])
def test_slices_without_a_gradient(slots):
    params, states, labels = head()
    close(jax.jit(lambda *x: in_chunks(sums, *x, slots))(params, states, labels), sums(params, states, labels))


@pytest.mark.parametrize(("length", "slots", "width"), [(64, 63, 16), (64, 66, 22), (10, 12, 4), (5, 1, 1), (5, 15, 5)])
def test_slices_are_equally_wide(length, slots, width):
    """Three rows. As few slices as there may be, and little is added to fill the last one."""
    seen = set()

    def function(params, states, labels):
        seen.add(states.shape[1])
        return {"loss_sum": jnp.sum(states)}

    assert in_chunks(function, {}, jnp.ones((3, length, 2)), jnp.ones((3, length)), slots)["loss_sum"] == 6 * length
    assert seen == {width}


def test_slices_of_a_mesh_hold_the_slots_of_a_device(monkeypatch):
    """Rows are divided over 8 devices, each of which has all slots of a slice."""
    monkeypatch.setattr(losses, "row_parts", lambda: 8)
    seen = []

    def function(params, states, labels):
        seen.append(states.shape)
        return {"loss_sum": jnp.sum(states)}

    in_chunks(function, {}, jnp.ones((16, 12, 2)), {}, 8)
    assert set(seen) == {(16, 4, 2)}


def test_slices_inside_a_scan():
    """As in micro-batches: labels are inputs of the scan, and gradients are summed outside of the differentiated function."""
    params, states, labels = head()
    parts = jax.tree.map(lambda x: jnp.stack([x, x[::-1] * 2 // 3 if x.dtype == jnp.int32 else 0.7 * x]), (states, labels))

    def accumulated(total):
        gradient = jax.grad(
            lambda params, *part: (lambda found: (found["loss_sum"], found))(total(params, *part)), has_aux=True
        )

        def run(params, parts):
            zeros = jax.tree.map(jnp.zeros_like, gradient(params, *jax.tree.map(lambda x: x[0], parts)))
            return jax.lax.scan(lambda sum, part: (jax.tree.map(jnp.add, sum, gradient(params, *part)), None), zeros, parts)[0]

        return jax.jit(run)(params, parts)

    close(accumulated(lambda *x: in_chunks(sums, *x, 4)), accumulated(sums))


def sizes(jaxpr):
    """The sizes of all arrays that a program creates."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
        for inner in jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_logits_of_one_slice_at_a_time():
    """No array is as large as all logits, forward or backward; without slices there is one."""
    params, states, labels = head()

    def largest(slots):
        def loss(params, states):
            return in_chunks(sums, params, states, labels, slots)["loss_sum"]

        return max(sizes(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, states).jaxpr))

    assert largest(1000) >= BATCH * LENGTH * ROWS
    assert largest(4) <= max(BATCH * 2 * ROWS, states.size + BATCH * WIDTH)  # two tokens of every row, or all the states


def test_z_loss_by_hand():
    """Its value, and its gradient 2 c log Z softmax."""
    draw = np.random.default_rng(0)
    logits, targets, weights = draw.normal(size=(2, 3, 5)), draw.integers(0, 5, (2, 3)), draw.random((2, 3))

    def loss(logits, z_loss):
        given = jnp.asarray(targets), jnp.asarray(weights)
        return cross_entropy(logits, *given, 0.1, 5, z_loss)["loss_sum"]

    both = [jax.value_and_grad(loss)(jnp.asarray(logits, jnp.float32), z_loss) for z_loss in (0.0, 0.3)]
    normalizer = np.log(np.exp(logits).sum(-1))
    assert float(both[1][0] - both[0][0]) == pytest.approx(0.3 * np.sum(weights * normalizer**2), rel=1e-4)
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = 0.6 * (weights * normalizer)[..., None] * softmax
    np.testing.assert_allclose(both[1][1] - both[0][1], wanted, atol=1e-5)
