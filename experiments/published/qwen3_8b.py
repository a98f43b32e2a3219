"""Qwen3: 8.19 B parameters.

python launch.py --mode=describe --config=experiments/published/qwen3_8b.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.qwen3(36, 4096, 12_288, 32, tying="none")
