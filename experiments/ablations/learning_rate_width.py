"""Does the best learning rate stay the same as a model gets wider? Standard parametrization and muP, Yang et al. 2022.

    python launch.py --mode=ablate --config=experiments/ablations/learning_rate_width.py --workdir=runs/learning_rate_width \\
        --config.base.data.directory=DIR

DIR holds input.txt (karpathy/char-rnn's tinyshakespeare), as for `shakespeare.py`. Decoders of two layers with widths of 32
to 256, in both parametrizations; the base width is 32, where both are the same model. The search itself is the study: three
seeds of each of seven learning rates, and for each seed the minimum of a parabola through the best rate and its two neighbours.
The losses at the chosen rates are the second result. Adam has no weight decay here, because muP would have to scale it too.

Not run yet: 208 runs; --dry_run=measure says how long they take.
"""

from experiments import shakespeare
from experiments.shapes import studies
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

PAPER = "Yang et al. 2022, figure 1 and section 1"


def base() -> Config:
    changes = {
        "model.num_decoder_layers": "2",
        "model.matmul_dtype": "bfloat16",
        "train.optimizer": "adam",
        "train.weight_decay": "0",
        "train.clip_norm": "none",
        "train.steps": "1000",
        "train.schedule": "linear",
        "train.warmup_steps": "50",
        "train.evaluate_every": "100",
        "evaluate.stride": "none",
        "evaluate.samples": "1",
        "search.max_new_tokens": "64",
    }
    return override(shakespeare.get_config(), changes)


def get_study() -> Study:
    standard, mup = tuple(studies.widths("standard")), tuple(studies.widths("muP"))
    return Study(
        question="Does the best learning rate stay the same as a model gets wider?",
        claims=(
            Claim(
                "In the standard parametrization the best learning rate falls with the width.",
                PAPER,
                "falls",
                standard,
                sizes=studies.WIDTHS,
                rates=True,
            ),
            Claim(
                "In muP it stays: at eight times the width it is the same within a factor of two.",
                PAPER,
                "equal",
                mup[-1:],
                margin=1.0,
                against=mup[0],
                rates=True,
            ),
            Claim(
                "It falls faster in the standard parametrization than in muP.",
                PAPER,
                "falls",
                standard,
                sizes=studies.WIDTHS,
                beyond=mup,
                rates=True,
            ),
            Claim(
                "Both at their best rates, the widest model of muP is not worse (here: by 0.02 nats).",
                PAPER,
                "not worse",
                mup[-1:],
                margin=0.02,
                against=standard[-1],
            ),
        ),
        base=base(),
        arms=studies.widths("standard") | studies.widths("muP"),
        metrics=(Metric("validation/nll", "lower", take="best"),),
        compare_with=mup[0],
        seeds=5,
        learning_rates=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
        search_seeds=3,
        fair=("steps", "tokens"),
    )
