"""One table: family -> model, objective, loss, scores, modes. There is no `if family` anywhere else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.config import Config, Facts
from transformer.data import objectives
from transformer.models import losses
from transformer.models.transformer import EncoderDecoder

Array = jax.Array


Sums = dict[str, Array]
# (params, batch, dropout key; None: deterministic) -> sums over tokens.
Loss = Callable[[Any, Any, Array | None], Sums]


@dataclasses.dataclass(frozen=True)
class Family:
    """What differs between families; everything else is shared."""

    model: Callable[[Config, Facts], nn.Module]
    objective: Callable[[Config, Facts], objectives.Objective]
    loss: Callable[[nn.Module, Config, Facts], Loss]
    vocabularies: tuple[str, ...]  # fields of an example that have one, each's own or one joint
    modes: tuple[str, ...]


def token_loss(model: nn.Module, config: Config, facts: Facts) -> Loss:
    """Cross entropy of the targets of models that have `states` and `logits`, a slice of tokens' logits at a time."""

    def loss(params: Any, batch: Any, dropout_key: Array | None) -> Sums:
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        states: Any = model.apply({"params": params}, batch, dropout_key is None, method="states", rngs=rngs)
        smoothing = config.train.label_smoothing

        def sums(params: Any, states_BxTxD: Array, labels: tuple[Array, Array]) -> Sums:
            logits_BxTxN: Any = model.apply({"params": params}, states_BxTxD, method="logits")
            return losses.cross_entropy(logits_BxTxN, *labels, smoothing, facts.target_size)

        used = {name: params[name] for name in model.logits_modules if name in params}
        return losses.in_chunks(sums, used, states, (batch["targets"], batch["weights"]), config.train.loss_chunk)

    return loss


FAMILIES: dict[str, Family] = {
    "encoder_decoder": Family(
        model=lambda config, facts: EncoderDecoder(config.model, facts),
        objective=lambda config, facts: objectives.Translate(
            config.data.max_source_length, config.data.max_target_length, facts.start, facts.end
        ),
        loss=token_loss,
        vocabularies=("source", "target"),
        modes=("train", "evaluate", "translate", "attend", "describe"),
    ),
}


def init_params(model: nn.Module, objective: objectives.Objective, seed: int) -> Any:
    """A model's parameters. The key is fold_in(seed, 0): stream 0 is initialisation."""
    batch = {name: jnp.zeros((1, 8), dtype) for side in objective.sides for name, dtype in side.features.items()}
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return jax.jit(model.init)(key, batch)["params"]
