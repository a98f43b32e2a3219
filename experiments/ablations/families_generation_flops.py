"""Encoder-decoder or a decoder alone for a text of one's own, at equal FLOPs? As families_generation.py, but a decoder alone
has half the layers. Raffel et al. 2020, 3.2.

    python launch.py --mode=ablate --config=experiments/ablations/families_generation_flops.py \\
        --workdir=runs/families_generation_flops

Three seeds, 2 min a run on one of two cores. Cannot tell: a prefix LM is worse than the encoder-decoder by 0.083 nats (-0.072
to 0.238), ROUGE-2 56.5 for 63.4; a language model is not told apart from either (0.357 nats, ROUGE-2 67.3), its seeds differ
most.

In a copy of families_generation.py's workdir the encoder-decoder is trained already.
"""

import dataclasses

from experiments.ablations import families_generation as equal_parameters
from experiments.ablations.families import decoders
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    study = equal_parameters.get_study()
    return dataclasses.replace(
        study,
        question="Encoder-decoder or a decoder alone for a text of one's own, at equal FLOPs?",
        claims=(
            Claim(
                text="At equal cost the encoder-decoder, with twice the parameters, is better: ROUGE-2 19.24 against 18.61.",
                source=equal_parameters.SOURCE,
                kind="worse",
                arms=("prefix LM",),
            ),
            study.claims[1],
        ),
        arms={"encoder-decoder": {}} | decoders(2, **equal_parameters.SHAPE),
        fair=("steps", "flops"),
    )
