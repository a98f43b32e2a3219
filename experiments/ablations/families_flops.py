"""Encoder-decoder or a decoder alone, at equal FLOPs? As families.py; a decoder alone has half the layers. Raffel et al. 2020.

    python launch.py --mode=ablate --config=experiments/ablations/families_flops.py --workdir=runs/families_flops

Three seeds, 1 to 2 min a run on one of two cores. The encoder-decoder, of twice the parameters, has 98.2 % of numbers right, a
prefix LM 90.6 % (0.032 nats worse, 0.021 to 0.044, as in the paper), a language model 96.8 %, which again is better than the
prefix LM (by 0.025 nats, 0.015 to 0.035) and not told apart from the encoder-decoder.

FLOPs are those of rows of 64 source and 64 target tokens, or of 128 of both.
"""

import dataclasses

from experiments.ablations import families
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    study = families.get_study()
    return dataclasses.replace(
        study,
        question="Encoder-decoder or a decoder alone, at equal FLOPs?",
        claims=(
            Claim(
                text="At equal cost the encoder-decoder, with twice the parameters, is better: 26.98 BLEU against 26.43.",
                source="Raffel et al. 2020, 3.2.4 and Table 2, EnDe",
                kind="worse",
                arms=("prefix LM",),
            ),
            study.claims[1],
        ),
        arms={"encoder-decoder": {}} | families.decoders(2, slots=128, rows=32),
        fair=("steps", "flops"),
    )
