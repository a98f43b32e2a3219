"""What do queries, keys and values each do? One is taken away at a time, where values are recalled by their keys.

    python launch.py --mode=ablate --config=experiments/ablations/qkv.py --workdir=runs/qkv

Three seeds, 4 min a run on one of two cores. With all three 96 % of values are recalled, without projected values 93 % (no
difference that can be told). With even weights, keys that are the queries, or a hard maximum recall is not learned in
2,000 updates: 38 to 41 %, a guess among the values that are there. With keys that are the queries the loss is higher by 0.55
nats (simultaneous interval 0.05 to 0.59). This is not Reformer's claim: there no token looks at itself, and here it may, so
that each agrees most with itself. Some arms still learn at the end, so the study decides neither claim.

A decoder alone reads pairs and a key, "a 3 b 7 c 1 ? b", and says the value. What a projection had is given to
the feed-forward layers. "even weights" are attention with logits of 0: its queries and keys are there and do
nothing, so that it has the parameters of the others and computes a quarter less. "hard maximum" puts all weight on
one key, and learns by the gradient of the softmax. Positions turn queries and keys (rotary), so that even weights
do not hear of them either: with learned ones, added to what is read, recall was not learned in 1,500 updates (seed 0,
26 letters, or 8 and 3 to 5 pairs as here; nor with them turned where the norm stands before the sub-layer).
"""

from experiments.shapes import studies
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

FILE = "experiments/variants/qkv.py"


def base() -> Config:
    """3 to 5 pairs, of 8 letters."""
    small = {"data.algorithm_alphabet": "8", "data.synthetic_train_size": "30000", "train.learning_rate": "0.001"}
    return override(studies.gpt_algorithm("recall", (3, 5), (3, 5), steps=2000, norm_order="post"), small)


def get_study() -> Study:
    return Study(
        question="What do queries, keys and values each do?",
        claims=(
            Claim(
                text="What is returned is a sum of the values, weighted by how well the query agrees with each key.",
                source="Vaswani et al. 2017, 3.2: without a query there is no recall",
                kind="worse",
                arms=("even weights",),
            ),
            Claim(
                text="Keys that are the queries do not affect the performance of a Transformer.",
                source="Kitaev et al. 2020 (Reformer), section 2",
                kind="equal",
                arms=("Q = K",),
                margin=0.05,
            ),
        ),
        base=base(),
        arms={
            "Q, K, V": {},
            "Q = K": {"model.attention": f"{FILE}:SharedQK", "model.d_ff": "576"},
            "V = inputs": {"model.attention": f"{FILE}:InputValues", "model.d_ff": "576"},
            "Q = K, V = inputs": {"model.attention": f"{FILE}:SharedQKInputValues", "model.d_ff": "640"},
            "even weights": {"model.attention": f"{FILE}:EvenWeights"},
            "hard maximum": {"model.attention": f"{FILE}:HardMax"},
        },
        metrics=(
            Metric("validation/nll", "lower"),
            Metric("validation/nll", "lower", take="updates", target=0.5),
            Metric("test/exact_match", "higher"),
        ),
        compare_with="Q, K, V",
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens", "parameters"),
    )
