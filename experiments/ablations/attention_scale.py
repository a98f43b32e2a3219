"""What does the factor 1/sqrt(d_k) on the logits of attention do? Vaswani et al. 2017, 3.2.1 and its footnote 4.

    python launch.py --mode=ablate --config=experiments/ablations/attention_scale.py --workdir=runs/attention_scale

Not run yet. The task, number words, is learned by most arms in the end: the validation loss of a shorter run is what can part
them. Two heads, so that d_k is 64, as in the paper.
"""

import dataclasses

from experiments import number_words
from transformer.config import Config, Evaluate
from transformer.studies.study import Claim, Metric, Study


def base() -> Config:
    whole = number_words.get_config()
    return dataclasses.replace(
        whole,
        model=dataclasses.replace(whole.model, num_heads=2),
        train=dataclasses.replace(whole.train, steps=200, evaluate_every=50),
        evaluate=Evaluate(scores=("exact_match",)),
    )


def get_study() -> Study:
    return Study(
        question="What does the factor 1/sqrt(d_k) on the logits of attention do?",
        claims=(
            Claim(
                text="For large d_k unscaled dot products grow large and push the softmax to where gradients are small.",
                source="Vaswani et al. 2017, 3.2.1 and footnote 4: with unit variances, q k has the variance d_k",
                kind="worse",
                arms=("none",),
                margin=0.0,
            ),
        ),
        base=base(),
        arms={
            "1/sqrt(d_k)": {},
            "none": {"model.attention_scale": "none"},
            "1/d_k": {"model.attention_scale": "1/d_k"},
            "learned": {"model.attention_scale": "learned"},
            "QK-norm": {"model.qk_norm": "true"},
        },
        metrics=(
            Metric("validation/nll", "lower"),
            Metric("test/nll", "lower"),
            Metric("test/exact_match", "higher"),
        ),
        compare_with="1/sqrt(d_k)",
        seeds=5,
        fair=("steps", "tokens", "flops", "parameters"),
    )
