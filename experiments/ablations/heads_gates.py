"""How many heads does training let go, if each costs something? Gates that learn to close, Voita et al. 2019, sections 5 and 6.

    python launch.py
    python launch.py --mode=ablate --config=experiments/ablations/heads_gates.py --workdir=runs/heads_gates

Not run yet. The default job's model goes on learning with a gate on each of its 24 heads, and an open gate adds its price to
the loss of every token. All seeds start from the same model, as in the paper; what differs is the order of the data, dropout,
and how gates are drawn. Gates learn 50 times as fast as the model: as fast, none closes in so few updates. All scores of test
are with gates as they are then, without noise. Heads taken out of a model that does not learn any more: heads_pruning.py.
"""

from experiments.shapes import studies
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

SOURCE = "Voita et al. 2019, 6.2"
PLACES = ("encoder/self", "decoder/self", "decoder/cross")
PRICES = ("0.01", "0.03", "0.1", "0.3")


def get_study() -> Study:
    begin = {"train.init_from": "runs/number_words", "train.learning_rate": "0.001", "train.head_gate_rate": "50"}
    return Study(
        question="How many heads does training let go, if each costs something?",
        claims=(
            Claim(
                text="38 of 48 heads of the encoder can go for 0.15 BLEU.",
                source=f"{SOURCE}.1 (WMT, the encoder's alone)",
                kind="equal",
                arms=("price 0.1",),
                margin=0.02,
            ),
        ),
        base=override(studies.number_words(steps=400, head_gates="all"), begin),
        arms={"free": {}} | {f"price {price}": {"train.head_penalty": price} for price in PRICES},
        metrics=(
            Metric("test/nll", "lower"),
            *(Metric(f"test/open_heads@{place}", "lower") for place in PLACES),
            Metric("test/exact_match", "higher"),
        ),
        compare_with="free",
        seeds=3,
        fair=("steps", "tokens", "flops", "parameters"),
    )
