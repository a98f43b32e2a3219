"""The parts of training for a configuration: its loss, its step, and the initial state.

Configurations that differ only in arguments of the program, such as the seed and the learning rate, share one loss and one
step, so that a process that trains many of them compiles once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from transformer import families
from transformer.config import Config, DataInfo, Train
from transformer.training import optimizer
from transformer.training import step as steps


class Trainer(NamedTuple):
    """`loss` and `step` as in step.py; `begin(params)` gives the state before the first update.

    `step` is a partial: equal programs share its function, and its keywords are the numbers in which they differ.
    """

    loss: steps.Loss
    step: Callable[..., tuple[steps.State, dict[str, Any]]]
    begin: Callable[[steps.Params], steps.State]


def make(config: Config, data_info: DataInfo, model: Any) -> Trainer:
    """The trainer of a `model` of the configuration's family."""
    loss, train = families.make_loss(model, config, data_info), config.train
    adapters, ratio = config.model.lora_rank is not None, config.model.width_ratio
    program, begin = _programs(families.of_programs(config).train, loss, adapters, ratio)
    return Trainer(loss, functools.partial(program, seed=train.seed, **optimizer.numbers(train, config.model)), begin)


@functools.lru_cache(maxsize=64)
def _programs(
    train: Train, loss: steps.Loss, adapters: bool, width_ratio: float
) -> tuple[Callable[..., tuple[steps.State, dict[str, Any]]], Callable[[steps.Params], steps.State]]:
    rule = optimizer.make_optimizer(train, adapters, width_ratio)
    rate = functools.partial(optimizer.learning_rate, train.schedule)
    step = steps.make_train_step(loss, rule, rate, train, optimizer.freezing(train, adapters))
    return step, lambda params: steps.init_state(params, rule, train)
