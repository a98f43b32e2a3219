"""How many operations are sequential, by length? Recurrent and self-attention layers; Vaswani et al. 2017, Table 1.

    python launch.py --mode=ablate --config=experiments/ablations/parallelism.py --workdir=runs/parallelism

Counted, not timed: the longest chain of matrix products that depend on each other in the gradient of a loss, forward and
backward, for lists of n items. Seeds 0 to 2, 7 min on two shared cores (--workers=2): 8 + 4 n for a recurrent model and 26 for
a Transformer at every length, as the paper claims (reports/parallelism). parallelism_operations.py counts operations, and
parallelism_path.py asks how far gradients reach. The recurrent model passes one fixed vector to the decoder, so that it has no
attention. Both models have one layer in the encoder and one in the decoder. The seconds in the report are those of two shared
cores, which do not have the parallel hardware that the paper's argument is about.
"""

import dataclasses

from experiments import algorithms, rnn_fixed
from experiments.shapes import studies
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

SOURCE = "Vaswani et al. 2017, section 4 and Table 1"
LENGTHS = (8, 16, 32, 64, 128)
FAMILIES = ("recurrent", "Transformer")
METRICS = (
    Metric("init/sequential_products", "lower"),
    Metric("init/operations", "lower"),
    Metric("init/gradient_seconds", "lower"),
)
SIZES = {"model.num_encoder_layers": "1", "model.num_decoder_layers": "1", "model.d_model": "64", "model.unroll": "1"}


def base() -> Config:
    """A recurrent model of one layer a side, on lists that are copied."""
    task = algorithms.get_config()
    data = dataclasses.replace(task.data, max_source_length=160, max_target_length=160, synthetic_train_size=2048)
    whole = dataclasses.replace(rnn_fixed.get_config(), data=data)
    whole = override(whole, SIZES | {"train.batch_tokens": "4096", "model.recurrent.reverse_source": "false"})
    return studies.at_start(whole, "sequential_products", "operations", "gradient_distance", "gradient_seconds")


def name(family: str, length: int) -> str:
    return f"{family}, {length} items"


def arm(family: str, length: int) -> dict[str, str]:
    lengths = {"data.algorithm_train_lengths": f"{length},{length}", "data.algorithm_test_lengths": "none"}
    transformer = {"family": "encoder_decoder", "model.num_heads": "4", "model.d_ff": "256"}
    return lengths | (transformer if family == "Transformer" else {})


def exponent(text: str, family: str, margin: float = 0.1) -> Claim:
    """The first metric grows with the power 1 of the length."""
    arms, sizes = tuple(name(family, length) for length in LENGTHS), tuple(1 / length for length in LENGTHS)
    return Claim(text, SOURCE, "exponent", arms, margin, sizes=sizes, exponent=1.0)


def constant(text: str, family: str, margin: float) -> Claim:
    """The first metric is the same for all lengths, within `margin`."""
    others = tuple(name(family, length) for length in LENGTHS if length != 32)
    return Claim(text, SOURCE, "equal", others, margin)


def study(question: str, claims: tuple[Claim, ...], compare_with: str, first: int = 0) -> Study:
    """`first`: which of the metrics the claims are about."""
    return Study(
        question=question,
        claims=claims,
        base=base(),
        arms={name(family, length): arm(family, length) for family in FAMILIES for length in LENGTHS},
        metrics=(METRICS[first], *METRICS[:first], *METRICS[first + 1 :]),
        compare_with=name(compare_with, 32),
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens"),
    )


def get_study() -> Study:
    return study(
        "How much of a gradient must be computed one after another, by length?",
        (
            exponent("A recurrent layer needs O(n) sequential operations.", "recurrent"),
            constant("A self-attention layer connects all positions with a constant number of them.", "Transformer", 0.5),
        ),
        "Transformer",
    )
