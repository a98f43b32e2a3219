"""How many heads does training let go, if each costs something? Gates that learn to close, Voita et al. 2019, sections 5 and 6.

    python launch.py
    python launch.py --mode=ablate --config=experiments/ablations/heads_gates.py --workdir=runs/heads_gates

Three seeds, 2 to 4 min a run on one of two cores. A price of 0.1 nats a head closes all 8 heads of the encoder, 6 of 8 of the
decoder's own and 4 of 8 that look at the source, for 0.003 nats (-0.010 to 0.016), 99.4 % of numbers being right; 0.03
closes 7, 3 and 2 for nothing that can be seen, 0.3 leaves 2 heads of 24, that look at the source, with 92.8 %. The encoder's go
first and those that look at the source last at every price. Taken out of a model that does not learn any more, heads are missed
much sooner (heads_pruning.py: 40 % of them cost 0.07 nats).

The default job's model goes on learning with a gate on each of its 24 heads, and an open gate adds its price to
the loss of every token. All seeds start from the same model, as in the paper; what differs is the order of the data, dropout,
and how gates are drawn. Gates learn 50 times as fast as the model: as fast, none closes in so few updates. All scores of test
are with gates as they are then, without noise.
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
