"""Masked language model of the sentences of `bert_entities.py`, without tags: pre-training for `bert_entities_few.py`.

    python launch.py --config=experiments/bert_entities_pretrain.py

709 s on one of two cores beside other work. Perplexity of masked tokens 66.8 on the test, 3 in training: half of the test's
names are in no training sentence. For its effect on tagging, see bert_entities_few.py.
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
