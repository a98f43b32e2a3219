"""How many heads can be removed from a trained model? Michel et al. 2019, section 4.

    python launch.py --mode=ablate --config=experiments/ablations/heads_pruning.py --workdir=runs/heads_pruning

Three seeds, trained in 3 min each on one of two cores. With all heads every number is right. Without 10 % of the heads that
does not change; without 20 %, 99 % of the numbers are right, without 30 % 93 %, and without 40 % 80 % (0.067 nats more: 0.040
to 0.112). So 40 % of the heads cannot be removed here. The study cannot tell whether removing 20 % costs less than 0.02 nats
(0.004, alone 0.000 to 0.022).

There are 24 heads. Those whose gates have the smallest gradients on validation, normalised in each layer, are removed first
(equation 2 of the paper). The model is not trained afterwards, and all test scores are without the removed heads. Arms differ
only in which heads are removed, so each seed is one model that is trained once. The other two studies use the same models if
they run in the same workdir (keep this study's report first): heads_pruning_random.py compares with heads removed at random,
heads_pruning_places.py compares the three kinds of attention.
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
