"""How much does a wider vector hold? As bottleneck.py, without attention, at several widths.

    python launch.py --mode=ablate --config=experiments/ablations/bottleneck_width.py --workdir=runs/bottleneck_width

Not run yet. Wider models have more parameters too.
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
        fair=("steps", "tokens"),
    )
