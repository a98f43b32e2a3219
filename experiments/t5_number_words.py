"""Number words, English to German, by a small T5.

    python launch.py --config=experiments/t5_number_words.py

Not scored yet.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Objective


def get_config() -> Config:
    return Config(
        family="encoder_decoder",
        objective=Objective(kind="translate"),
        model=small.t5(),
        data=Data(vocabulary_size=128, batching="bucketed", buckets=4, prefix="translate English to German: "),
        train=small.train(steps=600),
        checkpoint=Checkpoint(every_steps=500),
    )
