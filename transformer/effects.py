"""Where each setting has an effect. Elsewhere a value other than the default is refused, because it would change nothing.

A new setting that needs another one adds a row to `EFFECTS`. A test changes every setting in every family and objective, and
fails if a change is accepted but has no effect.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

from transformer import registry
from transformer.components.feed_forward import NoFeedForward
from transformer.components.masks import Causal
from transformer.components.positions import Learned, T5Buckets
from transformer.config import Config, Model
from transformer.errors import UserError
from transformer.settings import differences, fields, replace, text_of

LABELS = ("classify", "tag", "answer")
# Sources whose examples have a source text.
PAIRS = ("number_words", "list_ops_pairs", "summaries", "algorithms", "text", "tfds")
TRANSLATING = ("translate", "prefix_lm", "span_corruption", "denoise")  # objectives with --mode=translate
# The scores that fit the outputs and references of an objective.
SCORES = {
    "translate": ("bleu", "chrf", "exact_match", "word_accuracy", "rouge1", "rouge2", "rougeL"),
    "classify": ("accuracy", "macro_f1", "exact_match"),
    "tag": ("entity_f1", "exact_match", "word_accuracy"),
    "answer": ("squad_exact_match", "squad_f1"),
}

Condition = Callable[[Config], bool]


def _family(*names: str) -> Condition:
    return lambda config: config.family in names


def _objective(*kinds: str) -> Condition:
    return lambda config: config.objective.kind in kinds


def _source(*names: str) -> Condition:
    return lambda config: config.data.source in names


def _is(name: str, *values: Any) -> Condition:
    section, _, field = name.partition(".")
    return lambda config: getattr(getattr(config, section), field) in values


def _of_a_layer(holds: Callable[[Model], bool]) -> Condition:
    """Whether it holds for a layer: layer types differ from the model."""
    return lambda config: any(holds(each) for stack in ("encoder", "decoder") for each in config.model.layers_of_period(stack))


_feeds_forward = _of_a_layer(lambda each: not isinstance(each.feed_forward, NoFeedForward))
_layers_drop = _of_a_layer(lambda each: each.attention.dropout_rate > 0 or each.feed_forward.dropout_rate > 0)


def _has_dropout(config: Config) -> bool:
    model = config.model
    return (
        model.dropout_rate > 0
        or (config.family != "recurrent" and _layers_drop(config))
        or (_classifies(config) and model.head_dropout_rate > 0)
    )


def _classifies(config: Config) -> bool:
    return config.objective.kind in LABELS or _classifies_texts(config)


def _has_pooler(config: Config) -> bool:
    """A layer below the classifier."""
    return _classifies_texts(config) or (_classifies(config) and config.model.prediction_head == "modernbert")


def _classifies_texts(config: Config) -> bool:
    return config.objective.kind == "classify" or (config.objective.kind == "masked_lm" and config.objective.next_sentence)


def _normal(config: Config) -> bool:
    """A position encoding in a file of the user's may read it."""
    model = config.model
    kinds = [each.positions for stack in ("encoder", "decoder") for each in model.layers_of_period(stack)]
    reads = any(isinstance(kind, Learned | T5Buckets) or registry.sources(type(kind)) for kind in kinds)
    return "normal" in (model.initializer, model.embedding_init) or (config.family != "recurrent" and reads)


def _scores_fit(config: Config) -> bool:
    """Unknown names are left to the check that knows the nearest one."""
    known = {name for each in SCORES.values() for name in each}
    return config.objective.kind in SCORES and known.intersection(config.evaluate.scores) <= {*SCORES[config.objective.kind]}


def _has_prefix(config: Config) -> bool:
    return config.family == "decoder_only" and config.objective.kind != "causal_lm"


