"""T5-small: 60.5 M parameters.

python launch.py --mode=describe --config=experiments/published/t5_small.py
"""

from experiments.published import shapes
from transformer.config import Config


def get_config() -> Config:
    return shapes.t5(6, 512, 2048, 8)
