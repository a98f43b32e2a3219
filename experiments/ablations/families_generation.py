"""Encoder-decoder or a decoder alone for a text of one's own, at equal parameters? Raffel et al. 2020, 3.2.

    python launch.py --mode=ablate --config=experiments/ablations/families_generation.py --workdir=runs/families_generation

Three seeds, 2 to 5 min a run on one of two cores. Whether they are equal within 0.05 nats cannot be told (a prefix LM is worse
by 0.043, -0.047 to 0.133; ROUGE-2 57.8 for 63.4, -13.2 to 2.0). A language model is better than a prefix LM (by 0.079 nats,
0.003 to 0.154), other than in the paper. After 500 updates 1 to 3 % of the texts are right word for word: all still learn.

Who has what at the end of a story (experiments/bart_summaries.py): 48 tokens at most are read, 16 said, so that
unlike in translation most of the work is reading. All see 64 stories an update. An encoder alone says nothing. At equal FLOPs:
families_generation_flops.py.
"""

import dataclasses

from experiments import bart_summaries
from experiments import number_words as default_job
from experiments.ablations.families import decoders, whole_source
from transformer.config import Checkpoint, Config, Evaluate
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

STEPS = 500
SOURCE = "Raffel et al. 2020, Table 2, CNN/Daily Mail"
SHAPE = {"slots": 63, "rows": 64}  # of an update of a decoder alone


def base() -> Config:
    whole, job = bart_summaries.get_config(), default_job.get_config()
    config = dataclasses.replace(
        whole,
        model=job.model,
        train=job.train,
        evaluate=Evaluate(scores=("rouge2", "exact_match")),
        checkpoint=Checkpoint(every_steps=STEPS, keep_last=1),
    )
    rows = {"data.max_source_length": "48", "data.max_target_length": "16", "data.buckets": "1", "train.batch_tokens": "1024"}
    return override(config, rows | {"train.steps": str(STEPS), "train.label_smoothing": "0", "data.puzzle_test_size": "1000"})


def get_study() -> Study:
    return Study(
        question="Encoder-decoder or a decoder alone for a text of one's own, at equal parameters?",
        claims=(
            Claim(
                text="At as many parameters both summarise alike: ROUGE-2 18.97 (6 + 6 layers), 18.61 (prefix LM of 12).",
                source=SOURCE,
                kind="equal",
                arms=("prefix LM",),
                margin=0.05,
            ),
            whole_source("ROUGE-2 18.61 against 17.93", SOURCE),
        ),
        base=base(),
        arms={"encoder-decoder": {}} | decoders(4, **SHAPE),
        metrics=(Metric("validation/nll", "lower"), Metric("test/rouge2", "higher"), Metric("test/exact_match", "higher")),
        compare_with="encoder-decoder",
        seeds=3,
        fair=("steps", "parameters"),
    )
