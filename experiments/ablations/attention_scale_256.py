"""What does the factor 1/sqrt(d_k) do where d_k is large? As attention_scale.py, with d_k 256.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_256.py --workdir=runs/attention_scale_256

Three seeds, 2 to 3 min a run on one of two cores that did other work too. Unscaled is worse by 0.88 nats (0.72 to 1.03), which
agrees, and is twice the 0.42 of d_k 64. The factor in W_q at the start alone, as in T5, is no longer as good: 0.27 nats for
0.015 (worse by 0.11 to 0.41), seeds between 0.1 and 0.4. 1/d_k, a learned factor and QK-norm are not told apart from it.
"""

from experiments.ablations.attention_scale import LARGE, study
from transformer.studies.study import Study


def get_study() -> Study:
    return study(256, LARGE)
