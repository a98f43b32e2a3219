"""GPT-2 large: 774 M parameters.

python launch.py --mode=describe --config=experiments/published/gpt2_large.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.gpt2(36, 1280, 20)
