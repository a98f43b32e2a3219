"""Do the gradients of gates say which heads a trained model needs? As heads_pruning.py, with as many heads at random.

    python launch.py --mode=ablate --config=experiments/ablations/heads_pruning_random.py --workdir=runs/heads_pruning_random

Three seeds, the models of heads_pruning.py. In the order of the gradients 99, 81, 31, 4 % of numbers are right without 20, 40,
60, 80 % of the heads, at random 96, 44, 6, 0 %. By the loss each step goes the same way and none can be told: seeds differ by
as much (0.07 to 0.26 nats at 40 %), and few heads or many, all are pooled. Past 60 % the fall is sharp, as the paper says (0.42
to 1.29 nats), before it is not told.

A random order is the seed's, so that arms with the same seed take out the first of the same one.
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
            text=f"The order says which heads matter: with {percent} % fewer, those at random are missed more.",
            source="follows from Michel et al. 2019, 4.1, which has no random order",
            kind="order",
            arms=tuple(name(order, percent) for order in ORDERS),
        )
        for percent in SHARES
    )
    sharp = Claim(
        text="Performance drops sharply when more are taken out.",
        source=SOURCE,
        kind="order",
        arms=tuple(name("gradient", percent) for percent in SHARES if percent >= 40),
    )
    arms = {name(o, p): {"heads_removed": f"0.{p}", "head_order": o} for o in ORDERS for p in SHARES}
    question = "Do the gradients of gates say which heads a trained model needs?"
    return study(question, (*ranked, sharp), {ALL: {}} | arms, ALL)
