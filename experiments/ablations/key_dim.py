"""Is a small d_k harmful, d_v being held? Vaswani et al. 2017, Table 3 (B).

    python launch.py --mode=ablate --config=experiments/ablations/key_dim.py --workdir=runs/key_dim

Three seeds, 3 to 6 min a run on one of two cores that did other work too. After 120 updates d_k 64, 32, 16, 8, 4 are at 0.078,
0.158, 0.203, 0.254, 0.441 nats and have 85, 66, 58, 42, 11 % of numbers right: the narrower, the later it is learned. An eighth
of d_v is worse for certain (by 0.28 nats, 0.18 to 0.39), a half and a quarter cannot be told from it with three seeds (0.045
and 0.096), though their order is the paper's. As there, arms have fewer parameters; key_dim_refilled.py gives them back.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Study

HELD = 32  # d_v, and d_k of the arm that is compared with: d_model / h


def claim(d_k: int, effect: float, text: str) -> Claim:
    return Claim(text, "Vaswani et al. 2017, 6.2 and Table 3 (B)", "worse", (f"d_k {d_k}",), effect=effect)


CLAIMS = (
    claim(8, 0.048, "Reducing the key size hurts: a quarter of it, perplexity 5.16 against 4.92 (0.048 nats)."),
    claim(16, 0.018, "Reducing the key size hurts: half of it, perplexity 5.01 against 4.92 (0.018 nats)."),
)


def get_study() -> Study:
    return Study(
        question="Is a small d_k harmful, d_v being held?",
        claims=CLAIMS,
        base=studies.number_words(120, d_v=HELD),
        arms={f"d_k {d_k}": {"model.d_k": str(d_k)} for d_k in (HELD, 64, 16, 8, 4)},
        metrics=studies.NUMBER_WORDS,
        compare_with=f"d_k {HELD}",
        seeds=3,
        fair=("steps", "tokens"),
    )
