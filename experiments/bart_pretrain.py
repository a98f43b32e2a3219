"""Denoising of plain text files (Lewis et al. 2020): infilling, sentences permuted, by a small BART.

    python launch.py --config=experiments/bart_pretrain.py --config.data.directory=DIR

DIR holds train.txt and validation.txt, paragraphs parted by blank lines. Not scored yet.
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Model, Objective


def get_config() -> Config:
    return Config(
        family="encoder_decoder",
        objective=Objective(kind="denoise", rate=0.3, permute_sentences=True),
        model=Model(
            num_encoder_layers=3,
            num_decoder_layers=3,
            d_model=128,
            d_ff=320,
            num_heads=4,
            positions="learned",
            norm_order="post",
            embedding_norm=True,
            activation="gelu",
            embedding_scale="none",
            tying="three_way",
            logits_bias=True,
            unroll=3,
        ),
        data=small.documents(
            max_source_length=128,
            max_target_length=128,
        ),
        train=small.train(steps=2000),
        checkpoint=Checkpoint(every_steps=500),
    )
