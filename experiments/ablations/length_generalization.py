"""Which way to tell positions goes beyond the lengths that were trained on? Kazemnejad et al. 2023.

    python launch.py --mode=ablate --config=experiments/ablations/length_generalization.py --workdir=runs/length_generalization

Not run yet. A decoder alone copies 4 to 20 letters in training and up to 40 in the test. All it reads is under a causal mask,
as in the paper: without positions a source that sees itself whole would be a bag of letters. Others:
--config.base.data.algorithm=reverse, sort, addition. Learned positions past 20 are as they were drawn.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Metric, Study

OTHERS = ("t5", "alibi", "rotary", "sinusoidal", "learned", "shaw")


def get_study() -> Study:
    source = "Kazemnejad et al. 2023, abstract (ten reasoning and mathematical tasks)"
    return Study(
        question="Which way to tell positions goes beyond the lengths that were trained on?",
        claims=(
            Claim(
                text="No positions at all outperform ALiBi, rotary ones and sinusoids.",
                source=source,
                kind="worse",
                arms=("alibi", "rotary", "sinusoidal"),
            ),
            Claim(text="They outperform T5's bias, which comes next.", source=source, kind="worse", arms=("t5",)),
        ),
        base=studies.gpt_algorithm("copy", (4, 20), (4, 40), steps=500, causal_prefix=True),
        arms={"none": {"model.positions": "none"}} | {kind: {"model.positions": kind} for kind in OTHERS},
        metrics=(
            Metric("test/word_accuracy@21-40", "higher"),
            Metric("test/exact_match@21-40", "higher"),
            Metric("test/exact_match@5-20", "higher"),
            Metric("validation/nll", "lower"),
        ),
        compare_with="none",
        seeds=3,
        fair=("steps", "tokens", "parameters"),
    )