# Names in a section, the condition under which they have an effect, and the condition in words, after "it has an effect only".
EFFECTS: list[tuple[str, str, Condition, str]] = [
    ("model", "num_encoder_layers", lambda c: c.family != "decoder_only", "in a model with an encoder"),
    ("model", "num_decoder_layers", lambda c: c.family != "encoder_only", "in a model with a decoder"),
    (
        "model",
        "d_ff num_heads num_kv_heads d_k d_v window layer_pattern layer_types attention positions mask feed_forward norm "
        "attention_backend attention_chunk norm_order attention_norm residual final_norm embedding_norm",
        lambda c: c.family != "recurrent",
        "in a Transformer, and config.family is recurrent",
    ),
    (
        "model",
        "pooler_activation",
        _has_pooler,
        "in a model that classifies texts, or with config.model.prediction_head=modernbert",
    ),
    (
        "model",
        "pooling",
        lambda c: _classifies_texts(c) and c.family == "encoder_only",
        "in an encoder that classifies texts",
    ),
    ("model", "prediction_head", _classifies, "in a model with a classifier"),
    (
        "model",
        "head_bias",
        lambda c: (
            c.objective.kind == "masked_lm"
            or _classifies_texts(c)
            or (_classifies(c) and c.model.prediction_head == "modernbert")
        ),
        "in a masked language model, in one that classifies texts, or with config.model.prediction_head=modernbert",
    ),
    ("model", "lora_rank", lambda c: c.family != "recurrent", "in a Transformer, and config.family is recurrent"),
    ("model", "parametrization", lambda c: c.family != "recurrent", "in a Transformer, and config.family is recurrent"),
    (
        "model",
        "matmul_dtype",
        lambda c: c.family != "recurrent" and c.model.dtype == "float32",
        "in a Transformer with config.model.dtype=float32",
    ),
    ("model", "base_width base_d_k", _is("model.parametrization", "mup"), "with config.model.parametrization=mup"),
    ("model", "lora_alpha lora_kernels", lambda c: c.model.lora_rank is not None, "with config.model.lora_rank"),
    ("model", "dropout_generator", _has_dropout, "where a dropout rate is above 0"),
    (
        "model.attention",
        "query_init",
        _of_a_layer(lambda each: not each.attention.qk_norm),
        "without config.model.attention.qk_norm, which takes the size of queries away",
    ),
    (
        "model.attention",
        "qk_norm_over qk_norm_plus_one",
        _of_a_layer(lambda each: each.attention.qk_norm),
        "with config.model.attention.qk_norm",
    ),
    (
        "model.attention",
        "norm_epsilon",
        _of_a_layer(lambda each: each.attention.qk_norm or each.attention.has_own_norm),
        "with config.model.attention.qk_norm",
    ),
    (
        "model.attention",
        "scale_width",
        _of_a_layer(lambda each: each.attention.scale == "1/sqrt(d_k)"),
        "with config.model.attention.scale=1/sqrt(d_k)",
    ),
    (
        "model",
        "attention_chunk",
        _is("model.attention_backend", "auto", "chunked", "fused"),
        "with config.model.attention_backend=chunked, fused or auto",
    ),
    ("model", "d_ff", _feeds_forward, "in a Transformer with feed-forward layers"),
    ("model.feed_forward", "bias dropout_rate", _feeds_forward, "in a Transformer with feed-forward layers"),
    (
        "model.feed_forward",
        "activation",
        lambda c: _feeds_forward(c) or c.objective.kind == "masked_lm",
        "in a Transformer with feed-forward layers, or below the logits of a masked language model",
    ),
    ("model", "mask", _family("encoder_decoder", "decoder_only"), "in a Transformer with a decoder"),
    (
        "model",
        "mask",
        lambda c: type(c.model.mask) is not Causal or _has_prefix(c),
        "with config.family=decoder_only and an objective that reads a prefix, if it is causal",
    ),
    (
        "model",
        "logits_scale logits_cap logits_bias",
        lambda c: c.objective.kind not in LABELS,
        "in a model that predicts tokens",
    ),
    (
        "model",
        "tying",
        lambda c: c.objective.kind not in LABELS or c.family == "encoder_decoder",
        "in a model that predicts tokens, or embeds them twice",
    ),
    (
        "model",
        "init_stddev",
        _normal,
        "with config.model.initializer=normal, config.model.embedding_init=normal, or learned or t5 positions",
    ),
    ("model", "token_types", _family("encoder_only"), "with config.family=encoder_only"),
    ("model", "head_dropout_rate", _classifies, "in a model with a classifier"),
    (
        "model.recurrent",
        "cell attention context bidirectional reverse_source input_feeding",
        _family("recurrent"),
        "with config.family=recurrent",
    ),
    (
        "model.recurrent",
        "context",
        lambda c: c.model.recurrent.attention == "none",
        "with config.model.recurrent.attention=none",
    ),
    (
        "model.recurrent",
        "input_feeding",
        lambda c: c.model.recurrent.attention.startswith("luong"),
        "with config.model.recurrent.attention=luong_*",
    ),
    (
        "data",
        "source_language target_language",
        _source("number_words", "text", "tfds"),
        "with config.data.source=number_words, text or tfds",
    ),
    ("data", "tfds_name", _source("tfds"), "with config.data.source=tfds"),
    ("data", "mixture join", _source("text"), "with config.data.source=text"),
    ("data", "prefix", _source(*PAIRS), "with a config.data.source of pairs"),
    ("data", "document", _source("documents"), "with config.data.source=documents"),
    ("data", "cross_documents", _objective("causal_lm"), "with config.objective.kind=causal_lm"),
    (
        "data",
        "number_range number_train_range number_test_range number_train_size number_test_size number_train_by_digits "
        "number_test_by_digits number_small_copies",
        _source("number_words"),
        "with config.data.source=number_words",
    ),
    (
        "data",
        "synthetic_train_size synthetic_test_size",
        _source("algorithms", "list_ops", "list_ops_pairs", "entities", "stories", "summaries"),
        "with a synthetic task other than number_words",
    ),
    (
        "data",
        "algorithm algorithm_alphabet algorithm_train_lengths algorithm_test_lengths",
        _source("algorithms"),
        "with config.data.source=algorithms",
    ),
    ("data", "algorithm_alphabet", lambda c: c.data.algorithm != "addition", "with a config.data.algorithm of letters"),
    (
        "data",
        "vocabulary_size",
        _is("data.vocabulary", "bpe", "unigram", "characters"),
        "with config.data.vocabulary=bpe, unigram or characters",
    ),
    ("data", "joint_vocabulary", _objective("translate"), "with config.objective.kind=translate, which has two texts"),
    ("data", "segmentation_rate", lambda c: c.data.segmentations > 1, "with config.data.segmentations above 1"),
    ("data", "normalization", _is("data.vocabulary", "bpe", "unigram"), "with config.data.vocabulary=bpe or unigram"),
    ("data", "max_source_length", lambda c: c.objective.kind != "causal_lm", "in a model that reads a source"),
    ("data", "max_target_length", lambda c: "target" in c.sequences, "in a model with a decoder"),
    (
        "data",
        "too_long",
        _objective("translate", "classify", "tag"),
        "with config.objective.kind=translate, classify or tag: other objectives cut long texts into parts",
    ),
    ("data", "row_length", _is("data.batching", "packed"), "with config.data.batching=packed"),
    ("data", "buckets", _is("data.batching", "bucketed"), "with config.data.batching=bucketed"),
    (
        "objective",
        "rate",
        _objective("masked_lm", "span_corruption", "denoise"),
        "with config.objective.kind=masked_lm, span_corruption or denoise",
    ),
    (
        "objective",
        "span_length",
        _objective("span_corruption", "denoise"),
        "with config.objective.kind=span_corruption or denoise",
    ),
    ("objective", "whole_words next_sentence", _objective("masked_lm"), "with config.objective.kind=masked_lm"),
    ("objective", "permute_sentences delete_rate", _objective("denoise"), "with config.objective.kind=denoise"),
    ("train", "decay_steps", _is("train.schedule", "wsd"), "with config.train.schedule=wsd"),
    (
        "train",
        "beta1 beta2",
        lambda c: c.train.optimizer != "adafactor",
        "with another config.train.optimizer than adafactor",
    ),
    (
        "train",
        "epsilon",
        _is("train.optimizer", "adam", "adamw", "muon", "schedule_free"),
        "with config.train.optimizer=adam, adamw, muon or schedule_free",
    ),
    (
        "train",
        "weight_decay",
        _is("train.optimizer", "adamw", "lion", "muon", "schedule_free"),
        "with config.train.optimizer=adamw, lion, muon or schedule_free",
    ),
    ("train", "z_loss", lambda c: c.objective.kind != "answer", "with another config.objective.kind than answer"),
    ("train", "loss_chunk loss_backend", lambda c: c.objective.kind not in LABELS, "in a model that predicts tokens"),
    (
        "train",
        "label_smoothing",
        lambda c: c.objective.kind != "answer" or c.train.label_smoothing == 0,
        "with another config.objective.kind than answer",
    ),
    ("train", "evaluate_every patience", lambda c: c.data.validation is not None, "with a config.data.validation"),
    (
        "train",
        "coordinates",
        lambda c: c.family != "recurrent" and c.data.validation is not None and c.objective.kind not in LABELS,
        "in a Transformer that predicts tokens, with a config.data.validation",
    ),
    ("train", "min_delta", lambda c: c.train.patience is not None, "with config.train.patience"),
    (
        "evaluate",
        "scores",
        _scores_fit,
        "if all scores fit config.objective.kind ("
        + "; ".join(f"{kind}: {', '.join(each)}" for kind, each in SCORES.items())
        + ")",
    ),
    (
        "evaluate",
        "lengths places true_lengths bleu_tokenize",
        _objective("translate"),
        "with config.objective.kind=translate, whose outputs are texts",
    ),
    (
        "evaluate",
        "bleu_tokenize",
        lambda c: not c.evaluate.scores or "bleu" in c.evaluate.scores,
        "where bleu is one of config.evaluate.scores",
    ),
    (
        "evaluate",
        "samples",
        _objective("translate", "causal_lm", *LABELS),
        "with config.objective.kind=translate, causal_lm, classify, tag or answer, whose outputs are shown",
    ),
    ("evaluate", "average", lambda c: not c.uses_best, "with config.evaluate.checkpoint=last"),
    (
        "evaluate",
        "heads_removed",
        lambda c: c.family != "recurrent",
        "in a Transformer, and config.family is recurrent",
    ),
    (
        "evaluate",
        "head_statistics",
        lambda c: c.family != "recurrent" and c.objective.kind == "translate",
        "in a Transformer with config.objective.kind=translate",
    ),
    ("evaluate", "head_order head_place", lambda c: c.evaluate.heads_removed > 0, "with config.evaluate.heads_removed above 0"),
    ("evaluate", "stride", _objective("causal_lm"), "with config.objective.kind=causal_lm"),
    (
        "search",
        "beam_size length_penalty penalty_form stopping force_end max_extra n_best",
        _objective(*TRANSLATING),
        "in a model with --mode=translate",
    ),
    ("search", "max_length", _objective("causal_lm", *TRANSLATING), "in a model that generates text"),
    ("search", "penalty_form", lambda c: c.search.length_penalty > 0, "with config.search.length_penalty above 0"),
    (
        "search",
        "temperature top_k top_p repetition_penalty max_new_tokens start_token stop",
        _objective("causal_lm"),
        "with config.objective.kind=causal_lm, in --mode=generate",
    ),
    (
        "search",
        "source_code target_code",
        lambda c: c.family == "encoder_decoder" and c.data.vocabulary == "imported",
        "in an encoder-decoder with config.data.vocabulary=imported",
    ),
    ("search", "top_k top_p", lambda c: c.search.temperature > 0, "with config.search.temperature above 0"),
    ("embed", "pooling normalize format", _objective("embed"), "with config.objective.kind=embed"),
    ("checkpoint", "best_metric", lambda c: c.data.validation is not None, "with a config.data.validation"),
]


