"""BART-large: 406 M parameters.

python launch.py --mode=describe --config=experiments/published/bart_large.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.bart(12, 1024, 16)
