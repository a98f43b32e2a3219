"""Pre- or post-norm, with and without warm-up? As norm_order.py, with 18 layers a side, at the higher learning rate alone.

    python launch.py --mode=ablate --config=experiments/ablations/norm_order_18.py --workdir=runs/norm_order_18

Three seeds, 3 to 5 min a run on one of two cores that did other work too. After 200 updates pre-norm is at 1.08 nats with the
warm-up and 1.19 without, post-norm at 4.91 and 4.47 (better without by 0.43, -0.82 to 1.68): as norm_order_12.py.
"""

from experiments.ablations.norm_order import RATES, study
from transformer.studies.study import Study


def get_study() -> Study:
    return study(18, RATES[-1:])
