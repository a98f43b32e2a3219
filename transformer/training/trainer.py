"""What a configuration trains with, put together: its loss, its step, and the state that the step begins with."""

from collections.abc import Callable
from typing import Any, NamedTuple

from transformer import families
from transformer.config import Config, Facts
from transformer.training import optimizer
from transformer.training import step as steps


class Trainer(NamedTuple):
    """`loss` and `step` as in step.py; `begin(params)` gives the state before the first update."""

    loss: steps.Loss
    step: Callable[..., tuple[steps.State, dict[str, Any]]]
    begin: Callable[[steps.Params], steps.State]


def make(config: Config, facts: Facts, model: Any) -> Trainer:
    """Of a `model` of the configuration's family."""
    train, loss = config.train, families.make_loss(model, config, facts)
    rule = optimizer.make_optimizer(train)
    step = steps.make_train_step(loss, rule, optimizer.make_schedule(train, config.model), train)
    return Trainer(loss, step, lambda params: steps.init_state(params, rule, train))
