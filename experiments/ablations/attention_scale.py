"""What does the factor 1/sqrt(d_k) on the logits of attention do, at a small and at a large d_k? Vaswani et al. 2017, 3.2.1.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale.py --workdir=runs/attention_scale \\
        --config.base.data.directory=DIR

DIR holds Multi30k's train.*, val.* and test_2016_flickr.* in English and German, cased and untokenised.

The paper's argument is about size: the dot product of two vectors of d_k entries with unit variance has the variance d_k. So
the claim is an interaction: removing the factor costs more at d_k 64 than at d_k 16, with each arm at its own best learning
rate. All arms have two heads. Kernels have the variance 1 / fan-in, so that queries and keys of normalised inputs have the unit
variance that the argument assumes. Values keep a width of 64. The second result is how the loss depends on the learning rate
with and without the factor; the rates lie around the best one of the first runs of heads.py, 6e-3.

Not finished: `experiments/reports/attention_scale` has the plan and the rows of the finished runs, 8 of 52: the search of
"d_k 64". To resume the study, use a copy of that folder as --workdir. Two runs at a time on two cores, a run takes 8 minutes.
"""

from experiments.shapes import studies
from transformer.settings import override
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    return Study(
        question="What does the factor 1/sqrt(d_k) do, at a small and at a large d_k?",
        claims=(
            Claim(
                text="We suspect that for large values of d_k, the dot products grow large in magnitude (more is lost without "
                "the factor at d_k 64 than at d_k 16).",
                source="Vaswani et al. 2017, 3.2.1",
                kind="worse",
                arms=("d_k 64, no factor",),
                against="d_k 64",
                beyond=("d_k 16, no factor", "d_k 16"),
            ),
        ),
        base=override(studies.base_m(num_heads=2, d_v=64, initializer="fan_in", matmul_dtype="bfloat16"), {"model.d_k": "64"}),
        arms={
            "d_k 64": {},
            "d_k 64, no factor": {"model.attention.scale": "none"},
            "d_k 16": {"model.d_k": "16"},
            "d_k 16, no factor": {"model.d_k": "16", "model.attention.scale": "none"},
        },
        metrics=studies.BASE_M,
        compare_with="d_k 64",
        seeds=5,
        learning_rates=(1.5e-3, 3e-3, 6e-3, 1.2e-2),
        fair=("steps", "tokens"),
    )
