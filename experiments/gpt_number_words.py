"""Number words, English to German, by a decoder-only prefix language model (Raffel et al. 2020, 3.2.1).

    python launch.py --config=experiments/gpt_number_words.py

Seed 0: 99.95 % of 2,000 unseen numbers right after 600 updates, at least 99.8 % for each number of digits, and 99 of the
100 numbers below 100, which are training numbers; 233 s in all on two cores. The data are `number_words.NUMBERS`, in padded
batches.
"""

import dataclasses

from experiments.number_words import NUMBERS
from experiments.shapes import small
from transformer.config import Checkpoint, Config, Evaluate, Objective, Search


def get_config() -> Config:
    return Config(
        family="decoder_only",
        objective=Objective(kind="translate"),
        model=small.gpt(4),
        data=dataclasses.replace(NUMBERS, batching="bucketed", buckets=4),
        train=small.train(steps=600),
        evaluate=Evaluate(scores=("exact_match", "chrf")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=500),
    )
