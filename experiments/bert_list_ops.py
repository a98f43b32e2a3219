"""Classification: the value of nested list operations (Nangia and Bowman 2018), by a small BERT. Made on the spot.

    python launch.py --config=experiments/bert_list_ops.py

Not scored yet.
"""

from transformer.config import Checkpoint, Config, Data, Model, Objective, Train


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="classify"),
        model=Model(
            num_encoder_layers=4,
            d_model=128,
            d_ff=512,
            num_heads=4,
            norm_order="pre",
            positions="rotary",
            activation="gelu",
            embedding_scale="none",
            embedding_init="normal",
            token_types=2,
            unroll=4,
        ),
        data=Data(source="list_ops", vocabulary="characters", batching="bucketed", buckets=4),
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
