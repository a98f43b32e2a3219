"""Is a small d_k harmful, d_v being held? Vaswani et al. 2017, Table 3 (B).

    python launch.py --mode=ablate --config=experiments/ablations/key_dim.py --workdir=runs/key_dim

Not run yet. As in the paper, arms have fewer parameters; key_dim_refilled.py gives them back.
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
