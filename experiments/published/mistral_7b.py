"""Mistral 7B: 7.24 B parameters.

python launch.py --mode=describe --config=experiments/published/mistral_7b.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.mistral_7b()
