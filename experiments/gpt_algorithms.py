"""Algorithms on lists of letters, by a decoder alone: the source is a prefix that all of it sees. Copying, as in algorithms.py.

    python launch.py --config=experiments/gpt_algorithms.py

Not scored yet. A run that was stopped after 235 of the 1,000 updates had 36.9 % of validation's tokens right at 200, rising.
"""

import dataclasses

from experiments import algorithms
from experiments.shapes import small
from transformer.config import Config, Objective


def get_config() -> Config:
    config = algorithms.get_config()
    return dataclasses.replace(
        config,
        family="decoder_only",
        objective=Objective(kind="translate"),
        model=small.gpt(2),
        train=dataclasses.replace(config.train, steps=1000, label_smoothing=0.0),
    )
