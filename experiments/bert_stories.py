"""Question answering: an answer is a span of a short story, by a small BERT. Made on the spot.

    python launch.py --config=experiments/bert_stories.py

Not scored yet.
"""

from transformer.config import Checkpoint, Config, Data, Model, Objective, Train


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="answer"),
        model=Model(
            num_encoder_layers=3,
            d_model=128,
            d_ff=512,
            num_heads=4,
            norm_order="pre",
            positions="rotary",
            activation="gelu",
            embedding_scale="none",
            embedding_init="normal",
            token_types=2,
            unroll=3,
        ),
        data=Data(source="stories", vocabulary_size=500, batching="bucketed", buckets=3),
        train=Train(
            steps=1000,
            batch_tokens=4096,
            learning_rate=1e-3,
            schedule="linear",
            warmup_steps=100,
            label_smoothing=0.0,
            evaluate_every=250,
        ),
        checkpoint=Checkpoint(every_steps=500),
    )
