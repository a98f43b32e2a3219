"""Is a small d_k harmful where its parameters go to the feed-forward layers? As key_dim.py, at equal parameters and FLOPs.

    python launch.py --mode=ablate --config=experiments/ablations/key_dim_refilled.py --workdir=runs/key_dim_refilled

The claim is of models that are not refilled: the same here would say that d_k itself is what matters. Three seeds, after 120
updates: d_k 4 is still worse than 32, by 0.164 nats (0.012 to 0.316; not refilled 0.282), 8 by 0.105 and 16 by 0.002, neither
for certain.
"""

import dataclasses

from experiments.ablations import key_dim
from transformer.studies.study import Study

REFILLED = {16: 608, 8: 656, 4: 680}  # d_k -> d_ff


def get_study() -> Study:
    return dataclasses.replace(
        key_dim.get_study(),
        question="Is a small d_k harmful where its parameters go to the feed-forward layers?",
        arms={f"d_k {key_dim.HELD}": {"model.d_k": str(key_dim.HELD)}}
        | {f"d_k {d_k}": {"model.d_k": str(d_k), "model.d_ff": str(d_ff)} for d_k, d_ff in REFILLED.items()},
        fair=("steps", "tokens", "flops", "parameters"),
    )
