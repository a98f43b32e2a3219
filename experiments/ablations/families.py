"""Encoder-decoder or a decoder alone, at equal parameters? Raffel et al. 2020, 3.2.

    python launch.py --mode=ablate --config=experiments/ablations/families.py --workdir=runs/families

Not run yet. A decoder alone reads source and target in one row: twice the slots for as many pairs. Its source sees itself
whole (prefix LM) or not (language model). The paper's models were pre-trained; these are not. At equal FLOPs:
families_flops.py. What has no decoder cannot translate.
"""

from experiments.shapes import studies
from transformer.studies.study import Claim, Study


def decoder(layers: int, **more: str) -> dict[str, str]:
    """Of `layers` and the width that 2 + 2 layers with cross-attention have, in rows of a source and a target."""
    sizes = {"model.num_decoder_layers": str(layers), "model.d_ff": "640"}
    rows = {"data.max_target_length": "128", "train.batch_tokens": "4096"}
    return {"family": "decoder_only"} | sizes | rows | more


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
            Claim(
                text="A source that sees itself whole is worth it: 26.43 BLEU against 25.09.",
                source="Raffel et al. 2020, Table 2, EnDe: prefix LM and language model",
                kind="order",
                arms=("prefix LM", "language model"),
            ),
        ),
        base=studies.number_words(),
        arms={
            "encoder-decoder": {},
            "prefix LM": decoder(4),
            "language model": decoder(4, **{"model.causal_prefix": "true"}),
        },
        metrics=studies.NUMBER_WORDS,
        compare_with="encoder-decoder",
        seeds=3,
        fair=("steps", "parameters"),
    )
