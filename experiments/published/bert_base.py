"""BERT-base: 109.5 M parameters without the heads of pre-training.

python launch.py --mode=describe --config=experiments/published/bert_base.py
"""

from experiments.shapes import published
from transformer.config import Config


def get_config() -> Config:
    return published.bert(12, 768)
