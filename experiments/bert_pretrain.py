"""Masked language model of plain text files, by a small BERT.

    python launch.py --config=experiments/bert_pretrain.py --config.data.directory=DIR

DIR holds train.txt and validation.txt, paragraphs parted by blank lines. `--config.train.init_from=runs/bert_pretrain` then
starts another run of the same sizes from it. Not scored yet.
"""

from transformer.config import Checkpoint, Config, Data, Model, Objective, Train


def get_config() -> Config:
    return Config(
        family="encoder_only",
        objective=Objective(kind="masked_lm"),
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
        data=Data(
            source="documents", train="train.txt", validation="validation.txt", test=None, max_source_length=128, row_length=128
        ),
        train=Train(
            steps=2000,
            batch_tokens=4096,
            learning_rate=1e-3,
            schedule="linear",
            warmup_steps=100,
            label_smoothing=0.0,
            evaluate_every=250,
        ),
        checkpoint=Checkpoint(every_steps=500),
    )
