"""T5-3B: 2.85 B parameters.

python launch.py --mode=describe --config=experiments/published/t5_3b.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.t5(24, 1024, 16384, 32, d_k=128)
