"""Your own parallel text: two files, line n of one the translation of line n of the other.

    python launch.py --config=experiments/parallel_text.py --workdir=runs/mine \\
        --config.data.directory=DIR --config.data.source_language=en --config.data.target_language=de

reads DIR/train.en and DIR/train.de to train on, DIR/validation.* to choose the best checkpoint on and DIR/test.* to score
at the end (all may be .gz). --config.data.validation=none or --config.data.test=none where there is no such set.

The size of the model and of the vocabulary, the batch and the number of updates are chosen from the number of training
pairs, by `SIZES` and `fit_to_data` below, and printed before training starts. Settings on the command line take precedence.
"""

import math
from collections.abc import Mapping

from transformer.config import Checkpoint, Config, Data, Model, Train, TrainingText
from transformer.errors import say
from transformer.settings import override

# From so many training pairs on, these settings; larger models need fewer, larger updates and smaller learning rates.
SIZES = {
    0: {"d_model": 128, "d_ff": 512, "layers": 3, "heads": 4, "dropout": 0.2, "batch": 2048, "learning_rate": 3e-3},
    50_000: {"d_model": 192, "d_ff": 768, "layers": 3, "heads": 4, "dropout": 0.1, "batch": 2048, "learning_rate": 2e-3},
    500_000: {"d_model": 512, "d_ff": 2048, "layers": 6, "heads": 8, "dropout": 0.1, "batch": 16_384, "learning_rate": 7e-4},
}
BYTES_PER_TOKEN = 4  # of UTF-8, about, with the vocabularies chosen here


def get_config() -> Config:
    """What does not depend on the data."""
    return Config(
        model=Model(norm_order="pre"),
        data=Data(source="text", batching="packed"),
        train=Train(schedule="linear", loss_chunk=256, log_every=20),
        checkpoint=Checkpoint(best_metric="validation/nll"),
    )


def fit_to_data(config: Config, overrides: Mapping[str, str], train: TrainingText) -> Config:
    """`config` with the settings that follow from the number of training pairs, except those that `overrides` holds.

    The vocabulary has 20 sqrt(pairs) entries. From 100,000 pairs on each pair is seen about 9 times; with fewer pairs the
    number of passes grows as 1 / sqrt(pairs), to 100 at most. A tenth of the updates is warm-up, and as many lie between two
    validations or checkpoints.
    """
    pairs, tokens = train.examples, train.bytes / BYTES_PER_TOKEN + train.examples
    size = SIZES[max(least for least in SIZES if least <= pairs)]
    chosen = {
        "model.num_encoder_layers": size["layers"],
        "model.num_decoder_layers": size["layers"],
        "model.unroll": size["layers"],
        "model.d_model": size["d_model"],
        "model.d_ff": size["d_ff"],
        "model.num_heads": size["heads"],
        "model.dropout_rate": size["dropout"],
        "data.vocabulary_size": min(max(1000 * round(math.sqrt(pairs) / 50), 1000), 32_000),
        "train.batch_tokens": size["batch"],
        "train.learning_rate": size["learning_rate"],
        "evaluate.checkpoint": "last" if config.data.validation is None else "best",
    }
    config = override(config, {name: str(value) for name, value in chosen.items()} | dict(overrides))
    passes = min(max(9.0, 9 * math.sqrt(100_000 / pairs)), 100.0)
    steps = max(100 * round(passes * tokens / config.train.batch_tokens / 100), 300)
    config = override(config, {"train.steps": str(steps)} | dict(overrides))
    tenth = str(max(min(steps, config.train.steps) // 10, 1))
    often = dict.fromkeys(("train.warmup_steps", "train.evaluate_every", "checkpoint.every_steps"), tenth)
    config = override(config, often | dict(overrides))
    model, seen = config.model, config.train.steps * config.train.batch_tokens / tokens
    say(
        f"{pairs:,} training pairs: {model.num_encoder_layers} + {model.num_decoder_layers} layers of width {model.d_model}, "
        f"at most {config.data.vocabulary_size:,} vocabulary entries, {config.train.steps:,} updates of "
        f"{config.train.batch_tokens:,} target tokens (each pair about {seen:.0f} times)"
    )
    return config
