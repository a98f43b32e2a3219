"""Span corruption of plain text files (Raffel et al. 2020), by a small T5.

    python launch.py --config=experiments/t5_pretrain.py --config.data.directory=DIR

DIR holds train.txt and validation.txt, with blank lines between paragraphs. `--config.train.init_from=runs/t5_pretrain` then
starts a run on a text-to-text task from it. WikiText-2, seed 0: perplexity 108.1 of the tokens of validation's missing spans,
35.7 % right; 19 min on one of two cores beside other work.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Objective


def get_config() -> Config:
    return Config(
        family="encoder_decoder",
        objective=Objective(kind="span_corruption"),
        model=small.t5(),
        data=small.documents(
            max_source_length=128,
            max_target_length=64,
        ),
        train=small.train(steps=1000, batch_tokens=1024),
        checkpoint=Checkpoint(every_steps=500),
    )
