"""Which way to tell positions goes beyond the outputs that were trained on? SCAN by length, Lake and Baroni 2018.

    awk 'NR % 20' SCAN/length_train.txt > DIR/train.txt
    awk 'NR % 20 == 0' SCAN/length_train.txt > DIR/validation.txt
    awk 'NR % 4 == 0' SCAN/length_test.txt > DIR/test.txt
    for split in train validation test; do
      sed 's/^IN: //; s/ OUT: .*//' DIR/$split.txt > DIR/$split.in
      sed 's/.* OUT: //' DIR/$split.txt > DIR/$split.out
    done
    python launch.py --mode=ablate --config=experiments/ablations/length_generalization_scan.py \\
        --workdir=runs/length_generalization_scan --config.base.data.directory=DIR

Three seeds, 3 to 5 min a run on one of two cores that did other work too. No command of the test is told whole, by any arm:
no output has more than 18 actions. Made to say as many as there are, ALiBi has 65 % of actions right, T5's bias 53 %, no
positions 50 %, rotary ones 44 %, sinusoids 39 %; commands whole 11, 1, 0.2, 0.1, 0 %. That no positions are best disagrees
again, by ALiBi alone (15.8 points, 8.3 to 23.2), as in length_generalization.py; sinusoids are behind them by 11.0 points (3.6
to 18.5), T5's bias and rotary ones not told apart. At trained lengths no positions are worse than all but sinusoids.

SCAN holds that split (brendenlake/SCAN). Its lines are in order, so that every twentieth is kept for validation, and the test
is every fourth of its own. Commands such as "jump twice and walk" are told in 1 to 22 actions in training, in 24 to 48 in the
test, by a decoder alone, all under a causal mask, as in length_generalization.py. Scores "@true_length" are of outputs of as
many tokens as there should be: where no output was ever so long, models end too soon (Newman et al. 2020).
"""

import dataclasses

from experiments.ablations import length_generalization
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

COMPARED = ("t5", "alibi", "rotary", "sinusoidal")
SCAN = {
    "data.source": "text",
    "data.source_language": "in",
    "data.target_language": "out",
    "data.vocabulary_size": "48",
    "model.d_model": "64",
    "model.d_ff": "192",
    "train.steps": "4000",
    "train.batch_tokens": "512",
    "train.learning_rate": "0.003",
    "train.evaluate_every": "400",
    "evaluate.scores": "word_accuracy,exact_match",
    "evaluate.true_lengths": "true",
    "evaluate.lengths": "",
    "search.max_extra": "50",
    "checkpoint.every_steps": "4000",
}


def get_study() -> Study:
    study = length_generalization.get_study()
    return dataclasses.replace(
        study,
        question="Which way to tell positions goes beyond the outputs that were trained on?",
        claims=(
            Claim(
                text="No positions at all outperform ALiBi, rotary ones, sinusoids and T5's bias.",
                source="Kazemnejad et al. 2023, abstract (SCAN is one of ten tasks)",
                kind="worse",
                arms=COMPARED,
            ),
        ),
        base=override(study.base, SCAN),
        arms={arm: study.arms[arm] for arm in ("none", *COMPARED)},
        metrics=(
            Metric("test/word_accuracy@true_length", "higher"),
            Metric("test/exact_match@true_length", "higher"),
            Metric("test/exact_match", "higher"),
            Metric("validation/nll", "lower"),
        ),
    )
