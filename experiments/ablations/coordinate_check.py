"""Do activations and logits keep their size as a model gets wider? The coordinate check of muP (Yang et al. 2022, D.1).

    python launch.py --mode=ablate --config=experiments/ablations/coordinate_check.py --workdir=runs/coordinate_check

Encoder-decoders that translate number words, with widths of 32 to 256, in the standard parametrization and in muP with the base
width 32; at that width the two parametrizations are the same model. The metric is the mean size of activations and logits on a
batch of validation after four updates, at a learning rate that is large for the wide models. With muP, wider models keep the
sizes of the narrow one, so that a learning rate that is good for one width is good for all; in the standard parametrization the
sizes at the same learning rate increase with the width.

Five seeds, 40 runs in 16 min of processor time, most of it for compilation (two cores of an Intel Xeon, Python 3.11, JAX
0.10.2). From width 32 to 256 the last states grow from 4.73 to 82.2 in the standard parametrization and from 4.73 to 4.94 in
muP. The logits grow from 0.97 to 4.35 and fall to 0.94 in muP. The logits of cross-attention grow from 0.56 to 4.76 and fall to
0.27 in muP, where logits that are random at the start shrink with the width. The runs agree with all three claims of growth.
The study cannot tell whether muP's states and logits keep their size within a fifth: its seeds differ too much. For the logits
of cross-attention the runs disagree, since 0.27 is half of 0.56. Differences of a fifth are too small for this study to show,
so these three verdicts are exploratory.

The margins were changed after the runs, from 0.5 for each size to a fifth of the size at width 32, because 0.5 is a tenth of
one size and nearly all of another, so the same margin did not test the same claim.
"""

from experiments.shapes import studies
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

SITES = {"decoder/last": 0.95, "decoder/cross/last": 0.11, "logits": 0.19}  # a fifth of the size at width 32
STANDARD, MUP = tuple(studies.widths("standard")), tuple(studies.widths("muP"))
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


def claims(site: str) -> list[Claim]:
    metric, margin = f"validation/coordinates@{site}", SITES[site]
    return [
        Claim(
            f"{site}: it grows faster with the width than in muP",
            PAPER,
            "rises",
            STANDARD,
            sizes=studies.WIDTHS,
            beyond=MUP,
            metric=metric,
        ),
        Claim(
            f"{site}: in muP it is the same at eight times the width (here: within {margin:g}, a fifth of its size)",
            PAPER,
            "equal",
            MUP[-1:],
            margin=margin,
            against=MUP[0],
            metric=metric,
        ),
    ]


def get_study() -> Study:
    return Study(
        question="Does what a model computes keep its size as the model grows wider?",
        arms=studies.widths("standard") | studies.widths("muP"),
        metrics=tuple(Metric(f"validation/coordinates@{site}", "lower", take="last") for site in SITES),
        claims=tuple(claim for site in SITES for claim in claims(site)),
        base=base(),
        compare_with=MUP[0],
        seeds=5,
        fair=("steps", "tokens"),
        checkpoint="last",
    )
