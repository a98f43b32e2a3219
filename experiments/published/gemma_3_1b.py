"""Gemma 3: 1.00 B parameters.

python launch.py --mode=describe --config=experiments/published/gemma_3_1b.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.gemma_3_1b()
