"""Does the number of heads matter at equal compute, d_k = d_v = d_model / h? Vaswani et al. 2017, Table 3 (A).

    python launch.py --mode=ablate --config=experiments/ablations/heads.py --workdir=runs/heads

Three seeds, 2 min a run on one of two cores. Neither 1 head nor 16 can be told from 4 here, where little is left to learn:
after 200 updates 0.016 and 0.012 nats against 0.010. The summed heads have 0.023 at as many parameters, which three seeds
cannot tell from 4 heads either. With more heads each points less at the word that is translated: 0.60, 0.58, 0.52 of the mass
of the best at 4, 8, 16 (no difference that can be told).

"summed" replaces W^O by one block of d_v rows on the sum of the heads. Concatenation before W^O is a sum over
heads too, sum_i head_i W^O_i; summed, the W^O_i are one, so heads cannot write to places of their own. It has fewer
parameters, which a wider feed-forward layer gives back. Head statistics are reported too
(transformer/probes/head_statistics.py): the weight of a head on the token before or behind, how far apart heads are, how well
one finds the word that is translated.
The paper's own models: vaswani_table3.py.
"""

from experiments.shapes import studies
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

SUMMED = "experiments/variants/summed_heads.py:SummedHeads"
HABITS = ("previous_token_head", "next_token_head", "head_distance", "alignment_head_mass")


def get_study() -> Study:
    return Study(
        question="Does the number of heads matter at equal compute?",
        claims=(
            Claim(
                text="A single head is 0.9 BLEU worse than the best setting (perplexity 5.29 against 4.92: 0.073 nats).",
                source="Vaswani et al. 2017, 6.2 and Table 3 (A)",
                kind="worse",
                arms=("1 head",),
                effect=0.073,
            ),
            Claim(
                text="Quality also drops off with too many heads (perplexity 5.01 against 4.92: 0.018 nats).",
                source="Vaswani et al. 2017, 6.2 and Table 3 (A)",
                kind="worse",
                arms=("16 heads",),
                effect=0.018,
            ),
        ),
        base=override(studies.number_words(), {"evaluate.head_statistics": "true"}),
        arms={
            "4 heads": {},
            "1 head": {"model.num_heads": "1"},
            "2 heads": {"model.num_heads": "2"},
            "8 heads": {"model.num_heads": "8"},
            "16 heads": {"model.num_heads": "16"},
            "4 heads, summed": {"model.attention": SUMMED, "model.d_ff": "584"},
        },
        metrics=(*studies.NUMBER_WORDS, *(Metric(f"test/{habit}", "higher") for habit in HABITS)),
        compare_with="4 heads",
        seeds=3,
        fair=("steps", "tokens", "flops", "parameters"),
    )
