"""Algorithms on lists of letters, by a decoder alone: the source is a prefix that all of it sees. Copying, as in algorithms.py.

    python launch.py --config=experiments/gpt_algorithms.py

Seed 0: 48.1 % of letters in place, 2.0 % of lists whole at trained lengths (5 to 20), 4.0 % of letters at 21 to 40; 380 s on
one of two cores beside other work. Copying is not learned in so many updates, and was still being learned at the end (72.8 % of
validation's tokens right, the target given; 55.8 % at update 500): rotary positions tell how far apart tokens are, and how far
a letter is from its copy depends on the length of the list. An encoder-decoder, which counts both sides from their beginnings,
learns it in half as many (algorithms.py).
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
