"""How does the variance of attention logits depend on d_k before training? Vaswani et al. 2017, 3.2.1 and footnote 4.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_start.py --workdir=runs/attention_scale_start

Three seeds, 14 min with --workers=2 on two cores. Without the factor the variance is 6.0, 12, 24, 47, 102, 203, 413 at d_k 8
to 512, which is proportional to d_k^1.04 (95 % interval 1.00 to 1.10), as published. It is about 0.8 d_k, not d_k, perhaps
because the words of a sentence are not independent. attention_scale_start_scaled.py asks whether the variance is constant with
the factor, and attention_scale_start_softmax.py asks what both do to the gradient of the softmax. All three studies have the
same runs: copy the folders `runs` and `data` of one workdir into the others, and nothing is trained again. Everything is
measured before the single update of a run. The model is that of attention_scale.py. The claim was worded again after the runs,
because only the exponent of d_k is tested, not that the variance is d_k.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Metric, Study

SOURCE = "Vaswani et al. 2017, 3.2.1 and footnote 4"
WIDTHS = (8, 16, 32, 64, 128, 256, 512)
SCALES = ("none", "1/sqrt(d_k)")
METRICS = (
    Metric("init/logit_variance", "lower"),
    Metric("init/jacobian_norm", "higher"),
    Metric("init/attention_entropy", "higher"),
    Metric("init/query_gradient", "higher"),
    Metric("init/gradient_norm", "lower"),
)


def name(scale: str, d_k: int) -> str:
    return f"{scale}, d_k {d_k}"


def study(question: str, claims: tuple[Claim, ...], scales: tuple[str, ...] = SCALES, first: int = 0) -> Study:
    """`first`: which of the metrics the claims are about."""
    base = studies.number_words(num_heads=2, d_v=64, initializer="fan_in")
    return Study(
        question=question,
        claims=claims,
        base=studies.at_start(base, "logit_variance", "jacobian_norm", "attention_entropy", "query_gradient", "gradient_norm"),
        arms={name(scale, d_k): {"model.attention.scale": scale, "model.d_k": str(d_k)} for scale in scales for d_k in WIDTHS},
        metrics=(METRICS[first], *METRICS[:first], *METRICS[first + 1 :]),
        compare_with=name("1/sqrt(d_k)", 64),
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens"),
    )


def get_study() -> Study:
    claim = Claim(
        text="Without a factor the variance of the dot products grows in proportion to d_k.",
        source=SOURCE,
        kind="exponent",
        arms=tuple(name("none", d_k) for d_k in WIDTHS),
        margin=0.15,
        sizes=tuple(1 / d_k for d_k in WIDTHS),  # a metric that grows with d_k falls with 1 / d_k
        exponent=1.0,
    )
    return study("How does the variance of attention's logits go with d_k before training?", (claim,))
