"""Do the gradients of gates show which heads a trained model needs? As heads_pruning.py, against heads removed at random.

    python launch.py --mode=ablate --config=experiments/ablations/heads_pruning_random.py --workdir=runs/heads_pruning_random

Three seeds, the models of heads_pruning.py. Without 20, 40, 60, 80 % of the heads, 99, 81, 31, 4 % of the numbers are right if
heads are removed in the order of their gradients, and 96, 44, 6, 0 % if they are removed at random. The losses at each
percentage differ in the same direction, but the study cannot tell any of these differences from noise: seeds differ by as much
(0.07 to 0.26 nats at 40 %), and the variance is pooled over all percentages. Beyond 60 % the score drops sharply, as the paper
says (0.42 to 1.29 nats); the study cannot tell for smaller percentages.

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
