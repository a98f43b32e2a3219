"""T5-base: 223 M parameters.

python launch.py --mode=describe --config=experiments/published/t5_base.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.t5(12, 768, 3072, 12)
