"""GPT-2 medium: 355 M parameters.

python launch.py --mode=describe --config=experiments/published/gpt2_medium.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.gpt2(24, 1024, 16)
