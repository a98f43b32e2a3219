"""What do queries, keys and values each do? One is removed at a time, on a task where values are recalled by their keys.

    python launch.py --mode=ablate --config=experiments/ablations/qkv.py --workdir=runs/qkv

Three seeds, 4 min a run on one of two cores. With all three, 96 % of the values are recalled (means here are those of logits);
without projected values 95 % (the runs cannot tell this difference from noise). With even weights, with keys that equal the
queries, or with a hard maximum, recall is not learned in 2,000 updates: 38 to 41 %, as a guess among the values in the source
would give. With keys that equal the queries the loss is higher by 0.55 nats (simultaneous interval 0.05 to 0.59). This is not
Reformer's claim: there a token does not attend to itself. Here it may, and its logit with itself is the largest. Some arms are
still learning at the end, so the study decides neither claim.

A decoder-only model reads pairs and a key, "a 3 b 7 c 1 ? b", and outputs the value. The feed-forward layers get the parameters
of a removed projection. "even weights" is attention whose logits are 0: its queries and keys exist and have no effect, so that
it has the same parameters as the others and a quarter less computation. "hard maximum" puts all weight on one key, and is
trained with the gradient of the softmax. Positions rotate queries and keys, so that "even weights" has no position encoding
either. With learned positions, added to the embeddings, recall was not learned in 1,500 updates (seed 0, 26 letters, or 8
letters and 3 to 5 pairs as here), and neither was it with rotary positions and pre-norm.
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
