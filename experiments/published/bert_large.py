"""BERT-large: 335 M parameters without the heads of pre-training.

python launch.py --mode=describe --config=experiments/published/bert_large.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.bert(24, 1024)
