"""Classification: the value of nested list operations (Nangia and Bowman 2018), by a small BERT. The data are generated.

    python launch.py --config=experiments/bert_list_ops.py

Seed 0, with --config.data.synthetic_train_size=60000 --config.train.steps=2000: 62.7 % of 2,000 right, macro F1 63.6 (the most
frequent label: 11 %); 29 min on one of two cores beside other work.

Real ListOps (nyu-mll/spinn's d8: other operations, up to 277 tokens), its 10,000 lines shuffled by `random.Random(0).shuffle`
and cut to 9,000, 500 and 500 of train.tsv, validation.tsv and test.tsv: 80.8 % of the test right after 1,000 updates, 11 min.

    python launch.py --config=experiments/bert_list_ops.py --config.data.source=tsv --config.data.directory=DIR \\
        --config.data.vocabulary=bpe --config.data.vocabulary_size=40 --config.data.max_source_length=512
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Objective


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="classify"),
        model=small.bert(4),
        data=Data(source="list_ops", vocabulary="characters", batching="bucketed", buckets=4),
        train=small.train(steps=1000),
        checkpoint=Checkpoint(every_steps=500),
    )
