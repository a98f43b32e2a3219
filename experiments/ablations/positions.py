"""Which way to tell positions, at the lengths that were trained on? Vaswani et al. 2017, Table 3 (E).

    python launch.py --mode=ablate --config=experiments/ablations/positions.py --workdir=runs/positions

Three seeds, under 2 min a run on one of two cores. After 120 updates sinusoids, rotary positions and ALiBi have 66, 57, 52 %
of numbers right (0.16, 0.18, 0.20 nats), a learned table, T5's bias and Shaw's 10, 9, 11 % (0.37 to 0.38), no positions 9 %
(0.38). The three runs with sinusoids differ too much to tell either claim: a table is worse by 0.225 nats (-0.053 to 0.337),
no positions by 0.232 (-0.054 to 0.340). The paper's models had 100,000 updates.

"none" is the floor: an encoder without positions reads a bag of words, whatever their order (its decoder still
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
        base=studies.number_words(120),
        arms={
            kind: {"model.positions": kind} | ({"model.positions.size": "64"} if kind == "learned" else {}) for kind in kinds
        },
        metrics=studies.NUMBER_WORDS,
        compare_with="sinusoidal",
        seeds=3,
        fair=("steps", "tokens", "parameters"),
    )
