"""Pre- or post-norm, with and without warm-up? As norm_order.py, with 12 layers a side, at the higher learning rate alone.

    python launch.py --mode=ablate --config=experiments/ablations/norm_order_12.py --workdir=runs/norm_order_12

Three seeds, 2 to 5 min a run on one of two cores that did other work too. After 200 updates pre-norm is at 1.04 nats with the
warm-up and 1.11 without (six layers: 0.85, 0.87), post-norm at 4.91 and 4.79: the warm-up does not save it (better without by
0.12, -0.76 to 0.99). It was at 3.35 after 75 updates, and went on to learn what holds with dropout alone: of a model that ends
at 5.1 the loss with dropout, as in training, is 3.0 on the same text.
"""

from experiments.ablations.norm_order import RATES, study
from transformer.studies.study import Study


def get_study() -> Study:
    return study(12, RATES[-1:])
