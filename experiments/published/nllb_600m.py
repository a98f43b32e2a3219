"""NLLB-200, distilled: 615 M parameters.

python launch.py --mode=describe --config=experiments/published/nllb_600m.py
"""

from experiments.shapes import today
from transformer.config import Config


def get_config() -> Config:
    return today.nllb_600m()
