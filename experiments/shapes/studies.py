"""Bases of studies: runs of a minute or two on two cores, with tasks and numbers of updates at which arms still differ.

Losses are without label smoothing, so that differences are caused only by the arms.
"""

import dataclasses
from typing import Any

from experiments import gpt_algorithms
from transformer.config import Checkpoint, Config, Data, Evaluate, InitMetric, Model, Search, Train
from transformer.studies.study import Metric

SMALL = Model(num_encoder_layers=2, num_decoder_layers=2, d_model=128, d_ff=512, num_heads=4, unroll=2)

# Metrics for number words: the final loss, the number of updates until 0.5 nats, and the quality of the outputs.
NUMBER_WORDS = (
    Metric("validation/nll", "lower"),
    Metric("validation/nll", "lower", take="updates", target=0.5),
    Metric("test/exact_match", "higher"),
)


def number_words(steps: int = 200, **model: Any) -> Config:
    """Number words in padded batches. Training stops before the task is learned, which takes 350 updates: after 200 most arms
    are within 0.02 nats of the minimum, after 120 they still differ. Texts have at most 64 tokens; test numbers are drawn
    evenly."""
    return Config(
        model=dataclasses.replace(SMALL, **model),
        data=Data(
            vocabulary_size=128,
            batching="bucketed",
            buckets=4,
            max_source_length=64,
            max_target_length=64,
            number_test_size=1000,
        ),
        train=Train(
            steps=steps,
            batch_tokens=2048,
            schedule="linear",
            learning_rate=2e-3,
            warmup_steps=50,
            label_smoothing=0.0,
            evaluate_every=min(25, max(steps // 8, 1)),
        ),
        evaluate=Evaluate(scores=("exact_match",)),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=steps, keep_last=1),
    )


def at_start(base: Config, *metrics: InitMetric) -> Config:
    """A base for measurements before the first update: one update, little compilation, and no decoding."""
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, unroll=1),
        data=dataclasses.replace(
            base.data,
            **{"number_train_size": 4000} if base.data.source == "number_words" else {},
            validation=None,
            test=None,
            buckets=1,
        ),
        train=dataclasses.replace(base.train, steps=1, evaluate_every=Train().evaluate_every, init_metrics=metrics),
        checkpoint=Checkpoint(every_steps=1, keep_last=1),
    )


WIDTHS = (32, 64, 128, 256)  # of studies of muP; the first is the base width


def widths(parametrization: str) -> dict[str, dict[str, str]]:
    """Arms with these widths in one parametrization, "standard" or "muP", by name."""
    mup = {"model.parametrization": "mup", "model.base_width": str(WIDTHS[0])} if parametrization == "muP" else {}
    sizes = {width: {"model.d_model": str(width), "model.d_ff": str(4 * width)} for width in WIDTHS}
    return {f"{parametrization}, {width}": changes | mup for width, changes in sizes.items()}


# Multi30k, English to German: train.*, val.* and test_2016_flickr.* in `config.base.data.directory`.
MULTI30K = Data(
    source="text",
    train="train",
    validation="val",
    test="test_2016_flickr",
    vocabulary_size=4000,
    max_source_length=64,
    max_target_length=64,
)


def multi30k(steps: int, model: Model, share: str = "") -> Config:
    """Short trainings on `MULTI30K`; `share`: a slice of the training pairs, "[:10%]".

    Pre-norm, because a post-norm model learns little in so few updates.
    """
    return Config(
        model=dataclasses.replace(model, norm_order="pre"),
        data=dataclasses.replace(MULTI30K, train=f"train{share}", batching="bucketed", buckets=4),
        train=Train(
            steps=steps,
            batch_tokens=1024,
            learning_rate=3e-3,
            warmup_steps=100,
            schedule="linear",
            evaluate_every=100,
        ),
        evaluate=Evaluate(scores=("bleu",), bleu_tokenize="none"),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=steps, keep_last=1),
    )


# Metrics for base M: the best loss, and the quality of that model's outputs.
BASE_M = (Metric("validation/nll", "lower", take="best"), Metric("test/bleu", "higher"))


def base_m(**model: Any) -> Config:
    """Base M, the base of the core ablations: `MULTI30K`, cased and untokenised. 1.9 M parameters (as the dry run of heads.py
    counts them), scored with the best checkpoint.

    Pre-norm, so that no arm depends on the warm-up; no label smoothing, because losses are compared. 2,000 updates are some 7
    epochs and take 10 minutes of one core, or 8 with `matmul_dtype="bfloat16"`, which changes the loss less than a seed does.
    """
    steps = 2000
    return Config(
        model=Model(
            num_encoder_layers=3,
            num_decoder_layers=3,
            d_model=128,
            dropout_rate=0.2,
            norm_order="pre",
            unroll=3,
            **{"d_ff": 512, "num_heads": 8, **model},
        ),
        data=dataclasses.replace(MULTI30K, batching="packed", row_length=64),
        train=Train(
            steps=steps,
            batch_tokens=1536,
            learning_rate=3e-3,
            warmup_steps=steps // 20,
            schedule="linear",
            label_smoothing=0.0,
            loss_chunk=512,
            evaluate_every=100,
        ),
        evaluate=Evaluate(scores=("bleu",), checkpoint="best", samples=0),
        search=Search(beam_size=1, batch_size=128),
        checkpoint=Checkpoint(every_steps=500, keep_last=1, best_metric="validation/nll"),
    )


def gpt_algorithm(algorithm: str, lengths: tuple[int, int], test: tuple[int, int], steps: int, **model: Any) -> Config:
    """A synthetic algorithm, by a decoder-only model. Embeddings are as large as sinusoids, so that both have an effect."""
    base = gpt_algorithms.get_config()
    model = {"embedding_scale": "sqrt(d_model)", "embedding_init": "1/sqrt(d_model)"} | model
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, **model),
        data=dataclasses.replace(
            base.data,
            algorithm=algorithm,
            algorithm_train_lengths=lengths,
            algorithm_test_lengths=test,
            synthetic_train_size=50_000,
            max_source_length=128,
            max_target_length=128,
        ),
        train=dataclasses.replace(base.train, steps=steps, evaluate_every=steps // 10),
        checkpoint=Checkpoint(every_steps=steps, keep_last=1),
    )
