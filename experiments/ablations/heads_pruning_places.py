"""Which attention of a trained model needs its heads most? As heads_pruning.py, one kind of attention at a time.

    python launch.py --mode=ablate --config=experiments/ablations/heads_pruning_places.py --workdir=runs/heads_pruning_places

Three seeds, the models of heads_pruning.py. Without 6 of the 8 heads of the encoder's self-attention 97.5 % of the numbers
are right; without those of the decoder's self-attention 47.2 %; without those of cross-attention 32.8 %. Removing heads of
cross-attention costs more than removing heads of the encoder's self-attention (0.29 nats, 0.11 to 0.68). The study cannot tell
whether it costs more than removing heads of the decoder's self-attention (26, 41, 74 % right by seed).

6 of the 8 heads of a kind are removed, in the order of their gradients. This is more than the 60 % at which the paper finds
removal catastrophic for cross-attention; of the heads of the other two kinds a fifth is enough.
"""

from experiments.ablations.heads_pruning import ALL, study
from transformer.studies.study import Claim, Study

CROSS = "decoder/cross"
SELF = ("encoder/self", "decoder/self")


def get_study() -> Study:
    claim = Claim(
        text="Performance drops much more rapidly when heads are taken out of the attention to the source.",
        source="Michel et al. 2019, 5",
        kind="better",
        arms=SELF,
    )
    arms = {place: {"heads_removed": "0.75", "head_place": place} for place in (*SELF, CROSS)}
    return study("Which attention of a trained model needs its heads most?", (claim,), {ALL: {}} | arms, CROSS)
