"""Loading of parameters from another run, and what is reported about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.config import Train
from transformer.errors import UserError
from transformer.modes.training import _load_pretrained
from transformer.training import optimizer, step
from transformer.training.pretrained import load_pretrained

OWN = {"encoder": {"kernel": np.zeros((2, 3), np.float32)}, "classifier": {"kernel": np.zeros(3, np.float32)}}


def test_shared_arrays_are_loaded_and_the_others_reported():
    other = {"encoder": {"kernel": np.ones((2, 3))}, "masked_lm": {"bias": np.ones(2)}}
    params, lines = load_pretrained(OWN, other, "runs/a")
    assert params["encoder"]["kernel"].dtype == np.float32 and np.all(params["encoder"]["kernel"] == 1)
    assert np.all(params["classifier"]["kernel"] == 0)
    assert lines == ["from runs/a: 1 of 2 arrays, encoder", "  fresh: classifier", "  left there: masked_lm"]


def test_a_shape_that_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"runs/a: encoder/kernel has the shape \(3, 3\) there and \(2, 3\) here"):
        load_pretrained(OWN, {"encoder": {"kernel": np.ones((3, 3))}}, "runs/a")


def test_another_model_altogether_is_refused():
    with pytest.raises(UserError, match="it has no parameter in common with this model"):
        load_pretrained(OWN, {"decoder": {"kernel": np.ones((3, 3))}}, "runs/a")


@pytest.mark.parametrize("freeze", [(), ("encoder/*",)])
def test_the_sequence_of_schedule_free_begins_there_too(freeze):
    """An update with a learning rate of nearly 0 leaves parameters and average where they were."""
    train = Train(optimizer="schedule_free", freeze=freeze, weight_decay=0.0)
    rule, frozen = optimizer.make_optimizer(train), optimizer.freezing(train, False)
    other = {"encoder": {"kernel": np.ones((2, 3))}, "classifier": {"kernel": np.full(3, 2.0)}}
    state = _load_pretrained(step.init_state(OWN, rule, train), other, "runs/a")

    def loss(params, batch, key):
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))
        return {"loss_sum": total, "weight_sum": jnp.ones(())}

    update = step.make_train_step(loss, rule, lambda updates: 1e-9, train, frozen)
    state, _ = jax.jit(update)(state, {})
    for tree in (state.params, state.average):
        jax.tree.map(lambda found, wanted: np.testing.assert_allclose(found, wanted, atol=1e-6), tree, other)
