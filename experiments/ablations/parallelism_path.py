"""How far does a gradient reach before training? Recurrent and self-attention layers; Vaswani et al. 2017, Table 1.

    python launch.py --mode=ablate --config=experiments/ablations/parallelism_path.py --workdir=runs/path

The gradient of the loss of the first word of a target, by the tokens of its source of 100 items: 64 tokens before the source's
end, over that 1 token before. Self-attention has paths of one step between any two positions, a recurrent layer as many as lie
between them, unless attention looks at its states. The LSTM's forget gates begin open, with a bias of 1.

Seeds 0 to 4, 3 min on two shared cores (--workers=2): 0.88 by self-attention, 4e-6 to 2e-5 by an LSTM, 2e-11 to 3e-11 by a GRU,
0.078 by a GRU with Bahdanau's attention, as at 8 tokens (reports/parallelism_path).
"""

import dataclasses

from experiments.ablations.parallelism import SOURCE, arm, base
from transformer.studies.study import Claim, Metric, Study

ITEMS = 100


def get_study() -> Study:
    recurrent = arm("recurrent", ITEMS)
    return Study(
        question="How far does a gradient reach before training?",
        claims=(
            Claim(
                text="The shorter paths between positions are, the easier long-range dependencies are learned: O(1) steps "
                "by self-attention, O(n) by recurrent layers.",
                source=SOURCE,
                kind="worse",
                arms=("LSTM", "GRU"),
            ),
        ),
        base=dataclasses.replace(base(), train=dataclasses.replace(base().train, init_metrics=("gradient_distance",))),
        arms={
            "Transformer": arm("Transformer", ITEMS),
            "LSTM": recurrent | {"model.recurrent.cell": "lstm"},
            "GRU": recurrent | {"model.recurrent.cell": "gru"},
            "GRU, Bahdanau": recurrent | {"model.recurrent.cell": "gru", "model.recurrent.attention": "bahdanau"},
        },
        metrics=tuple(Metric(f"init/gradient_distance@{distance}", "higher") for distance in (64, 32, 16, 8, 4, 2)),
        compare_with="Transformer",
        checkpoint="last",
        fair=("steps", "tokens"),
    )
