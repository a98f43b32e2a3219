"""Does the factor 1/sqrt(d_k) keep the variance of the logits constant? As attention_scale_start.py, with the factor only.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale_start_scaled.py --workdir=runs/scaled_start

The variance is 0.66 to 0.73 at d_k 8 to 512 (three seeds, the runs of attention_scale_start.py). Seeds of the same d_k differ
by as much, so the study cannot tell whether the variances are equal within 0.2. The claim was worded again after the runs,
because only equal variances are tested, not that they are 1.
"""

from experiments.ablations.attention_scale_start import SOURCE, WIDTHS, name, study
from transformer.studies.study import Claim, Study

SCALED = ("1/sqrt(d_k)",)


def get_study() -> Study:
    claim = Claim(
        text="Scaled by 1/sqrt(d_k), dot products of queries and keys have the same variance, whatever d_k (here: within 0.2).",
        source=SOURCE,
        kind="equal",
        arms=tuple(name(*SCALED, d_k) for d_k in WIDTHS if d_k != 64),
        margin=0.2,
    )
    return study("Does the factor 1/sqrt(d_k) keep the variance of attention's logits constant?", (claim,), SCALED)
