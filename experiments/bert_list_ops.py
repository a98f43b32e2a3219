"""Classification: the value of nested list operations (Nangia and Bowman 2018), by a small BERT. Made on the spot.

    python launch.py --config=experiments/bert_list_ops.py

Not scored yet.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Objective


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="classify"),
        model=small.bert(4),
        data=Data(source="list_ops", vocabulary="characters", batching="bucketed", buckets=4),
        train=small.train(steps=1000),
        checkpoint=Checkpoint(every_steps=500),
    )
