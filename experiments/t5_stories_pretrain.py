"""Span corruption of stories without summaries: pre-training for `t5_summaries.py`. The data are generated.

    python launch.py --config=experiments/t5_stories_pretrain.py

Seed 0: perplexity 1.58 of the missing spans of 2,000 other stories, 82.4 % of their tokens right; 18 min on one of two cores
beside other work. For its effect, see t5_summaries.py.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Objective


def get_config() -> Config:
    return Config(
        family="encoder_decoder",
        objective=Objective(kind="span_corruption"),
        model=small.t5(),
        data=Data(source="stories", vocabulary_size=300, test=None, batching="bucketed", buckets=2),
        train=small.train(steps=1500, batch_tokens=1024),
        checkpoint=Checkpoint(every_steps=500),
    )
