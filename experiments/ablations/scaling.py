"""How does the loss fall with size? Language models of characters, 6,600 to 1.2 million parameters without embeddings.

    python launch.py --mode=ablate --config=experiments/ablations/scaling.py --workdir=runs/scaling \
        --config.base.data.directory=DIR

Three seeds, 15 s to 5 min a run on one of two cores. 2.10 nats a character at 6,592 parameters, 1.92, 1.80, 1.72, 1.69, 1.67,
1.67 at 1.19 million: an exponent of 0.319 (95 % interval 0.268 to 0.372; published 0.34), but the curve does not fit
the losses (F test), so the study does not decide that claim. That each size is better than the
next smaller one cannot be told of all (the largest than the second by 0.001 nats, -0.021 to 0.024): with so few characters
size may stop to pay there, which a law of N alone cannot say (it is high in the middle and low at the end).

DIR holds input.txt, as for experiments/shakespeare.py. All sizes see the same 1.5 M characters, the training text one and a
half times. The learning rate goes by width as in the paper's equation 3, d_model^-0.5. The exponent is one on this data, in
this range: the published one is of web text and billions of parameters.
"""

import dataclasses

from experiments import shakespeare
from transformer.config import Config, Evaluate
from transformer.studies.study import Claim, Metric, Study

SHAPES = ((2, 16), (2, 32), (3, 48), (4, 64), (4, 96), (4, 128), (6, 128))  # layers and d_model; heads are 16 wide


def size(layers: int, width: int) -> int:
    """Parameters without embeddings: four projections and two of d_ff = 4 d_model, their biases, and norms."""
    return layers * (12 * width**2 + 13 * width) + 2 * width


def name(layers: int, width: int) -> str:
    return f"{layers} x {width}"


def arm(layers: int, width: int) -> dict[str, str]:
    return {
        "model.num_decoder_layers": str(layers),
        "model.d_model": str(width),
        "model.d_ff": str(4 * width),
        "model.num_heads": str(width // 16),
        "train.learning_rate": f"{3e-3 * (128 / width) ** 0.5:.2g}",
    }


def base() -> Config:
    whole = shakespeare.get_config()
    return dataclasses.replace(whole, evaluate=Evaluate(samples=0))


def get_study() -> Study:
    names = tuple(name(*shape) for shape in SHAPES)
    return Study(
        question="How does the loss of a language model fall with its size?",
        claims=(
            Claim(
                text="The loss falls as E + A / N^0.34 with the number of parameters, other things held.",
                source="Hoffmann et al. 2022, approach 3: L = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28",
                kind="exponent",
                arms=names,
                margin=0.1,
                sizes=tuple(float(size(*shape)) for shape in SHAPES),
                exponent=0.34,
            ),
            Claim(
                text="Bigger models are better.",
                source="Vaswani et al. 2017, 6.2 and Table 3 (C)",
                kind="order",
                arms=names[::-1],
            ),
        ),
        base=base(),
        arms={name(*shape): arm(*shape) for shape in SHAPES},
        metrics=(Metric("validation/nll", "lower"), Metric("validation/token_accuracy", "higher")),
        compare_with=names[-1],
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens"),
    )
