"""Encoder-decoder or a decoder alone, at equal parameters? Raffel et al. 2020, 3.2.

    python launch.py --mode=ablate --config=experiments/ablations/families.py --workdir=runs/families

Three seeds, 2 min a run on one of two cores. All end near the ceiling: 0.010 nats and 98.2 % of numbers right by both sides,
0.015 and 96.8 % by a prefix LM (equal within 0.05 nats, as in the paper), 0.004 and 99.6 % by a language model. That a source
which sees itself whole is better disagrees, by 0.011 nats (0.003 to 0.019): a language model is half way 8 to 25 updates sooner
too. Number words need little of what stands behind them, and all words seen under one mask may be easier to learn from.

A decoder alone reads source and target in one row: twice the slots for as many pairs. Its source sees itself
whole (prefix LM) or not (language model). The paper's models were pre-trained; these are not. At equal FLOPs:
families_flops.py. What has no decoder cannot translate.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Study


def decoders(layers: int, slots: int, rows: int, d_ff: int = 640) -> dict[str, dict[str, str]]:
    """Both decoders alone, of `layers`; of 4 they are as large as 2 + 2 layers with cross-attention and d_ff 512. An update has
    `rows` rows of a source and a target, `slots` tokens together."""
    sizes = {"model.num_decoder_layers": str(layers), "model.d_ff": str(d_ff)}
    whole = {"family": "decoder_only", "data.max_target_length": str(slots), "train.batch_tokens": str(rows * slots)} | sizes
    return {"prefix LM": whole, "language model": whole | {"model.causal_prefix": "true"}}


def whole_source(scores: str, source: str) -> Claim:
    """What the second of them lacks."""
    text = f"A source that sees itself whole is worth it: {scores}."
    return Claim(text=text, source=source, kind="order", arms=("prefix LM", "language model"))


def get_study() -> Study:
    return Study(
        question="Encoder-decoder or a decoder alone, at equal parameters?",
        claims=(
            Claim(
                text="At as many parameters both translate alike: 26.38 BLEU (6 + 6 layers), 26.43 (prefix LM of 12).",
                source="Raffel et al. 2020, Table 2, EnDe",
                kind="equal",
                arms=("prefix LM",),
                margin=0.05,
            ),
            whole_source("26.43 BLEU against 25.09", "Raffel et al. 2020, Table 2, EnDe: prefix LM and language model"),
        ),
        base=studies.number_words(),
        arms={"encoder-decoder": {}} | decoders(4, slots=128, rows=32),
        metrics=studies.NUMBER_WORDS,
        compare_with="encoder-decoder",
        seeds=3,
        fair=("steps", "parameters"),
    )
