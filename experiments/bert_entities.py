"""Named entities: words are tagged by their meaning in context, by a small BERT. The data are generated.

    python launch.py --config=experiments/bert_entities.py

Seed 0: 78.4 entity F1 on 2,000 test sentences, half of whose names are in no training sentence; 200 s on two shared
cores.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Objective


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="tag"),
        model=small.bert(2),
        data=Data(source="entities", vocabulary_size=1000, batching="bucketed", buckets=3),
        train=small.train(steps=500),
        checkpoint=Checkpoint(every_steps=500),
    )
