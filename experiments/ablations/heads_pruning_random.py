"""Do the gradients of gates show which heads a trained model needs? As heads_pruning.py, against heads removed at random.

    python launch.py --mode=ablate --config=experiments/ablations/heads_pruning_random.py --workdir=runs/heads_pruning_random

Three seeds, the models of heads_pruning.py. Without 20, 40, 60, 80 % of the heads, 99.4, 80.9, 28.3, 3.5 % of the numbers are
right if heads are removed in the order of their gradients, and 97.1, 43.0, 4.9, 0.0 % if they are removed at random (means of
logits). At each percentage the loss is higher at random, by 0.009, 0.16, 0.29 and 0.39 nats, but the study cannot tell any of
these differences from noise: at 40 % the interval is -0.01 to 1.20. At 20 % both losses are at the floor. In the order of the
gradients, the loss is 0.07, 0.39 and 1.20 nats at 40, 60 and 80 %; the study cannot tell whether both of these steps are
increases (0.32, 0.04 to 1.34; 0.81, -0.95 to 3.67).

The claims were worded again after the runs, because the paper's "sharply" is not tested: any increase of the loss would do.

The random order depends on the seed only, so that arms with the same seed remove the first heads of the same order.
"""

from experiments.ablations.heads_pruning import ALL, SOURCE, study
from transformer.studies.study import Claim, Study

SHARES = (20, 40, 60, 80)
ORDERS = ("gradient", "random")


def name(order: str, percent: int) -> str:
    return f"{order}, {percent} % fewer"


def get_study() -> Study:
    ranked = tuple(
        Claim(
            text=f"The order says which heads matter: without {percent} % of them, the loss is higher if they are random ones.",
            source="follows from Michel et al. 2019, 4.1, which has no random order",
            kind="order",
            arms=tuple(name(order, percent) for order in ORDERS),
        )
        for percent in SHARES
    )
    sharp = Claim(
        text="Performance drops when more are taken out, from 40 to 60 and from 60 to 80 % (how sharply is not tested).",
        source=SOURCE,
        kind="order",
        arms=tuple(name("gradient", percent) for percent in SHARES if percent >= 40),
    )
    arms = {name(o, p): {"heads_removed": f"0.{p}", "head_order": o} for o in ORDERS for p in SHARES}
    question = "Do the gradients of gates say which heads a trained model needs?"
    return study(question, (*ranked, sharp), {ALL: {}} | arms, ALL)
