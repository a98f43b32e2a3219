"""Named entities from 300 tagged sentences: from scratch, or from a masked language model of 20,000 untagged ones.

    python launch.py --config=experiments/bert_entities_few.py
    python launch.py --config=experiments/bert_entities_few.py --workdir=runs/bert_entities_few_pretrained \\
        --config.train.init_from=runs/bert_entities_pretrain

Not scored yet.
"""

import dataclasses

from experiments import bert_entities
from transformer.config import Config


def get_config() -> Config:
    config = bert_entities.get_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, puzzle_train_size=300, buckets=1),
        train=dataclasses.replace(config.train, steps=150, batch_tokens=1024, warmup_steps=30, evaluate_every=50),
    )
