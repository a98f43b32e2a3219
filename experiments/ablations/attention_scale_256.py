"""What does the factor 1/sqrt(d_k) do where d_k is large? As attention_scale.py, with d_k 256.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_256.py --workdir=runs/attention_scale_256

Not run yet.
"""

from experiments.ablations.attention_scale import LARGE, study
from transformer.studies.study import Study


def get_study() -> Study:
    return study(256, LARGE)
