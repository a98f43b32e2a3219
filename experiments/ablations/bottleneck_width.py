"""How much does a wider vector hold? As bottleneck.py, without attention, at several widths.

    python launch.py --mode=ablate --config=experiments/ablations/bottleneck_width.py --workdir=runs/bottleneck_width

Three seeds, 1 to 3 min a run on one of two cores. With a vector of width 192, 128 or 64, 80, 71 or
29 % of the items are right in lists of 3 to 9 items, 37, 30, 13 % in lists of 10 to 19 and 13.5, 11.9, 7.6 % in lists of 30 to
40 (chance: 4 %). In the longest lists 128 is better than 64 by 4.3 points (1.6 to 7.4); the runs cannot tell whether 192 is
better than 128 (by 1.6, -1.6 to 4.4). Wider models have more parameters too.
"""

from experiments.ablations import bottleneck
from transformer.studies.study import Claim, Study

WIDTHS = (192, 128, 64)


def get_study() -> Study:
    return Study(
        question="How much does a wider vector hold?",
        claims=(
            Claim(
                text="A network needs to squash all of a sentence into a vector of fixed length: the conjectured bottleneck.",
                source="Bahdanau et al. 2015, 1 and 3.1",
                kind="order",
                arms=tuple(f"width {width}" for width in WIDTHS),
            ),
        ),
        base=bottleneck.base(),
        arms={f"width {width}": bottleneck.fixed(width) for width in WIDTHS},
        metrics=bottleneck.METRICS,
        compare_with="width 128",
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens"),
    )
