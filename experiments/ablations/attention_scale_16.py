"""What does the factor 1/sqrt(d_k) do where d_k is small? As attention_scale.py, with d_k 16.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_16.py --workdir=runs/attention_scale_16

Three seeds, 1 to 4 min a run on one of two cores that did other work too. Unscaled is worse by 0.076 nats (0.028 to 0.152),
and 80 % of numbers are right for 97; whether that is less than 0.05 nats cannot be told. It is less than the 0.38 nats of d_k
64 and the 0.88 of d_k 256. The model is young, and without the factor its logits begin with a variance of 12
(attention_scale_start.py).
"""

from experiments.ablations.attention_scale import study
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    claim = Claim(
        text="For small d_k, additive attention and dot products without a factor perform alike: it is not missed.",
        source="Vaswani et al. 2017, 3.2.1, after Britz et al. 2017",
        kind="equal",
        arms=("none",),
        margin=0.05,
    )
    return study(16, claim)
