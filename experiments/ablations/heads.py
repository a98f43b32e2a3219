"""How many attention heads, and how many key-value heads? Vaswani et al. 2017, Table 3 (A); Ainslie et al. 2023.

    python launch.py --mode=ablate --config=experiments/ablations/heads.py --workdir=runs/heads \\
        --config.base.data.directory=DIR

DIR holds Multi30k's train.*, val.* and test_2016_flickr.* in English and German, cased and untokenised.

Six seeds, 90 runs with the search, two at a time on two cores. One head is worse by 0.082 nats (95 % interval 0.068 to 0.097;
published: 0.073), 32 heads by 0.043 (0.027 to 0.060; published: 0.018, which is excluded), 4 heads as good (0.007). One
key-value head is worse by 0.102 nats (0.085 to 0.119), also at equal parameters. Two are worse by 0.056 (0.035 to 0.077), so
they are not as good as eight within 0.02 nats; but a difference of 0.02 is smaller than this study can show, so that verdict is
exploratory. BLEU goes the same way (30.9; 30.5 with 1 head, 29.5 with 32, 28.6 and 29.4 with 1 and 2 key-value heads), but with
1 head the difference is not shown. See `experiments/reports/heads`.

All arms but "1 head" (3e-3) have their best rate at 6e-3, the highest, so runs at 1.2e-2 were added, which are all worse. The
search has a third of the updates, and only "8 heads" is checked with all of them. So "1 head" was tried at 6e-3 with all of
them, outside the study (`studies.base_m(num_heads=1)`): 2.082 and 2.181 nats (seeds 0 and 1), worse than at 3e-3 (2.059 and
2.084). The code became faster between the runs, four versions of it; 40 updates with each differ by rounding only. A run with
all updates takes 10 minutes of one core with the code of today. Times in the report include waiting for other work.

`python -m experiments.benchmarks.arms --study=experiments/ablations/heads.py` on two cores: greedy decoding of 64 rows of
32 tokens takes 284 ms with 8 heads, 299 with 1, 272 with 4, 338 with 32, and 268 and 332 with 1 and 2 key-value heads, whose
caches have an eighth and a quarter of the size.

Ainslie et al. trained multi-head models with 5 % more updates after grouping their heads; here all arms are trained from
scratch. Heads divide a fixed width: d_k = d_v = 128 / h, so that all arms cost the same. With 32 heads, d_k is 4 here and 16 in
the paper. Grouped arms have 8 query heads and 1 or 2 key-value heads; the feed-forward layers get the parameters that this
saves.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Study


def get_study() -> Study:
    table3 = "Vaswani et al. 2017, 6.2 and Table 3 (A)"
    ainslie = "Ainslie et al. 2023, figure 3 (quality of T5 models on seven tasks)"
    return Study(
        question="How many attention heads, and how many heads of keys and values?",
        claims=(
            Claim(
                text="A single head is 0.9 BLEU worse than the best setting (perplexity 5.29 against 4.92: 0.073 nats).",
                source=table3,
                kind="worse",
                arms=("1 head",),
                effect=0.073,
            ),
            Claim(
                text="Quality also drops off with too many heads (perplexity 5.01 against 4.92: 0.018 nats).",
                source=table3,
                kind="worse",
                arms=("32 heads",),
                effect=0.018,
            ),
            Claim(
                text="Multi-query attention loses some quality against multi-head attention.",
                source=ainslie,
                kind="worse",
                arms=("8 heads, 1 of keys and values",),
            ),
            Claim(
                text="Grouped-query attention comes close to multi-head attention (here: within 0.02 nats).",
                source=ainslie,
                kind="equal",
                arms=("8 heads, 2 of keys and values",),
                margin=0.02,
            ),
        ),
        base=studies.base_m(),
        arms={
            "8 heads": {},
            "1 head": {"model.num_heads": "1"},
            "4 heads": {"model.num_heads": "4"},
            "32 heads": {"model.num_heads": "32"},
            "8 heads, 1 of keys and values": {"model.num_kv_heads": "1", "model.d_ff": "680"},
            "8 heads, 2 of keys and values": {"model.num_kv_heads": "2", "model.d_ff": "656"},
        },
        metrics=studies.BASE_M,
        compare_with="8 heads",
        seeds=6,
        learning_rates=(1.5e-3, 3e-3, 6e-3),
        search_fraction=1 / 3,
        search_check="8 heads",
        fair=("steps", "tokens", "flops", "parameters"),
    )
