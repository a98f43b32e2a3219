"""Question answering: an answer is a span of a short story, by a small BERT. The data are generated.

    python launch.py --config=experiments/bert_stories.py

Seed 0, with --config.data.synthetic_train_size=100000 --config.train.steps=2000: exact match 82.9, F1 84.3 on 2,000 test
questions; 25 min on one of two cores beside other work. All answers are right except those to "what does
Ben have?": 25 % of them are right, no better than a guess among a story's three things, from update 500 on.
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
