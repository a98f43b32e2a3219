"""Llama 3: 8.03 B parameters.

python launch.py --mode=describe --config=experiments/published/llama_3_8b.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.llama_3_8b()
