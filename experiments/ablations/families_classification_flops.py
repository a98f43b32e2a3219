"""Which family classifies best at equal FLOPs: an encoder, a decoder, or both? As families_classification.py, but the
encoder-decoder has four layers a side: of its decoder's work on two tokens there is little. Raffel et al. 2020, 3.2.

    python launch.py --mode=ablate --config=experiments/ablations/families_classification_flops.py \\
        --workdir=runs/families_classification

Not run yet. In the workdir of families_classification.py the other arms are trained already; its report is written over,
so keep it first.
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
