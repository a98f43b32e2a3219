"""Masked language model of the sentences of `bert_entities.py`, without their tags: what `bert_entities_few.py` starts from.

    python launch.py --config=experiments/bert_entities_pretrain.py

Not scored yet.
"""

import dataclasses

from experiments import bert_entities
from transformer.config import Config, Objective


def get_config() -> Config:
    config = bert_entities.get_config()
    return dataclasses.replace(
        config,
        objective=Objective(kind="masked_lm"),
        train=dataclasses.replace(config.train, steps=1500),
    )
