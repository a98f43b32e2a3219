"""Pythia: 162 M parameters.

python launch.py --mode=describe --config=experiments/published/pythia_160m.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.pythia(12, 768, 12)
