"""Which way to tell positions, at the lengths that were trained on? Vaswani et al. 2017, Table 3 (E).

    python launch.py --mode=ablate --config=experiments/ablations/positions.py --workdir=runs/positions

Not run yet. "none" is the floor: an encoder without positions reads a bag of words, whatever their order (its decoder still
has the causal mask). Lengths beyond those trained on: length_generalization.py.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    kinds = ("sinusoidal", "learned", "rotary", "alibi", "t5", "shaw", "none")
    return Study(
        question="Which way to tell positions, at the lengths that were trained on?",
        claims=(
            Claim(
                text="Learned positions give nearly the same as sinusoids (perplexity 4.92 and 4.92, BLEU 25.7 and 25.8).",
                source="Vaswani et al. 2017, 6.2 and Table 3 (E)",
                kind="equal",
                arms=("learned",),
                margin=0.05,
            ),
            Claim(
                text="To make use of the order of a sequence, the model must be told of positions.",
                source="Vaswani et al. 2017, 3.5",
                kind="worse",
                arms=("none",),
            ),
        ),
        base=studies.number_words(120, max_positions=64),
        arms={kind: {"model.positions": kind} for kind in kinds},
        metrics=studies.NUMBER_WORDS,
        compare_with="sinusoidal",
        seeds=3,
        fair=("steps", "tokens", "parameters"),
    )
