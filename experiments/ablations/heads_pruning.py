"""How many heads can be taken out of a trained model? Michel et al. 2019, section 4.

    python launch.py --mode=ablate --config=experiments/ablations/heads_pruning.py --workdir=runs/heads_pruning

Three seeds, trained in 3 min each on one of two cores. A model that has every number right keeps that without 10 % of its
heads, 99 % of them without 20 %; without 30 % it is 93 %, without 40 % 80 % (0.067 nats more: 0.040 to 0.112). So 40 % cannot
go here; that 20 % cost less than 0.02 nats cannot be told (0.004, 0.000 to 0.022 alone).

24 heads, of which those go first whose gates have the least gradients on validation, layer by layer normalised
(their equation 2); nothing is trained after that, and all scores of test are without them. Arms differ in that alone, so a
seed is one model, trained once; in the same workdir (keep its report) for the other two studies as well. What many heads or
any heads cost is heads_pruning_random.py, where they are heads_pruning_places.py.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Metric, Study

SOURCE = "Michel et al. 2019, 4.2"
METRICS = (Metric("test/nll", "lower"), Metric("test/exact_match", "higher"))
ALL = "all heads"


def study(question: str, claims: tuple[Claim, ...], arms: dict[str, dict[str, str]], compare_with: str) -> Study:
    """`arms`: settings of `evaluate`. The default job is learned whole here."""
    return Study(
        question=question,
        claims=claims,
        base=studies.number_words(steps=350),
        arms={arm: {f"evaluate.{name}": value for name, value in changes.items()} for arm, changes in arms.items()},
        metrics=METRICS,
        compare_with=compare_with,
        seeds=3,
        blocked=True,
        checkpoint="last",
        fair=("steps", "tokens", "flops", "parameters"),
    )


def get_study() -> Study:
    def without(share: str) -> Claim:
        return Claim(
            text=f"{share} of the heads can be taken out without any noticeable negative impact (BLEU; accuracy).",
            source=f"{SOURCE} ({'WMT' if share == '20 %' else 'BERT'})",
            kind="equal",
            arms=(f"{share} fewer",),
            margin=0.02,
        )

    arms = {ALL: {}} | {f"{percent} % fewer": {"heads_removed": f"0.{percent}"} for percent in (10, 20, 30, 40)}
    return study("How many heads can be taken out of a trained model?", (without("20 %"), without("40 %")), arms, ALL)
