"""What gradient does the softmax of attention let through before training? As attention_scale_start.py, by its Jacobian.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_start_softmax.py --workdir=runs/softmax_start

It agrees, three seeds, the runs of attention_scale_start.py: without the factor the norm falls from 0.31 to 0.08 between d_k 8
and 512, with it it is 0.32 at any. And yet the queries' kernels have a larger gradient without it, not a smaller one: 50 %
of the whole gradient's norm at d_k 512 against 6 %, and the whole is four times as large. What the softmax lets through is
multiplied by keys that no factor makes small. The unscaled model is not cut off from its gradient at the start; it starts from
attention that is nearly all on one word.

The norm is that of diag(p) - p p^T, a mean over queries: sqrt(n - 1) / n where n keys have even weights, at most 1/2 (two have
a half each), and 0 with all weight on one. So it need not fall from the first: sharp is not yet saturated.
"""

from experiments.ablations.attention_scale_start import SOURCE, WIDTHS, name, study
from transformer.studies.study import Claim, Study

UNSCALED = "For large d_k unscaled dot products push the softmax to where its gradients are extremely small."


def get_study() -> Study:
    large = Claim(UNSCALED, SOURCE, "worse", tuple(name("none", d_k) for d_k in WIDTHS if d_k >= 128))
    falling = Claim(UNSCALED, SOURCE, "order", tuple(name("none", d_k) for d_k in WIDTHS if d_k >= 32))
    scaled = tuple(name("1/sqrt(d_k)", d_k) for d_k in WIDTHS if d_k != 64)
    held = Claim("The factor 1/sqrt(d_k) counteracts this, whatever d_k.", SOURCE, "equal", scaled, margin=0.03)
    question = "What gradient does the softmax of attention let through before training, with and without 1/sqrt(d_k)?"
    return study(question, (large, falling, held), first=1)
