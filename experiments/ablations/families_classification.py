"""Which family classifies best at equal parameters: an encoder, a decoder, or both? Raffel et al. 2020, 3.2.

    python launch.py --mode=ablate --config=experiments/ablations/families_classification.py \\
        --workdir=runs/families_classification

Three seeds, 2 to 4 min a run on one of two cores that did other work too. Of the test's labels the encoder has 52.5 % right
(50.5 to 54.6), a prefix LM 48.9 %, both sides 46.1 %, a language model 45.5 %. A prefix LM is better than a language model, by
3.5 points (0.3 to 6.6), as in the paper; whether it is as good as both sides, within 5 points, so few runs cannot tell (2.9
better, -1.1 to 6.8). The encoder, which the paper leaves out, is better than both sides by 6.5 (2.5 to 10.4).

The value of nested list operations (ListOps), one of ten labels: read from the first token by the encoder, said as a text by
what has a decoder, so that the figure's losses are of a text with its end, but for the encoder's. All see 32 expressions an
update, all of one length of rows; the encoder-decoder has so few slots because a target has two. At equal FLOPs:
families_classification_flops.py.
"""

import dataclasses

from experiments import bert_list_ops
from experiments.ablations.families import decoders, whole_source
from transformer.config import Checkpoint, Config, Evaluate, Search
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

STEPS = 1000
D_FF = 320  # of what is one stack; both sides have less, for the cross-attention
SOURCE = "Raffel et al. 2020, Table 2"
SAID = {"objective.kind": "translate", "data.source": "list_ops_pairs"}
BOTH = SAID | {"family": "encoder_decoder", "data.max_target_length": "2", "train.batch_tokens": "64", "model.d_ff": "256"}
ALONE = SAID | {"model.tying": "two_way"}


def base() -> Config:
    """The encoder: an update is 32 rows of the longest expression, 62 characters, and what is put around it."""
    config = dataclasses.replace(
        bert_list_ops.get_config(),
        evaluate=Evaluate(scores=("exact_match",)),
        search=Search(beam_size=1, batch_size=256, max_extra=2),
        checkpoint=Checkpoint(every_steps=STEPS, keep_last=1),
    )
    rows = {"data.max_source_length": "64", "data.buckets": "1", "train.batch_tokens": "2048", "data.vocabulary_size": "40"}
    sizes = {"model.d_model": "64", "model.d_ff": str(D_FF), "model.token_types": "0"}
    learned = {"train.steps": str(STEPS), "train.learning_rate": "0.002", "train.evaluate_every": "100"}
    return override(config, rows | sizes | learned)


def get_study() -> Study:
    return Study(
        question="Which family classifies best at equal parameters: an encoder, a decoder, or both?",
        claims=(
            Claim(
                text="A decoder that sees the whole input whole does as well: GLUE 81.82 against 80.88 (6 + 6 layers).",
                source=SOURCE,
                kind="equal",
                arms=("prefix LM",),
                margin=5.0,
            ),
            whole_source("GLUE 81.82 against 74.70", SOURCE),
        ),
        base=base(),
        arms={
            "encoder-decoder": BOTH | {"model.num_encoder_layers": "2", "model.num_decoder_layers": "2"},
            "encoder": {},
            **{name: arm | ALONE for name, arm in decoders(4, slots=64, rows=32, d_ff=D_FF).items()},
        },
        metrics=(Metric("test/exact_match", "higher"),),  # losses and accuracies of tokens are of the text's end too
        compare_with="encoder-decoder",
        seeds=3,
        fair=("steps", "parameters"),
    )
