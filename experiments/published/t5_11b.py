"""T5-11B: 11.3 B parameters.

python launch.py --mode=describe --config=experiments/published/t5_11b.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.t5(24, 1024, 65536, 128, d_k=128)
