"""Does one vector hold a long sentence? As bottleneck.py, with sentences that people say, joined.

    for split in train valid; do
      paste <(gzip -dc TATOEBA/$split.en.gz) <(gzip -dc TATOEBA/$split.de.gz) |
        awk 'BEGIN { srand(1) } { print rand() "\\t" $0 }' | sort -n > DIR/$split.txt
      cut -f2 DIR/$split.txt > DIR/$split.en; cut -f3 DIR/$split.txt > DIR/$split.de
    done
    python launch.py --mode=ablate --config=experiments/ablations/bottleneck_tatoeba.py \\
        --workdir=runs/bottleneck_tatoeba --config.base.data.directory=DIR

Not run yet. TATOEBA holds pairs of short sentences (tatoeba.org), English and German, in order of length, hence the shuffling.
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
