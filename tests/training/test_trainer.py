"""Programs that runs in one process share."""

from typing import Any

import jax
import numpy as np
import small

from transformer import families
from transformer.runtime.devices import Runtime
from transformer.training import optimizer, step, trainer


def losses(config, made=None):
    """Of two updates, and the parameters after them."""
    model = families.FAMILIES[config.family].model(config, small.DATA_INFO)
    made = made or trainer.make(config, small.DATA_INFO, model)
    state, update = made.begin(small.params(config)), Runtime(config.parallel).compile_train(made.step)
    found = []
    for number in range(2):
        state, metrics = update(state, small.batch(number, 4))
        found.append((float(metrics["loss_sum"]), float(metrics["learning_rate"])))
    return found, jax.device_get(state.params)


def test_runs_that_differ_in_numbers_share_a_program_and_leave_nothing_to_each_other():
    """Seed, learning rate and schedule are its arguments; the losses are those of a run alone, to the bit."""
    same = {"model__dropout_rate": 0.1, "train__schedule": "linear"}
    first = small.config(**same)
    other = small.config(**same, train__seed=8, train__learning_rate=0.5, train__warmup_steps=1, train__steps=9)
    model = families.FAMILIES[first.family].model(first, small.DATA_INFO)
    steps: list[Any] = [trainer.make(config, small.DATA_INFO, model).step for config in (first, other)]
    assert steps[0].func is steps[1].func and steps[0].keywords != steps[1].keywords
    clipped = trainer.make(small.config(**same, train__clip_norm=1.0), small.DATA_INFO, model)
    assert clipped.step.func is not steps[0].func
    alone, params = losses(first)
    others, changed = losses(other)
    again, after = losses(first)
    assert alone == again and alone != others
    jax.tree.map(np.testing.assert_array_equal, params, after)
    # The same update with its numbers as constants of a program of its own.
    loss, rule = families.make_loss(model, other, small.DATA_INFO), optimizer.make_optimizer(other.train)
    schedule = optimizer.make_schedule(other.train, other.model)
    update = step.make_train_step(loss, rule, schedule, other.train)
    own = trainer.Trainer(loss, update, lambda params: step.init_state(params, rule, other.train))
    constant, expected = losses(other, own)
    np.testing.assert_allclose(others, constant, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), changed, expected)
