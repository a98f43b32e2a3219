"""Does Muon learn faster than AdamW? Both at their own best learning rates, on base M. Jordan 2024; Liu et al. 2025.

    python launch.py --mode=ablate --config=experiments/ablations/muon.py --workdir=runs/muon \\
        --config.base.data.directory=DIR

DIR holds Multi30k's train.*, val.* and test_2016_flickr.* in English and German, cased and untokenised. The base is that of
`heads.py`; both optimizers have a weight decay of 0.1. Muon's updates are scaled to the size of Adam's, so both are searched
over the same learning rates. The metric is the number of updates until the validation loss reaches 2.5 nats; one run with Adam
at the smallest rate needed 1,400 of its 2,000 updates. The report also gives the time that a run of each takes.

Published: about half of AdamW's training FLOPs for the same loss, for language models that are trained for one epoch (Liu et
al. 2025, section 3.2). Base M is trained for seven epochs, so only the direction of the difference is claimed here.

Not run yet: 26 runs; --dry_run=measure says how long that takes.
"""

from experiments.shapes import studies
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

UNTIL = Metric("validation/nll", "lower", take="updates", target=2.5)


def get_study() -> Study:
    source = "Jordan 2024; Liu et al. 2025, section 3.2"
    return Study(
        question="Does Muon learn faster than AdamW, both tuned?",
        claims=(
            Claim("Muon reaches a loss after fewer updates.", source, "better", ("Muon",), metric=UNTIL.label),
            Claim("Muon ends at a lower loss after equally many updates.", source, "better", ("Muon",)),
        ),
        base=override(studies.base_m(matmul_dtype="bfloat16"), {"train.optimizer": "adamw", "train.weight_decay": "0.1"}),
        arms={"AdamW": {}, "Muon": {"train.optimizer": "muon"}},
        metrics=(*studies.BASE_M, UNTIL),
        compare_with="AdamW",
        seeds=5,
        learning_rates=(1.5e-3, 3e-3, 6e-3, 1.2e-2),
        fair=("steps", "tokens", "parameters"),
    )
