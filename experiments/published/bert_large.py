"""BERT-large: 335 M parameters without the heads of pre-training.

python launch.py --mode=describe --config=experiments/published/bert_large.py
"""

from experiments.published import shapes
from transformer.config import Config


def get_config() -> Config:
    return shapes.bert(24, 1024)
