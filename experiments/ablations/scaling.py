"""How should a budget be divided between size and data? IsoFLOP profiles of character-level language models on WikiText-2.

    python launch.py --mode=ablate --config=experiments/ablations/scaling.py --workdir=runs/scaling \\
        --config.base.data.directory=DIR

DIR holds train.txt and valid.txt, the raw text of WikiText-2's splits. There are four budgets. For each of them, models
are trained until the budget is used up; their sizes are within a factor of eight of the one that would see 20 tokens per
parameter, and no model sees the text more than four times. Warm-up and schedule are scaled to each run, so each loss is that
of a completed schedule.

The exponent depends on how sizes and budgets are counted (Porian et al. 2024; Pearce & Song 2024), so there are two claims
about it: Hoffmann et al. count all parameters and all products, those of attention and of the last layer too, and so do the
budgets here; Kaplan et al. count neither embeddings nor attention nor the last layer. With 192 entries the table is a third of
the smallest model and 2 % of the largest, much less than in the papers, so the two counts differ by less here. The published
exponents are for web text, other tokens and far larger budgets. For the loss as a function of size and data, the figures are
those of Besiroglu et al. 2024, because the fit of Hoffmann et al. (0.34 and 0.28) is not that of their data.

Learning rates are tried with all updates, and with one seed, because their order may differ in shorter runs.

Not run yet; --dry_run=measure says how long it takes.
"""

import dataclasses
from typing import Any

from experiments import shakespeare
from transformer.config import Config, Evaluate
from transformer.studies.study import Claim, Metric, Study

BUDGETS = (3e11, 1e12, 3e12, 1e13)
SHAPES = ((1, 32), (2, 32), (2, 48), (2, 64), (3, 80), (4, 96), (5, 112), (6, 128))  # layers, d_model; heads are 16 wide
ENTRIES = 192  # characters and special tokens; others are seen less than five times
TEXT = 10_780_437  # characters of train.txt
EPOCHS = 4
BATCH = 1024
ROW = 128
SPREAD = 8  # sizes within this factor of sqrt(C / 120)


def size(layers: int, width: int) -> int:
    """Parameters without embeddings: four projections and two of d_ff = 4 d_model, their biases, and norms."""
    return layers * (12 * width**2 + 13 * width) + 2 * width


@dataclasses.dataclass(frozen=True)
class Cell:
    """An arm. `budget`: what it was meant to cost."""

    layers: int
    width: int
    budget: float

    @property
    def size(self) -> int:
        return size(self.layers, self.width)

    @property
    def embeddings(self) -> int:
        """One table, which is the output's too."""
        return ENTRIES * self.width

    @property
    def attention(self) -> int:
        """Multiplications of a token with the keys and values of its row, which are computed for all of the row."""
        return 2 * self.layers * self.width * ROW

    @property
    def steps(self) -> int:
        return round(self.budget / (6 * (self.size + self.embeddings + self.attention) * BATCH))

    @property
    def tokens(self) -> int:
        return self.steps * BATCH

    @property
    def name(self) -> str:
        return f"{self.layers} x {self.width}, {self.budget:.0e}"

    def settings(self) -> dict[str, str]:
        return {
            "model.num_decoder_layers": str(self.layers),
            "model.d_model": str(self.width),
            "model.d_ff": str(4 * self.width),
            "model.num_heads": str(self.width // 16),
            "train.steps": str(self.steps),
            "train.warmup_steps": str(self.steps // 20),
            "train.evaluate_every": str(self.steps // 8),
            "checkpoint.every_steps": str(self.steps),
        }


def cells() -> list[Cell]:
    every = [Cell(*shape, budget) for budget in BUDGETS for shape in SHAPES]
    near = [cell for cell in every if 1 / SPREAD < cell.size / (cell.budget / 120) ** 0.5 < SPREAD]
    return [cell for cell in near if cell.tokens <= EPOCHS * TEXT]


def base() -> Config:
    whole = shakespeare.get_config()
    data = dataclasses.replace(
        whole.data,
        train="train.txt",
        validation="valid.txt[:10%]",
        vocabulary_size=ENTRIES,
        max_target_length=ROW,
        row_length=ROW,
    )
    train = dataclasses.replace(whole.train, batch_tokens=BATCH, log_every=25)
    model = dataclasses.replace(whole.model, unroll=1)
    return dataclasses.replace(whole, model=model, data=data, train=train, evaluate=Evaluate(samples=0))


def get_study() -> Study:
    found = cells()
    tokens, alike = tuple(float(cell.tokens) for cell in found), tuple(cell.budget for cell in found)
    without, whole, products = (
        tuple(float(cell.size + k * cell.embeddings + m * cell.attention) for cell in found)
        for k, m in ((0, 0), (1, 0), (1, 1))
    )
    shared: dict[str, Any] = {"arms": tuple(cell.name for cell in found), "tokens": tokens, "margin": 0.1}
    isoflop = shared | {"kind": "isoflop", "profiles": alike}
    of_body, of_all = (tuple(6 * n * d for n, d in zip(sizes, tokens, strict=True)) for sizes in (without, products))
    fit = "Besiroglu et al. 2024, who repeat approach 3 of Hoffmann et al. 2022"
    return Study(
        question="How should a budget be divided between the size of a language model and its data?",
        claims=(
            Claim(
                text="Optimal size ~ C^0.5: all parameters, and all FLOPs.",
                source="Hoffmann et al. 2022, table 2",
                sizes=whole,
                budgets=of_all,
                exponent=0.5,
                **isoflop,
            ),
            Claim(
                text="Optimal size ~ C^0.73: parameters without embeddings, and 6 FLOPs for each of them and each token.",
                source="Kaplan et al. 2020, 6.1; of small models by way of counting: Pearce & Song 2024",
                sizes=without,
                budgets=of_body,
                exponent=0.73,
                **isoflop,
            ),
            Claim(
                text="L = E + A / N^0.35 + B / D^0.37: the exponent of the size.",
                source=fit,
                kind="size exponent",
                sizes=whole,
                exponent=0.35,
                **shared,
            ),
            Claim(
                text="L = E + A / N^0.35 + B / D^0.37: the exponent of the data.",
                source=fit,
                kind="data exponent",
                sizes=whole,
                exponent=0.37,
                **shared,
            ),
        ),
        base=base(),
        arms={cell.name: cell.settings() for cell in found},
        metrics=(Metric("validation/nll", "lower"),),
        compare_with=found[0].name,
        seeds=3,
        learning_rates=(2.5e-3, 5e-3, 1e-2),
        search_seeds=1,
        fair=(),
    )
