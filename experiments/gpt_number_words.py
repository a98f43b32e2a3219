"""Number words, English to German, by a decoder alone: the source is a prefix that all of it sees (Raffel et al. 2020, 3.2.1).

    python launch.py --config=experiments/gpt_number_words.py

Not scored yet.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Evaluate, Objective, Search


def get_config() -> Config:
    return Config(
        family="decoder_only",
        objective=Objective(kind="translate"),
        model=small.gpt(4),
        data=Data(vocabulary_size=128, batching="bucketed", buckets=4),
        train=small.train(steps=600),
        evaluate=Evaluate(scores=("exact_match", "chrf")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=500),
    )
