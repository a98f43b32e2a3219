"""Gemma 2: 2.61 B parameters.

python launch.py --mode=describe --config=experiments/published/gemma_2_2b.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.gemma_2_2b()
