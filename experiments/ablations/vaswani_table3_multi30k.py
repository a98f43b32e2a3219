"""A small version of Table 3 of "Attention Is All You Need": its rows in the same proportions, on Multi30k.

    python launch.py --mode=ablate --config=experiments/ablations/vaswani_table3_multi30k.py --workdir=runs/table3_multi30k \
        --config.base.data.directory=DIR

DIR is as for experiments/multi30k.py. Two seeds, 45 min on two cores (--workers=2; 1 to 3 min a run, the big model 5 to 9).
None of the paper's 19 rows is decided: the runs have too few validations to show whether they are still learning, and with two
seeds every simultaneous interval contains 0. Taken alone, d_k 4 is worse by 0.097 nats
(0.066 to 0.127) and the big model better by 1.07 (1.00 to 1.13; 2.68 nats and 20 BLEU against 3.75 and 10), as published.
Without dropout the loss is lower by 0.216 (0.167 to 0.265), with dropout of 0.2 higher by 0.196: training stops after three
quarters of an epoch, in which a model cannot overfit.

The base model is that of the paper at an eighth of the width and half the depth, with four heads. It has pre-norm, because with
post-norm it learns little in so few updates. An arm's name has its own numbers, and those of the paper's row in brackets. Each
claim is that of the paper's row, on other text and after far less training. Arms were named as the paper's rows when they were
run; their names in the tables were changed with these. The words of the claims were changed too, because they quoted the
paper's sizes and BLEU, and only the direction of the loss is tested.
"""

import dataclasses

from experiments.ablations import vaswani_table3
from experiments.shapes import studies
from transformer.config import Config, Model
from transformer.settings import override
from transformer.studies.study import Study

# The rows of the paper in their order, with what each changes here, and its name there where the number is another.
ROWS = {
    "A: h 1": {"model.num_heads": "1"},
    "A: h 2 (paper: 4)": {"model.num_heads": "2"},
    "A: h 8 (paper: 16)": {"model.num_heads": "8"},
    "A: h 16 (paper: 32)": {"model.num_heads": "16"},
    "B: d_k 4 (paper: 16)": {"model.d_k": "4"},
    "B: d_k 8 (paper: 32)": {"model.d_k": "8"},
    "C: N 1 (paper: 2)": {"model.num_encoder_layers": "1", "model.num_decoder_layers": "1"},
    "C: N 2 (paper: 4)": {"model.num_encoder_layers": "2", "model.num_decoder_layers": "2"},
    "C: N 4 (paper: 8)": {"model.num_encoder_layers": "4", "model.num_decoder_layers": "4"},
    "C: d_model 32 (paper: 256)": {"model.d_model": "32"},
    "C: d_model 128 (paper: 1024)": {"model.d_model": "128"},
    "C: d_ff 128 (paper: 1024)": {"model.d_ff": "128"},
    "C: d_ff 512 (paper: 4096)": {"model.d_ff": "512"},
    "D: dropout 0": {"model.dropout_rate": "0"},
    "D: dropout 0.2": {"model.dropout_rate": "0.2"},
    "D: smoothing 0": {"train.label_smoothing": "0"},
    "D: smoothing 0.2": {"train.label_smoothing": "0.2"},
    "E: learned": {"model.positions": "learned", "model.positions.size": "64"},
    "big": {
        "model.d_model": "128",
        "model.d_ff": "512",
        "model.num_heads": "8",
        "model.dropout_rate": "0.3",
        "train.steps": "2400",
    },
}


def base() -> Config:
    model = Model(num_encoder_layers=3, num_decoder_layers=3, d_model=64, d_ff=256, num_heads=4)
    packed = {
        "data.batching": "packed",
        "data.row_length": "64",
        "data.buckets": "6",
        "train.batch_tokens": "512",
    }  # one shape to compile
    short = {"data.vocabulary_size": "2000", "train.evaluate_every": "200", "data.test": "none"}
    return override(studies.multi30k(800, model), packed | short)


def get_study() -> Study:
    whole = vaswani_table3.get_study()
    claims = [dataclasses.replace(claim, arms=(arm,)) for claim, arm in zip(whole.claims, ROWS, strict=True)]
    return dataclasses.replace(
        whole,
        question="What does each part of a small Transformer contribute, on Multi30k?",
        claims=tuple(claims),
        base=base(),
        arms={"base": {}} | ROWS,
        seeds=2,
        checkpoint="last",
    )
