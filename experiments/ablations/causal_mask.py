"""What is the causal mask for? With and without it, in training and in evaluation. Vaswani et al. 2017, 3.2.3.

    python launch.py --mode=ablate --config=experiments/ablations/causal_mask.py --workdir=runs/causal_mask

Three seeds, 25 min with --workers=2 on two cores that did other work too. Trained and scored without a mask a model reads what
it is to say: its loss on the test is 0.002, about as with the mask (0.001), and none of 1,000 numbers that it says is right.
Trained without one and scored with it, the loss is 4.64. A model that was trained with the mask and is scored without has a
loss of 3.43, the target given, and yet 93 % of what it says is right (84, 97, 98 by seed): what it says last sees the same
tokens either way. Without a mask in evaluation, all that was said is read again for each new token, as a cache is causal by
itself.
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
