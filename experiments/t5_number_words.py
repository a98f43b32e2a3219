"""Number words, English to German, by a small T5.

    python launch.py --config=experiments/t5_number_words.py

Not scored yet.
"""

from transformer.config import Checkpoint, Config, Data, Model, Objective, Train


def get_config() -> Config:
    return Config(
        family="encoder_decoder",
        objective=Objective(kind="translate"),
        model=Model(
            num_encoder_layers=3,
            num_decoder_layers=3,
            d_model=128,
            d_ff=320,
            num_heads=4,
            norm_order="pre",
            norm_kind="rms",
            positions="t5",
            activation="geglu_tanh",
            attention_scale="none",
            attention_bias=False,
            ff_bias=False,
            embedding_scale="none",
            tying="three_way",
            logits_scale="1/sqrt(d_model)",
            unroll=3,
        ),
        data=Data(vocabulary_size=128, batching="bucketed", buckets=4, prefix="translate English to German: "),
        train=Train(
            steps=600,
            batch_tokens=4096,
            learning_rate=1e-3,
            schedule="linear",
            warmup_steps=100,
            label_smoothing=0.0,
            evaluate_every=250,
        ),
        checkpoint=Checkpoint(every_steps=500),
    )
