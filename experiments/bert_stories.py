"""Question answering: an answer is a span of a short story, by a small BERT. Made on the spot.

    python launch.py --config=experiments/bert_stories.py

Not scored yet.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Objective


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="answer"),
        model=small.bert(3),
        data=Data(source="stories", vocabulary_size=500, batching="bucketed", buckets=3),
        train=small.train(steps=1000),
        checkpoint=Checkpoint(every_steps=500),
    )
