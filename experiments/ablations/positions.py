"""Which way to tell positions, at the lengths that were trained on? Vaswani et al. 2017, Table 3 (E).

    python launch.py --mode=ablate --config=experiments/ablations/positions.py --workdir=runs/positions

Three seeds, under 2 min a run on one of two cores. After 120 updates positions that are given, sinusoids, rotary, ALiBi, have
66, 57, 52 % of numbers right (0.16, 0.18, 0.20 nats), those that are learned, a table, T5's bias, Shaw's, 10, 9, 11 % (0.37
to 0.38), as no positions at all (9 %, 0.38): German says units before tens, and they have not learned what stands where. So
that learned positions are as good as sinusoids disagrees, of this early time; the paper's models had 100,000 updates, and here
a table begins with a standard deviation of 0.02 beside embeddings of 1, sinusoids of 0.7, which may be why (not tried).

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
        base=studies.number_words(120, max_positions=64),
        arms={kind: {"model.positions": kind} for kind in kinds},
        metrics=studies.NUMBER_WORDS,
        compare_with="sinusoidal",
        seeds=3,
        fair=("steps", "tokens", "parameters"),
    )
