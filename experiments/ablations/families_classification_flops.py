"""Which family classifies best at equal FLOPs: an encoder, a decoder, or both? As families_classification.py, but the
encoder-decoder has four layers a side: of its decoder's work on two tokens there is little. Raffel et al. 2020, 3.2.

    python launch.py --mode=ablate --config=experiments/ablations/families_classification_flops.py \\
        --workdir=runs/families_classification_flops

Three seeds, 3 to 5 min a run on one of two cores that did other work too. Four layers a side have 41.4 % of the test's labels
right (30.8 to 52.1), fewer than two (46.1 %): that both sides are better at equal FLOPs disagrees, a prefix LM (48.9 %) being
better by 7.5 points (0.9 to 14.0), and the encoder (52.5 %) by 11.1 (4.5 to 17.6). A likely reason: what teaches the encoder
comes through four layers of a decoder, from two tokens, and 1,000 updates from scratch are few; the paper's were pre-trained.

In a copy of families_classification.py's workdir the other arms are trained already.
"""

import dataclasses

from experiments.ablations import families_classification as equal_parameters
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    study = equal_parameters.get_study()
    deep = equal_parameters.BOTH | {"model.num_encoder_layers": "4", "model.num_decoder_layers": "4"}
    return dataclasses.replace(
        study,
        question="Which family classifies best at equal FLOPs: an encoder, a decoder, or both?",
        claims=(
            Claim(
                text="At equal cost the encoder-decoder, with twice the parameters, is better: GLUE 83.28 against 81.82.",
                source=equal_parameters.SOURCE,
                kind="worse",
                arms=("prefix LM",),
            ),
            study.claims[1],
        ),
        arms={**study.arms, "encoder-decoder": deep},
        fair=("steps", "flops"),
    )
