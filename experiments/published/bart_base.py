"""BART-base: 139 M parameters.

python launch.py --mode=describe --config=experiments/published/bart_base.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.bart(6, 768, 12)
