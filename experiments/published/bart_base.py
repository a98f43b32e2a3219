"""BART-base: 139 M parameters.

python launch.py --mode=describe --config=experiments/published/bart_base.py
"""

from experiments.published import shapes
from transformer.config import Config


def get_config() -> Config:
    return shapes.bart(6, 768, 12)
