"""Pythia: 1.41 B parameters.

python launch.py --mode=describe --config=experiments/published/pythia_1_4b.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.pythia(24, 2048, 16)
