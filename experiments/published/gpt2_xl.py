"""GPT-2 XL: 1.56 B parameters.

python launch.py --mode=describe --config=experiments/published/gpt2_xl.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.gpt2(48, 1600, 25)
