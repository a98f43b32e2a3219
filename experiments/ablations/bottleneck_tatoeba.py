"""Does one vector hold a long sentence? As bottleneck.py, with sentences that people say, joined.

    for split in train valid; do
      paste <(gzip -dc TATOEBA/$split.en.gz) <(gzip -dc TATOEBA/$split.de.gz) |
        awk 'BEGIN { srand(1) } { print rand() "\\t" $0 }' | sort -n > DIR/$split.txt
      cut -f2 DIR/$split.txt > DIR/$split.en; cut -f3 DIR/$split.txt > DIR/$split.de
    done
    python launch.py --mode=ablate --config=experiments/ablations/bottleneck_tatoeba.py \\
        --workdir=runs/bottleneck_tatoeba --config.base.data.directory=DIR

Three seeds, 3 to 4 min a run on one of two cores. At 30 words and more one vector has 1.3 BLEU (1.4 reversed), Bahdanau's
attention 4.4, Luong's 6.6, the Transformer 3.4. But one vector has no more of shorter sources (0.8 to 1.3): in 1,000 updates it
learns little of the language (4.5 nats a token; Bahdanau's 3.3), so this says that it is slow, not where it gives up; for that
see bottleneck.py. It is Bahdanau's that falls with length, from 10.3, and Luong's that does not. Scores are of 287 examples, 47
of fewer than ten words, 91 of 30 and more.

TATOEBA holds pairs of short sentences (tatoeba.org), English and German, in order of length, hence the shuffling.
An example is one to six of them in a row, 6 to 40 words. Sentences of a row have nothing to do with one another, so that a long
example is no harder than a short one but for what must be kept.
"""

import dataclasses

from experiments.ablations import bottleneck
from transformer.settings import override
from transformer.studies.study import Metric, Study

WIDTHS = {"fixed": 106, "Luong": 100}  # d_model at which parameters are as many as Bahdanau's with 128
TRANSFORMER = bottleneck.TRANSFORMER | {"model.d_model": "104", "model.d_ff": "192"}
TATOEBA = {
    "data.source": "text",
    "data.train": "train",
    "data.validation": "valid[:50%]",
    "data.test": "valid[50%:]",
    "data.join": "6",
    "data.vocabulary": "bpe",
    "data.vocabulary_size": "2000",
    "data.max_source_length": "128",
    "data.max_target_length": "128",
    "train.batch_tokens": "1536",
    "evaluate.scores": "bleu",
    "evaluate.lengths": "1,10,20,30,60",
    "evaluate.places": "",
    "search.max_extra": "20",
}


def get_study() -> Study:
    study = bottleneck.get_study()
    return dataclasses.replace(
        study,
        claims=study.claims[:1],
        base=override(study.base, TATOEBA),
        arms=bottleneck.arms(WIDTHS, TRANSFORMER),
        metrics=(
            Metric("test/bleu@30-59", "higher"),
            Metric("test/bleu@20-29", "higher"),
            Metric("test/bleu@10-19", "higher"),
            Metric("test/bleu@1-9", "higher"),
            Metric("validation/nll", "lower"),
        ),
    )
