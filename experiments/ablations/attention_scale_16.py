"""What does the factor 1/sqrt(d_k) do where d_k is small? As attention_scale.py, with d_k 16.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_16.py --workdir=runs/attention_scale_16

Three seeds, 1 to 4 min a run on one of two cores that did other work too. Unscaled is worse by 0.077 nats (0.055 to 0.099), and
80 % of numbers are right for 97. That is less than the 0.42 nats of d_k 64 and the 0.88 of d_k 256, but the factor is missed,
which disagrees. A likely reason: the model is young, and without the factor its logits begin with a variance of 12
(attention_scale_start.py). QK-norm, a learned factor, W_q / sqrt(d_k) and 1/d_k are not told apart from 1/sqrt(d_k).
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
