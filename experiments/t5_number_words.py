"""Number words, English to German, by a small T5.

    python launch.py --config=experiments/t5_number_words.py

Seed 0: 99.55 % of 2,000 unseen numbers right after 600 updates, at least 99.4 % for each number of digits, and all numbers
below 100, which are training numbers; 10 minutes on two cores. The data are `number_words.NUMBERS`, in padded batches.
"""

import dataclasses

from experiments.number_words import NUMBERS
from experiments.shapes import small
from transformer.config import Checkpoint, Config, Evaluate, Objective, Search


def get_config() -> Config:
    return Config(
        family="encoder_decoder",
        objective=Objective(kind="translate"),
        model=small.t5(),
        data=dataclasses.replace(NUMBERS, batching="bucketed", buckets=4, prefix="translate English to German: "),
        train=small.train(steps=600),
        evaluate=Evaluate(scores=("exact_match", "chrf")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=500),
    )
