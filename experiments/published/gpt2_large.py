"""GPT-2 large: 774 M parameters.

python launch.py --mode=describe --config=experiments/published/gpt2_large.py
"""

from experiments.published import shapes
from transformer.config import Config


def get_config() -> Config:
    return shapes.gpt2(36, 1280, 20)
