"""Does the position encoding matter at the lengths that were trained on? Vaswani et al. 2017, Table 3 (E).

    python launch.py --mode=ablate --config=experiments/ablations/positions.py --workdir=runs/positions \\
        --config.base.data.directory=DIR

DIR holds Multi30k's train.*, val.* and test_2016_flickr.* in English and German, cased and untokenised.

A learned table is initialised with a standard deviation of 0.02, as in BERT and GPT-2, or with that of sinusoids, sqrt(1/2),
because a table with small entries has little effect beside embeddings with a variance of 1. "none" has no encoding at all: its
encoder reads a bag of words; its decoder still has the causal mask. Longer lengths than in training: length_generalization.py.
The learning rates lie around the best one of heads.py, whose base is the same, 6e-3. In the search, one seed of each is
enough: in that of heads.py the best rate is 0.15 nats or more ahead of the others, and seeds differ by 0.08 at most.

Not finished: `experiments/reports/positions` has the plan and the rows of the finished runs, 37 of 57: the whole search, two of
six seeds and four arms of the third. To resume the study, use a copy of that folder as --workdir. Two runs at a time on two
cores, a run takes 10 to 15 minutes. Of all arms the best rate is 6e-3, the middle one, with a third of the updates and, for
"sinusoidal", with all.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    learned = {"model.positions": "learned", "model.positions.size": "64"}
    return Study(
        question="Does the position encoding matter at the lengths that were trained on?",
        claims=(
            Claim(
                text="Learned positions give nearly the same as sinusoids (perplexity 4.92 and 4.92, BLEU 25.7 and 25.8).",
                source="Vaswani et al. 2017, 6.2 and Table 3 (E)",
                kind="equal",
                arms=("learned, 0.02", "learned, 0.71"),
                margin=0.02,
            ),
            Claim(
                text="To make use of the order of a sequence, the model must be told about positions.",
                source="Vaswani et al. 2017, 3.5",
                kind="worse",
                arms=("none",),
            ),
        ),
        base=studies.base_m(matmul_dtype="bfloat16"),
        arms={
            "sinusoidal": {},
            "learned, 0.02": learned | {"model.positions.stddev": "0.02"},
            "learned, 0.71": learned | {"model.positions.stddev": "0.71"},
            "rotary": {"model.positions": "rotary"},
            "t5": {"model.positions": "t5"},
            "none": {"model.positions": "none"},
        },
        metrics=studies.BASE_M,
        compare_with="sinusoidal",
        seeds=6,
        learning_rates=(3e-3, 6e-3, 1.2e-2),
        search_seeds=1,
        search_fraction=1 / 3,
        search_check="sinusoidal",
        fair=("steps", "tokens", "parameters"),
    )
