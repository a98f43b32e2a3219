"""Denoising of plain text files (Lewis et al. 2020): infilling, sentences permuted, by a small BART.

    python launch.py --config=experiments/bart_pretrain.py --config.data.directory=DIR

DIR holds train.txt and validation.txt, paragraphs parted by blank lines. Not scored yet.
"""

from transformer.config import Checkpoint, Config, Data, Model, Objective, Train


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
        data=Data(
            source="documents",
            train="train.txt",
            validation="validation.txt",
            test=None,
            max_source_length=128,
            max_target_length=128,
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
