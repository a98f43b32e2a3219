"""How far does a gradient reach before training? Recurrent and self-attention layers; Vaswani et al. 2017, Table 1.

    python launch.py --mode=ablate --config=experiments/ablations/parallelism_path.py --workdir=runs/path

The metric is a ratio of norms of the gradient of the first target word's loss with respect to the source embeddings, for
sources of 100 items: the norm 64 tokens before the end of the source, divided by the norm 1 token before it. Self-attention
has a path of one step between any two positions. In a recurrent layer the path is as long as their distance, unless attention
reads its states. The LSTM's forget gates start open, with a bias of 1.

Seeds 0 to 4, 3 min on two shared cores (--workers=2): 0.87 with self-attention, 4e-6 to 2e-5 with an LSTM, 2e-11 to 3e-11 with
a GRU, 0.078 with a GRU and Bahdanau's attention (0.091 at 8 tokens; reports/parallelism_path). The claim was worded again after
the runs, because nothing is learned here: the paper's claim is that shorter paths make long-range dependencies easier to learn.
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
                text="More of a gradient reaches a distant position by self-attention, in O(1) steps, than by recurrent "
                "layers, in O(n) (here: 64 tokens further, before training).",
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
