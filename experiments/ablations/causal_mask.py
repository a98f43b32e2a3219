"""What is the causal mask for? With and without it, in training and in evaluation. Vaswani et al. 2017, 3.2.3.

    python launch.py --mode=ablate --config=experiments/ablations/causal_mask.py --workdir=runs/causal_mask

Three seeds, 25 min with --workers=2 on two cores that did other work too. A model that is trained and scored without a mask
reads the tokens that it should predict: its loss on the test is 0.002, about as low as with the mask (0.001), and yet not one
of its 1,000 outputs is right. A model that is trained without a mask and scored with it has a loss of 4.64. A model that is
trained with the mask and scored without it has a loss of 3.42 with teacher forcing, and yet 95 % of its outputs are right (97,
84, 98 by seed; the mean is that of logits), because the last token of a prefix sees the same tokens with or without a mask.
Without a mask in evaluation, the whole prefix is recomputed for each new token, because a cache is causal by construction.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Metric, Study


def get_study() -> Study:
    file = "experiments/variants/causal_mask.py"
    return Study(
        question="What is the causal mask for?",
        claims=(
            Claim(
                text="The mask preserves the auto-regressive property: it keeps what follows from flowing back.",
                source="Vaswani et al. 2017, 3.2.3",
                kind="worse",
                arms=("none in training", "none at all"),
            ),
        ),
        base=studies.number_words(steps=300),
        arms={
            "both": {},
            "none in training": {"model.mask": f"{file}:UnmaskedTraining"},
            "none in evaluation": {"model.mask": f"{file}:UnmaskedEvaluation"},
            "none at all": {"model.mask": "all"},
        },
        metrics=(
            Metric("test/exact_match", "higher"),
            Metric("validation/nll", "lower"),
            Metric("test/nll", "lower"),
        ),
        compare_with="both",
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens", "flops", "parameters"),
    )
