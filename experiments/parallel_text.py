"""Your own parallel text: two files, line n of one the translation of line n of the other.

    python launch.py --config=experiments/parallel_text.py --workdir=runs/mine \\
        --config.data.directory=DIR --config.data.source_language=en --config.data.target_language=de

reads DIR/train.en and DIR/train.de to train on, DIR/validation.* to choose on and DIR/test.* to score at the end (all
may be .gz). --config.data.test=none where there is no test set. The size below is for some 100,000 pairs on a laptop.
"""

from transformer.config import Checkpoint, Config, Data, Model, Train


def get_config() -> Config:
    return Config(
        model=Model(
            num_encoder_layers=3, num_decoder_layers=3, d_model=256, d_ff=1024, num_heads=4, norm_order="pre", unroll=3
        ),
        data=Data(source="text", vocabulary_size=8000, batching="bucketed"),
        train=Train(steps=20_000, batch_tokens=4096, learning_rate=1e-3, warmup_steps=1000, evaluate_every=500),
        checkpoint=Checkpoint(every_steps=500, keep_last=5, best_metric="validation/nll"),
    )