@functools.cache
def _defaults() -> dict[str, Any]:
    return {name: value for name, _, _, value in fields(Config())}


def idle(config: Config) -> Iterator[tuple[str, str]]:
    """The settings that are not at their defaults and have no effect, and where they would have one."""
    defaults, values = _defaults(), {name: value for name, _, _, value in fields(config)}
    for section, names, condition, where in EFFECTS:
        listed = (f"{section}.{each}" for each in names.split())
        changed = [name for name in listed if name in values and values[name] != defaults.get(name)]
        if changed and not condition(config):
            yield from ((name, where) for name in changed)


def check(config: Config) -> None:
    """UserError: settings that are not at their defaults have no effect. All are named at once."""
    values = {name: value for name, _, _, value in fields(config)}
    found = [
        f"config.{name}={text_of(values[name])} has an effect only {where} (default: {text_of(_defaults()[name]) or 'empty'})"
        for name, where in idle(config)
    ]
    if found:
        raise UserError(f"{'; '.join(found)}; leave {'it' if len(found) == 1 else 'them'} out")


def without_idle(config: Config, kept: Collection[str] = ()) -> Config:
    """The settings, with each setting that has no effect at its default, except those of `kept`."""
    while found := [name for name, _ in idle(config) if name not in kept]:
        for name in found:
            config = replace(config, name, _defaults()[name])
    return config


def settle(config: Config, given: Collection[str], before: Callable[[], Config]) -> tuple[Config, list[str]]:
    """`config`, which is `before()` with the settings `given` changed, and notices for the user.

    A setting that loses its effect because of this change is set to its default, with a notice. A setting that is in `given`,
    or had no effect before, is kept, so that `check` refuses it.
    """
    if not given or all(name in given for name, _ in idle(config)):
        return config, []
    result = without_idle(config, kept={*given, *(name for name, _ in idle(before()))})
    changed = [f"config.{line.partition(':')[0]}" for line in differences(config, result, free=True)]
    return result, [f"without an effect here, and set to their defaults: {', '.join(changed)}"] if changed else []
