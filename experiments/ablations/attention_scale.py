"""What does the factor 1/sqrt(d_k) on the logits of attention do, at a small and at a large d_k? Vaswani et al. 2017, 3.2.1.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale.py --workdir=runs/attention_scale \\
        --config.base.data.directory=DIR

DIR holds Multi30k's train.*, val.* and test_2016_flickr.* in English and German, cased and untokenised.

The paper's argument is about size: the dot product of two vectors of d_k entries with unit variance has the variance d_k. So
the claim is an interaction: removing the factor costs more at d_k 64 than at d_k 16, with each arm at its own best learning
rate. All arms have two heads. Kernels have the variance 1 / fan-in, so that queries and keys of normalised inputs have the unit
variance that the argument assumes. Values keep a width of 64. The second result is how the loss depends on the learning rate
with and without the factor; the rates lie around the best one of the first runs of heads.py, 6e-3.

54 runs, five seeds, 7 hours of one core (two cores, AMD EPYC, --workers=2; 5 to 8 minutes a run). Without the factor 1.090
nats are lost at d_k 64 and 0.326 at d_k 16: 0.764 more (95 % interval 0.723 to 0.804), so the runs agree with the claim. With
the factor, d_k 16 is better than d_k 64 by 0.039 (exploratory). BLEU: 30.0 and 30.3 with it, 13.2 (d_k 64) and 26.2 (d_k 16)
without it.

The best rates are 6e-3 with the factor, and without it 1.5e-3 (d_k 64) and 3e-3 (d_k 16); for d_k 64 without it the grid was
extended to 7.5e-4, which is worse by 0.49. Loss by rate (1.5e-3, 3e-3, 6e-3, 1.2e-2; means of two seeds): with it 2.35, 2.07,
2.06, 3.20 (d_k 64) and 2.38, 2.09, 2.02, 2.33 (d_k 16); without it 3.15, 3.15, 3.45, 3.65 and 2.62, 2.35, 2.65, 3.29.
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
