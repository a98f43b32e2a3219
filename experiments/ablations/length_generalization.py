"""Which way to tell positions goes beyond the lengths that were trained on? Kazemnejad et al. 2023.

    python launch.py --mode=ablate --config=experiments/ablations/length_generalization.py --workdir=runs/length_generalization

Three seeds, 2 to 3 min a run on one of two cores. Of the letters of lists of 11 to 20 ALiBi has 82 % in place (69 % of lists
whole), no positions 37 %, a learned table 27, T5's bias 20, Shaw's 18, sinusoids 12, rotary ones 9 %. Seeds differ so much
that none of the claims can be told: ALiBi is better than no positions by 45 points (20 to 65 alone, -1 to 76 with Holm's
correction). The models have not learned the lists of trained lengths either: no positions have 67 % of them whole, T5's bias
76 %, ALiBi 92 %. No reference is longer than the limit on outputs: 21 tokens at most, the end included, where the limit is
30.

A decoder alone copies 3 to 10 letters in training and up to 20 in the test. All it reads is under a causal mask,
as in the paper: without positions a source that sees itself whole would be a bag of letters. Of 52 letters few stand twice in a
list, else a decoder so small does not learn to copy in so many updates. Others: --config.base.data.algorithm=reverse, sort,
addition. Learned positions past those of training are as they were drawn.
"""

from experiments.shapes import studies
from transformer.components.masks import Causal
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

OTHERS = ("t5", "alibi", "rotary", "sinusoidal", "learned", "shaw")

SIZE = {"learned": {"model.positions.size": "128"}}


def base() -> Config:
    lists = {"data.algorithm_alphabet": "52", "evaluate.lengths": "3,11,21"}
    learned = {"train.batch_tokens": "1024", "train.learning_rate": "0.002"}
    deep = {"num_decoder_layers": 3, "unroll": 3}
    copying = studies.gpt_algorithm("copy", (3, 10), (3, 20), steps=1500, mask=Causal(), **deep)
    return override(copying, lists | learned)


def get_study() -> Study:
    source = "Kazemnejad et al. 2023, abstract (ten reasoning and mathematical tasks)"
    return Study(
        question="Which way to tell positions goes beyond the lengths that were trained on?",
        claims=(
            Claim(
                text="No positions at all outperform ALiBi, rotary ones and sinusoids.",
                source=source,
                kind="worse",
                arms=("alibi", "rotary", "sinusoidal"),
            ),
            Claim(text="They outperform T5's bias, which comes next.", source=source, kind="worse", arms=("t5",)),
        ),
        base=base(),
        arms={"none": {"model.positions": "none"}} | {kind: {"model.positions": kind} | SIZE.get(kind, {}) for kind in OTHERS},
        metrics=(
            Metric("test/word_accuracy@11-20", "higher"),
            Metric("test/exact_match@11-20", "higher"),
            Metric("test/exact_match@3-10", "higher"),
            Metric("validation/nll", "lower"),
        ),
        compare_with="none",
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens", "parameters"),
    )
