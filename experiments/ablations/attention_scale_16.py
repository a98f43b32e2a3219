"""What does the factor 1/sqrt(d_k) do where d_k is small? As attention_scale.py, with d_k 16.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_16.py --workdir=runs/attention_scale_16

Not run yet.
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
