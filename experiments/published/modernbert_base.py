"""ModernBERT base: 150 M parameters.

python launch.py --mode=describe --config=experiments/published/modernbert_base.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.modernbert_base()
