"""Summarisation from 1,000 pairs, told by a prefix, by a small T5: from scratch, or fine-tuned from span corruption.

    python launch.py --config=experiments/t5_summaries.py
    python launch.py --config=experiments/t5_summaries.py --workdir=runs/t5_summaries_pretrained \\
        --config.train.init_from=runs/t5_stories_pretrain

Not scored yet. For pairs of one's own: --config.data.source=text and a directory, as in parallel_text.py.
"""

import dataclasses

from experiments import bart_summaries
from experiments.shapes import small
from transformer.config import Config


def get_config() -> Config:
    config = bart_summaries.get_config()
    return dataclasses.replace(
        config,
        model=small.t5(),
        data=dataclasses.replace(config.data, puzzle_train_size=1000, buckets=1, prefix="summarize: "),
        train=dataclasses.replace(config.train, steps=400, batch_tokens=1024),
    )
