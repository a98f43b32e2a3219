"""Named entities: words tagged by what they mean where they stand, by a small BERT. Made on the spot.

    python launch.py --config=experiments/bert_entities.py

Seed 0: 78.4 entity F1 on 2,000 test sentences, half of whose names are in no training sentence; 200 s on two shared
cores.
"""

from transformer.config import Checkpoint, Config, Data, Model, Objective, Train


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="tag"),
        model=Model(
            num_encoder_layers=2,
            d_model=128,
            d_ff=512,
            num_heads=4,
            norm_order="pre",
            positions="rotary",
            activation="gelu",
            embedding_scale="none",
            embedding_init="normal",
            token_types=2,
            unroll=2,
        ),
        data=Data(source="entities", vocabulary_size=1000, batching="bucketed", buckets=3),
        train=Train(
            steps=500,
            batch_tokens=4096,
            learning_rate=1e-3,
            schedule="linear",
            warmup_steps=100,
            label_smoothing=0.0,
            evaluate_every=250,
        ),
        checkpoint=Checkpoint(every_steps=500),
    )
