"""Which position encoding generalises to sequences longer than those of training? Kazemnejad et al. 2023.

    python launch.py --mode=ablate --config=experiments/ablations/length_generalization.py --workdir=runs/length_generalization

A decoder-only model copies lists of 7 to 21 letters, or adds numbers of 3 to 10 digits, whose sources have 7 to 21 tokens, so
that both tasks have the same lengths. Both are tested by exact match on lists and numbers up to 1.5 times and up to twice as
long. The causal mask covers the source as well, as in the paper: without a position encoding, a source with
bidirectional attention would be a bag of letters.

An arm that does not reach 99 % exact match at the lengths of training has not learned its task, and no claim about it is
tested. Encodings are ranked on each task, as in the paper: the mean over tasks of 1 / rank.

Not run yet. An update takes 0.35 s of one core's time in fp32. Copying without positions, in a schedule of 1,500 updates, had
55.5 % of validation's tokens right after 250, 79.9 % after 500, 88.5 % after 750 (seed 0, lists of 5 to 20). Check before the
first run of the study whether 3,000 updates are enough for 99 %, and whether any list or sum of more than 21 tokens is right:
if none is, no claim can be decided, and the share of right words is what remains.
"""

from experiments.shapes import studies
from transformer.components.masks import Causal
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study, crossed

TASKS = {
    "copy": {"data.algorithm": "copy", "data.algorithm_train_lengths": "7,21", "data.algorithm_test_lengths": "7,41"},
    "addition": {"data.algorithm": "addition", "data.algorithm_train_lengths": "3,10", "data.algorithm_test_lengths": "3,20"},
}
OTHERS = ("t5", "alibi", "rotary")
LONG, HALF, TRAINED = (f"test/exact_match@{words}" for words in ("32-41", "22-31", "1-21"))  # words of the source


def base() -> Config:
    model = {"num_decoder_layers": 4, "unroll": 1, "dropout_rate": 0.0, "mask": Causal(), "matmul_dtype": "bfloat16"}
    short = {
        "data.synthetic_train_size": "100000",
        "data.synthetic_test_size": "1440",
        "data.batching": "packed",
        "data.buckets": "6",
        "data.row_length": "128",
        "train.learning_rate": "0.001",
        "evaluate.lengths": "1,22,32,42",
    }
    return override(studies.gpt_algorithm("copy", (7, 21), (7, 41), steps=3000, **model), short)


def get_study() -> Study:
    source = "Kazemnejad et al. 2023, abstract and figure 2 (ten tasks; mean reciprocal ranks)"
    return Study(
        question="Which position encoding generalises to sequences longer than those of training?",
        claims=(
            Claim(
                text="Decoders without position encoding outperform ALiBi and rotary encodings.",
                source=source,
                kind="worse",
                arms=("alibi", "rotary"),
                ranks=True,
            ),
            Claim(
                text="They outperform T5's relative bias, which comes next.",
                source=source,
                kind="worse",
                arms=("t5",),
                ranks=True,
            ),
            Claim(
                text="Without position encoding more copies are exact at up to twice the length than with rotary encodings.",
                source=source,
                kind="worse",
                arms=("rotary, copy",),
            ),
            Claim(
                text="Without position encoding more sums are exact at up to twice the length than with rotary encodings.",
                source=source,
                kind="worse",
                arms=("rotary, addition",),
            ),
        ),
        base=base(),
        arms=crossed({kind: {"model.positions": kind} for kind in ("none", *OTHERS)}, TASKS),
        tasks=tuple(TASKS),
        metrics=(
            Metric(LONG, "higher"),
            Metric(HALF, "higher"),
            Metric(TRAINED, "higher", learned=99.0),
            Metric("test/word_accuracy@32-41", "higher"),
            Metric("validation/nll", "lower"),
        ),
        compare_with="none",
        seeds=5,
        learning_rates=(5e-4, 1e-3, 2e-3),
        fair=("steps", "tokens", "parameters"),
    )
