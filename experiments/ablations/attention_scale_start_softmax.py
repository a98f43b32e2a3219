"""How much gradient passes through the softmax of attention before training? As attention_scale_start.py, by its Jacobian.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_start_softmax.py --workdir=runs/softmax_start

Three seeds, the runs of attention_scale_start.py. Without the factor the norm falls from 0.313 to 0.080 between d_k 8 and 512;
with the factor it is 0.312 to 0.318. The runs agree that it is smaller without the factor, from d_k 128 on, and that it falls
with each doubling from 32 on. "Extremely small" it is not: at d_k 512 it is a quarter of the norm with the factor. The study
cannot tell whether it is the same within 0.03 with the factor. And yet without the factor the gradient of the query kernels is
larger, not smaller: 50 % of the norm of the whole gradient at d_k 512 against 6 %, and the whole gradient is four times as
large. The gradient that passes through the softmax is multiplied by keys, which no factor makes smaller. So the unscaled model
does receive a gradient at the start; it starts from attention that is nearly all on one word.

The norm is that of diag(p) - p p^T, averaged over queries. It is sqrt(n - 1) / n where n keys have equal weights, which is at
most 1/2 (two keys with weight 1/2 each), and 0 where one key has all the weight. So it does not have to fall as soon as the
weights become less even: sharp attention is not yet saturated.

The claims were worded again after the runs, because two had the same words and neither tested them: "extremely small" was
tested as any decrease.
"""

from experiments.ablations.attention_scale_start import SOURCE, WIDTHS, name, study
from transformer.studies.study import Claim, Study

LARGE = "For large d_k (128 or more) the softmax of unscaled dot products has smaller gradients than that of scaled ones."
FALLING = "From d_k 32 on, each doubling makes the gradients of the softmax of unscaled dot products smaller."
HELD = "The factor 1/sqrt(d_k) counteracts this: with it the gradients are the same, whatever d_k (here: within 0.03)."


def get_study() -> Study:
    large = Claim(LARGE, SOURCE, "worse", tuple(name("none", d_k) for d_k in WIDTHS if d_k >= 128))
    falling = Claim(FALLING, SOURCE, "order", tuple(name("none", d_k) for d_k in WIDTHS if d_k >= 32))
    scaled = tuple(name("1/sqrt(d_k)", d_k) for d_k in WIDTHS if d_k != 64)
    held = Claim(HELD, SOURCE, "equal", scaled, margin=0.03)
    question = "What gradient does the softmax of attention let through before training, with and without 1/sqrt(d_k)?"
    return study(question, (large, falling, held), first=1)
