"""GPT-2: 124 M parameters.

python launch.py --mode=describe --config=experiments/published/gpt2_small.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.gpt2(12, 768, 12)
