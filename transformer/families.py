"""One table: family -> model, objective, loss, scores, modes. There is no `if family` anywhere else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from transformer.config import Config, Facts
from transformer.data import objectives
from transformer.models.transformer import EncoderDecoder

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Family:
    """What differs between families; everything else is shared."""

    model: Callable[[Config, Facts], nn.Module]
    objective: Callable[[Config, Facts], objectives.Objective]
    vocabularies: tuple[str, ...]  # fields of an example that have one, each's own or one joint
    modes: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    "encoder_decoder": Family(
        model=lambda config, facts: EncoderDecoder(config.model, facts),
        objective=lambda config, facts: objectives.Translate(
            config.data.max_source_length, config.data.max_target_length, facts.start, facts.end
        ),
        vocabularies=("source", "target"),
        modes=("train", "evaluate", "translate", "attend", "describe"),
    ),
}


def init_params(model: nn.Module, seed: int, batch: Any) -> Any:
    """Parameters of a model, from one batch's shapes. The key is fold_in(seed, 0): stream 0 is initialisation."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return jax.jit(model.init)(key, batch)["params"]
