"""Qwen3, the smallest: 596 M parameters.

python launch.py --mode=describe --config=experiments/published/qwen3_600m.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.qwen3(28, 1024, 3072, 16)
