"""Masked language model of plain text files, by a small BERT.

    python launch.py --config=experiments/bert_pretrain.py --config.data.directory=DIR

DIR holds train.txt and validation.txt, with blank lines between paragraphs. `--config.train.init_from=runs/bert_pretrain` then
starts another run of the same sizes from it. WikiText-2, seed 0: perplexity 112.0 of the masked tokens of validation, 31.8 %
right; 29 min on one of two cores beside other work.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Objective


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="masked_lm"),
        model=small.bert(4),
        data=small.documents(max_source_length=128, row_length=128),
        train=small.train(steps=1000),
        checkpoint=Checkpoint(every_steps=500),
    )
