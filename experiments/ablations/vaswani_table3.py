"""Table 3 of "Attention Is All You Need", every row of it, as published: WMT14 English to German. For accelerators.

    python launch.py --mode=ablate --config=experiments/ablations/vaswani_table3.py --workdir=runs/table3 \
        --config.base.data.directory=DIR

DIR is as for experiments/wmt14_base.py. Not run yet. As in the paper, runs are scored on newstest2013 (validation) with beam 4
and without averaging checkpoints. All arms have the same updates and tokens, except the big model, which has 300,000 updates.
There are five seeds, because one run for each arm, as in the paper (--config.seeds=1), gives no verdict: nothing shows how much
runs differ by chance. A small version: vaswani_table3_multi30k.py.
"""

import dataclasses
import math
from collections.abc import Mapping

from experiments import wmt14_base
from transformer.config import Config, Evaluate
from transformer.studies.study import Claim, Metric, Study

# Row -> what it changes of the base model, and its perplexity. The base model has 4.92.
ROWS: Mapping[str, tuple[dict[str, str], float]] = {
    "A: h 1": ({"model.num_heads": "1"}, 5.29),
    "A: h 4": ({"model.num_heads": "4"}, 5.00),
    "A: h 16": ({"model.num_heads": "16"}, 4.91),
    "A: h 32": ({"model.num_heads": "32"}, 5.01),
    "B: d_k 16": ({"model.d_k": "16"}, 5.16),
    "B: d_k 32": ({"model.d_k": "32"}, 5.01),
    "C: N 2": ({"model.num_encoder_layers": "2", "model.num_decoder_layers": "2"}, 6.11),
    "C: N 4": ({"model.num_encoder_layers": "4", "model.num_decoder_layers": "4"}, 5.19),
    "C: N 8": ({"model.num_encoder_layers": "8", "model.num_decoder_layers": "8"}, 4.88),
    "C: d_model 256": ({"model.d_model": "256"}, 5.75),
    "C: d_model 1024": ({"model.d_model": "1024"}, 4.66),
    "C: d_ff 1024": ({"model.d_ff": "1024"}, 5.12),
    "C: d_ff 4096": ({"model.d_ff": "4096"}, 4.75),
    "D: dropout 0": ({"model.dropout_rate": "0"}, 5.77),
    "D: dropout 0.2": ({"model.dropout_rate": "0.2"}, 4.95),
    "D: smoothing 0": ({"train.label_smoothing": "0"}, 4.67),
    "D: smoothing 0.2": ({"train.label_smoothing": "0.2"}, 5.47),
    "E: learned": ({"model.positions": "learned"}, 4.92),
    "big": (
        {
            "model.d_model": "1024",
            "model.d_ff": "4096",
            "model.num_heads": "16",
            "model.dropout_rate": "0.3",
            "train.steps": "300000",
        },
        4.33,
    ),
}
PERPLEXITY = 4.92


def claim(row: str) -> Claim:
    """That the row differs from the base model as published; rows within 0.01 nats of it are to be equal within 0.02."""
    _, perplexity = ROWS[row]
    nats = math.log(perplexity / PERPLEXITY)
    equal = abs(nats) < 0.01
    return Claim(
        text=f"{row}: the perplexity is {'the same (here: within 0.02 nats)' if equal else 'higher' if nats > 0 else 'lower'}.",
        source="Vaswani et al. 2017, Table 3",
        kind="equal" if equal else "worse" if nats > 0 else "better",
        arms=(row,),
        margin=0.02 if equal else 0.0,
        effect=None if equal else round(abs(nats), 3),
    )


def base() -> Config:
    whole = wmt14_base.get_config()
    return dataclasses.replace(whole, data=dataclasses.replace(whole.data, test=None), evaluate=Evaluate(scores=("bleu",)))


def get_study() -> Study:
    return Study(
        question="What does each part of the Transformer contribute?",
        claims=tuple(claim(row) for row in ROWS),
        base=base(),
        arms={"base": {}} | {row: changes for row, (changes, _) in ROWS.items()},
        metrics=(Metric("validation/nll", "lower"), Metric("validation/bleu", "higher")),
        compare_with="base",
        seeds=5,
        checkpoint="last",
        fair=(),
    )
