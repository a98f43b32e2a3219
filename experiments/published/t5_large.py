"""T5-large: 738 M parameters.

python launch.py --mode=describe --config=experiments/published/t5_large.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.t5(24, 1024, 4096, 16)
