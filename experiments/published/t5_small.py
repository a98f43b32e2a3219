"""T5-small: 60.5 M parameters.

python launch.py --mode=describe --config=experiments/published/t5_small.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.t5(6, 512, 2048, 8)
