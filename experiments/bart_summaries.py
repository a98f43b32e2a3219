"""Summarisation: who has what at the end of a story, by a small BART. The data are generated.

    python launch.py --config=experiments/bart_summaries.py

Seed 0: ROUGE-1 100.0, ROUGE-2 81.6, ROUGE-L 75.1, 29.8 % exact, on 2,000 test stories (their first three sentences: 83.7,
65.5, 62.2); 38 minutes beside other work, 13 minutes of processor time. The summaries name the right things, but not always
who has them.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Evaluate, Objective, Search


def get_config() -> Config:
    return Config(
        family="encoder_decoder",
        objective=Objective(kind="translate"),
        model=small.bart(),
        data=Data(source="summaries", vocabulary_size=200, max_source_length=128, batching="bucketed", buckets=3),
        train=small.train(steps=1000),
        evaluate=Evaluate(scores=("rouge1", "rouge2", "rougeL", "exact_match")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=500),
    )
