"""Pre- or post-norm, with and without warm-up, at two learning rates? Six encoder and six decoder layers. Xiong et al. 2020.

    python launch.py --mode=ablate --config=experiments/ablations/norm_order.py --workdir=runs/norm_order

Three seeds, 2 to 6 min a run on one of two cores that did other work too. The models are narrow, so that depth is cheap.
After 200 updates the loss of pre-norm is 0.84 nats with the warm-up and 0.87 without (learning rate 0.004; 1.67 and 1.63 at
0.001); that of post-norm is 2.37 and 2.83 (2.26 and 2.27). The study cannot tell whether post-norm needs the warm-up (worse
without it by 0.47, -0.48 to 1.29). It does not decide whether pre-norm does, because pre-norm is still learning (worse without
it by 0.03, -0.15 to 0.20). Pre-norm without the warm-up has a loss 1.96 nats lower than post-norm without it; no verdict is
about this difference. No run diverged. After so few updates no arm translates numbers correctly, and the study does not show
whether post-norm catches up later.

The second claim was changed after the runs, because it did not test its words: it compared pre-norm without the warm-up with
post-norm without it.
"""

from experiments.shapes import studies
from transformer.config import Config
from transformer.settings import override
from transformer.studies.study import Claim, Study

RATES = ("0.001", "0.004")
HIGH = RATES[-1]
SOURCE = "Xiong et al. 2020, 3.2 and 4 (IWSLT14 German to English)"


def base(depth: int) -> Config:
    sizes = {"num_encoder_layers": depth, "num_decoder_layers": depth, "d_model": 32, "d_ff": 64, "num_heads": 2}
    return override(studies.number_words(**sizes), {"train.batch_tokens": "1024"})


def get_study() -> Study:
    arms = {}
    for rate in RATES:
        for order in ("post", "pre"):
            for name, steps in (("warm-up", "50"), ("none", "0")):
                changes = {"model.norm_order": order, "train.warmup_steps": steps, "train.learning_rate": rate}
                arms[f"{order}, {name}, {rate}"] = changes
    return Study(
        question="Pre- or post-norm, with and without warm-up, 6 layers a side?",
        claims=(
            Claim(
                text="Post-norm needs the warm-up (there: 8.45 BLEU without it, about 34 with it; here: a lower loss with it).",
                source=SOURCE,
                kind="worse",
                arms=(f"post, none, {HIGH}",),
            ),
            Claim(
                text="Pre-norm does not (there: about 34 BLEU without it, too; here: at most 0.1 nats worse than with it).",
                source=SOURCE,
                kind="not worse",
                arms=(f"pre, none, {HIGH}",),
                margin=0.1,
                against=f"pre, warm-up, {HIGH}",
            ),
        ),
        base=base(6),
        arms=arms,
        metrics=studies.NUMBER_WORDS,
        compare_with=f"post, warm-up, {HIGH}",
        seeds=3,
        checkpoint="last",
        fair=("steps", "tokens", "flops", "parameters"),
    )
