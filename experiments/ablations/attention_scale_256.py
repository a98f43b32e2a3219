"""What does the factor 1/sqrt(d_k) do where d_k is large? As attention_scale.py, with d_k 256.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_256.py --workdir=runs/attention_scale_256

Three seeds, 2 to 3 min a run on one of two cores that did other work too. Unscaled is worse by 0.88 nats (0.76 to 1.02),
which agrees, and is twice the 0.38 of d_k 64.
"""

from experiments.ablations.attention_scale import LARGE, study
from transformer.studies.study import Study


def get_study() -> Study:
    return study(256, LARGE)
