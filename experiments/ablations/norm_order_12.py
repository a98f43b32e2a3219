"""Pre- or post-norm, with and without warm-up? As norm_order.py, with 12 layers a side, at the higher learning rate alone.

    python launch.py --mode=ablate --config=experiments/ablations/norm_order_12.py --workdir=runs/norm_order_12

Not run yet.
"""

from experiments.ablations.norm_order import RATES, study
from transformer.studies.study import Study


def get_study() -> Study:
    return study(12, RATES[-1:])
