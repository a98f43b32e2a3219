"""Do activations and logits keep their size as a model gets wider? The coordinate check of muP (Yang et al. 2022, D.1).

    python launch.py --mode=ablate --config=experiments/ablations/coordinate_check.py --workdir=runs/coordinate_check

Encoder-decoders that translate number words, with widths of 32 to 256, in the standard parametrization and in muP with the base
width 32; at that width the two parametrizations are the same model. The metric is the mean size of activations and logits on a
batch of validation after four updates, at a learning rate that is large for the wide models. With muP, wider models keep the
sizes of the narrow one, so that a learning rate that is good for one width is good for all; in the standard parametrization the
sizes at the same learning rate increase with the width.

Five seeds, 40 runs in 16 min of processor time, most of it for compilation (two cores of an Intel Xeon, Python 3.11, JAX
0.10.2). From width 32 to 256 the last states grow from 4.8 to 82.7 in the standard parametrization and from 4.8 to 4.95 in muP.
The logits grow from 0.98 to 4.35 and fall to 0.94 in muP. The logits of cross-attention grow from 0.57 to 5.0 and fall to 0.27
in muP, where logits that are random at the start shrink with the width. The runs agree with all three claims of growth. That
muP's sizes are the same within 0.5 is shown for the logits. The study cannot tell for the states, whose seeds differ by more
than that, and for cross-attention.
"""

from experiments.shapes import studies
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

WIDTHS = (32, 64, 128, 256)
SITES = ("decoder/last", "decoder/cross/last", "logits")
PAPER = "Yang et al. 2022, appendix D.1, figure 5"


def base() -> Config:
    """Nothing is decoded: outputs end after one token."""
    config = studies.number_words(steps=4, norm_order="pre", dropout_rate=0.0)
    return override(
        config,
        {
            "train.schedule": "constant",
            "train.warmup_steps": "0",
            "train.learning_rate": "0.01",
            "train.evaluate_every": "4",
            "train.coordinates": "true",
            "data.number_train_size": "4000",
            "data.test": "none",
            "search.max_length": "2",
        },
    )


def arm(parametrization: str, width: int) -> dict[str, str]:
    mup = {"model.parametrization": "mup", "model.base_width": str(WIDTHS[0])} if parametrization == "muP" else {}
    return {"model.d_model": str(width), "model.d_ff": str(4 * width), **mup}


def names(parametrization: str) -> tuple[str, ...]:
    return tuple(f"{parametrization}, {width}" for width in WIDTHS)


def claims(site: str) -> list[Claim]:
    metric = f"validation/coordinates@{site}"
    return [
        Claim(
            f"{site}: it grows faster with the width than in muP",
            PAPER,
            "rises",
            names("standard"),
            sizes=WIDTHS,
            beyond=names("muP"),
            metric=metric,
        ),
        Claim(
            f"{site}: in muP it is the same at eight times the width",
            PAPER,
            "equal",
            (names("muP")[-1],),
            margin=0.5,
            against=names("muP")[0],
            metric=metric,
        ),
    ]


def get_study() -> Study:
    return Study(
        question="Does what a model computes keep its size as the model grows wider?",
        arms={f"{name}, {width}": arm(name, width) for name in ("standard", "muP") for width in WIDTHS},
        metrics=tuple(Metric(f"validation/coordinates@{site}", "lower", take="last") for site in SITES),
        claims=tuple(claim for site in SITES for claim in claims(site)),
        base=base(),
        compare_with=names("muP")[0],
        seeds=5,
        fair=("steps", "tokens"),
        checkpoint="last",
    )
