"""How many heads can be removed from a trained model? Michel et al. 2019, section 4.

    python launch.py --mode=ablate --config=experiments/ablations/heads_pruning.py --workdir=runs/heads_pruning

Three seeds, trained in 3 min each on one of two cores. With all heads every number is right. Without 10, 20, 30 and 40 % of the
heads 100.0, 99.4, 94.0 and 80.9 % are right (means of logits). 100 % has no logit, so differences are those of arithmetic
means. For 40 % the study cannot tell whether the claim holds: 19.5 points are lost (5.4 to 33.5), but not certainly more than
1, with Holm's correction over both claims. Three seeds are too few to show a loss of 1 point. The study does not decide the
claim about 20 % (1.00 points, 0.00 to 3.63), because both arms are within 1 point of 100 %.

The claims were changed after the runs, because they did not test their words: they required equal losses within 0.02 nats, so
that an improvement would have counted against them, and 0.02 nats are 40 times the loss with all heads.

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
            text=f"{share} of the heads can be taken out without any noticeable negative impact (here: less than 1 point).",
            source=f"{SOURCE} ({'WMT' if share == '20 %' else 'BERT'})",
            kind="not worse",
            arms=(f"{share} fewer",),
            margin=1.0,
            metric="test/exact_match",
        )

    arms = {ALL: {}} | {f"{percent} % fewer": {"heads_removed": f"0.{percent}"} for percent in (10, 20, 30, 40)}
    return study("How many heads can be taken out of a trained model?", (without("20 %"), without("40 %")), arms, ALL)
