"""What does the factor 1/sqrt(d_k) on the logits of attention do? d_k is 64, as in the paper. Vaswani et al. 2017, 3.2.1.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale.py --workdir=runs/attention_scale

Unscaled is worse by 0.38 nats (95 % interval 0.09 to 1.48), which agrees with the claim; it gets 26 % of numbers right, the
others 94 to 99 %, which cannot be told from each other. 18 runs of 2 minutes, two at a time (--workers=2): 19 minutes on two
cores. The report is reports/attention_scale/.

d_model, the two heads and d_v are held in all three files (attention_scale_16.py, attention_scale_256.py); kernels
have the variance 1 / inputs, so that queries and keys of normed inputs have the unit variances of the paper's argument.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Study

LARGE = Claim(
    text="For large d_k unscaled dot products grow large and push the softmax to where gradients are small.",
    source="Vaswani et al. 2017, 3.2.1 and footnote 4: with unit variances, q k has the variance d_k",
    kind="worse",
    arms=("none",),
)


def study(d_k: int, claim: Claim) -> Study:
    return Study(
        question=f"What does the factor 1/sqrt(d_k) on the logits of attention do, d_k being {d_k}?",
        claims=(claim,),
        base=studies.number_words(num_heads=2, d_k=d_k, d_v=64, initializer="fan_in"),
        arms={
            "1/sqrt(d_k)": {},
            "none": {"model.attention.scale": "none"},
            "1/d_k": {"model.attention.scale": "1/d_k"},
            "learned": {"model.attention.scale": "learned"},
            "QK-norm": {"model.attention.qk_norm": "true"},
            "none, W_q / sqrt(d_k)": {"model.attention.scale": "none", "model.attention.query_init": "initializer/sqrt(d_k)"},
        },
        metrics=studies.NUMBER_WORDS,
        compare_with="1/sqrt(d_k)",
        seeds=3,
        fair=("steps", "tokens", "flops", "parameters"),
    )


def get_study() -> Study:
    return study(64, LARGE)
