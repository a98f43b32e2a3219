"""Two tables: FAMILIES, from a family to its model; TASKS, from an objective to its data, loss, outputs and modes.

A new family is a row here. Other modules ask for a family by name only where settings or files differ between them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components.attention import MASKED
from transformer.config import Config, DataInfo, Train
from transformer.data import encode, objectives, prepare
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError
from transformer.models import fused_loss, losses, penalties
from transformer.models.losses import Loss, Sums
from transformer.models.recurrent import RecurrentEncoderDecoder
from transformer.models.transformer import DecoderOnly, EncoderDecoder, EncoderOnly, Heads
from transformer.validation import shares_table

Array = jax.Array
Vocabularies = Mapping[str, Vocabulary]

# What a model outputs: a text for a text, a continuation, a label, a label for each word, a span, the text with its masks
# filled, a vector; "none": a text for a text, which is not scored.
Output = Literal["text", "continuation", "label", "tags", "span", "filled", "vector", "none"]


@dataclasses.dataclass(frozen=True)
class Family:
    """The parts that differ between architectures.

    `positions`: whether the model has a position encoding, whose table may be limited. `attention`: its kinds of attention, as
    "stack/kind"; each layer of that stack has one. `encodes`: whether an encoder reads the source.
    """

    model: Callable[[Config, DataInfo], nn.Module]
    positions: bool = True
    attention: tuple[str, ...] = ()
    encodes: bool = True


@dataclasses.dataclass(frozen=True)
class Task:
    """The parts that differ between the values of `config.objective.kind`.

    `fields`: the fields of an example that are read; texts that have a vocabulary come first.
    `objectives`: for each family that supports the task, a function of (config, data_info, vocabularies, training).
    `extra`: entries that are added to the vocabulary ("mask" or "sentinels").
    """

    fields: tuple[str, ...]
    objectives: Mapping[str, Callable[[Config, DataInfo, Vocabularies, bool], objectives.Objective]]
    encode: prepare.Encode
    loss: Callable[[Any, Config, DataInfo], Loss]
    output: Output
    modes: tuple[str, ...]
    extra: str | None = None


# --- losses ------------------------------------------------------------------------------------------------------------


def _apply(model: nn.Module, params: Any, argument: Any, dropout_key: Array | None, **arguments: Any) -> Any:
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    return model.apply({"params": params}, argument, dropout_key is None, rngs=rngs, **arguments)


def _states(model: nn.Module, params: Any, batch: Any, dropout_key: Array | None) -> Array:
    return _apply(model, params, batch, dropout_key, method="states")


def token_loss(model: Any, config: Config, data_info: DataInfo) -> Loss:
    """Cross entropy of the targets of models that have `states` and `logits`, a slice of tokens' logits at a time."""

    def loss(params: Any, batch: Any, dropout_key: Array | None) -> Sums:
        states = _states(model, params, batch, dropout_key)
        return _cross_entropy(model, config, data_info, params, states, batch, training=dropout_key is not None)

    return loss


def _cross_entropy(
    model: Any, config: Config, data_info: DataInfo, params: Any, states: Array, batch: Any, training: bool
) -> Sums:
    used = {name: params[name] for name in model.logits_modules if name in params}
    smoothing, z_loss = config.train.label_smoothing, config.train.z_loss
    if training and fused_loss.wanted(config.train.loss_backend, data_info.target_size):
        factors: Any = model.apply({"params": used}, states, True, method="logits")
        fused = fused_loss.cross_entropy(factors, batch["targets"], batch["weights"], smoothing, z_loss)
        if fused is not None:
            return fused

    def sums(params: Any, states_BxTxD: Array, labels: tuple[Array, Array]) -> Sums:
        logits_BxTxN: Any = model.apply({"params": params}, states_BxTxD, method="logits")
        return losses.cross_entropy(logits_BxTxN, *labels, smoothing, data_info.target_size, z_loss)

    return losses.in_chunks(sums, used, states, (batch["targets"], batch["weights"]), config.train.loss_chunk)


def masked_loss(model: Any, config: Config, data_info: DataInfo) -> Loss:
    """`token_loss` and, with `next_sentence`, the loss of predicting whether two segments belong together, with equal
    weights."""
    if not config.objective.next_sentence:
        return token_loss(model, config, data_info)

    def loss(params: Any, batch: Any, dropout_key: Array | None) -> Sums:
        states = _states(model, params, batch, dropout_key)
        tokens = _cross_entropy(model, config, data_info, params, states, batch, training=dropout_key is not None)
        scores = _scores(model, params, states, batch, dropout_key)
        guessed = losses.cross_entropy(scores[:, None], batch["related"], batch["related_weights"], 0.0, 2)
        # Means of tokens and of pairs are added (Devlin et al. 2019, A.2): those of the whole batch, if this is a part of one.
        tokens_weight = batch.get("total_weights", tokens["weight_sum"])
        pairs_weight = batch.get("total_related_weights", guessed["weight_sum"])
        share = jax.lax.stop_gradient(tokens_weight / jnp.maximum(pairs_weight, 1.0))
        related = {"related_correct_sum": guessed["correct_sum"], "related_weight_sum": guessed["weight_sum"]}
        return tokens | {"loss_sum": tokens["loss_sum"] + share * guessed["loss_sum"]} | related

    return loss


def no_loss(model: Any, config: Config, data_info: DataInfo) -> Loss:
    """UserError: a model without a head has no loss."""
    raise UserError(f"config.objective.kind {config.objective.kind}: it has no loss; train on another objective")


def label_loss(model: Any, config: Config, data_info: DataInfo) -> Loss:
    """Cross entropy of the labels of sentences (`label`) or tokens (`targets`)."""

    def loss(params: Any, batch: Any, dropout_key: Array | None) -> Sums:
        scores = _scores(model, params, _states(model, params, batch, dropout_key), batch, dropout_key)
        labels, scores = (batch["targets"], scores) if "targets" in batch else (batch["label"], scores[:, None])
        return losses.cross_entropy(
            scores, labels, batch["weights"], config.train.label_smoothing, len(data_info.labels), config.train.z_loss
        )

    return loss


def span_loss(model: Any, config: Config, data_info: DataInfo) -> Loss:
    """Mean of the cross entropies of a span's first and last token, over the tokens of its row."""

    def loss(params: Any, batch: Any, dropout_key: Array | None) -> Sums:
        scores_BxSx2 = _scores(model, params, _states(model, params, batch, dropout_key), batch, dropout_key)
        scores_BxSx2 = jnp.where(batch["source_segments"][..., None] > 0, scores_BxSx2, MASKED)
        places_Bx2 = jnp.concatenate([batch["first"], batch["last"]], axis=1)
        weights_Bx2 = jnp.broadcast_to(batch["weights"] / 2, places_Bx2.shape)
        return losses.cross_entropy(jnp.swapaxes(scores_BxSx2, 1, 2), places_Bx2, weights_Bx2, 0.0, scores_BxSx2.shape[1])

    return loss


def _scores(model: Any, params: Any, states: Array, batch: Any, dropout_key: Array | None) -> Array:
    def scores(network: Any, states: Array, deterministic: bool) -> Array:
        return network.scores(states, deterministic, batch.get("source_segments"))

    return _apply(model, params, states, dropout_key, method=scores)


def make_loss(model: Any, config: Config, data_info: DataInfo) -> Loss:
    """The loss of the configuration's objective, and the penalties of its attention, if it has any.

    Configurations with the same program share the same loss.
    """
    return _make_loss(model, of_programs(config), data_info)


# Settings of training that are not part of a program: its arguments, or settings of the loop around it.
NO_PROGRAM = ("seed", "steps", "init_from", "branch_from", "branch_step", "learning_rate", "warmup_steps", "decay_steps")
NO_PROGRAM += ("max_skipped", "max_minutes", "log_every", "evaluate_every", "patience", "min_delta", "init_metrics")


def of_programs(config: Config) -> Config:
    """The settings that the loss and the update are compiled for; all others are at their defaults."""
    train = dataclasses.replace(config.train, **{name: getattr(Train(), name) for name in NO_PROGRAM})
    return Config(family=config.family, objective=config.objective, model=config.model, train=train)


@functools.lru_cache(maxsize=64)
def _make_loss(model: Any, config: Config, data_info: DataInfo) -> Loss:
    loss, sites = task_of(config).loss(model, config, data_info), FAMILIES[config.family].attention
    if not penalties.names(config.model, sites):
        return loss

    def with_penalties(params: Any, batch: Any, dropout_key: Array | None) -> Sums:
        sums = loss(params, batch, dropout_key)
        penalty, reported = penalties.sum_over_layers(config.model, sites, params, training=dropout_key is not None)
        logged = {f"{name}_sum": sums["weight_sum"] * value for name, value in reported.items()}
        return sums | {"loss_sum": sums["loss_sum"] + sums["weight_sum"] * penalty} | logged

    return with_penalties


# --- the tables --------------------------------------------------------------------------------------------------------


def _heads(config: Config, data_info: DataInfo) -> Heads:
    if config.family == "encoder_decoder" and config.objective.kind != "classify":
        return Heads()
    each = config.model.prediction_head == "modernbert"  # this layer is below every classifier
    return {
        "masked_lm": Heads(masked_lm=True, pooler=config.objective.next_sentence, outputs=2 * config.objective.next_sentence),
        "classify": Heads(pooler=True, outputs=len(data_info.labels)),
        "embed": Heads(pooler=True),
        "tag": Heads(pooler=each, outputs=len(data_info.labels), per_token=True),
        "answer": Heads(pooler=each, outputs=2, per_token=True),
    }[config.objective.kind]


FAMILIES: dict[str, Family] = {
    "encoder_decoder": Family(
        lambda config, data_info: EncoderDecoder(config.model, data_info, _heads(config, data_info)),
        attention=("encoder/self", "decoder/self", "decoder/cross"),
    ),
    "recurrent": Family(lambda config, data_info: RecurrentEncoderDecoder(config.model, data_info), positions=False),
    "encoder_only": Family(
        lambda config, data_info: EncoderOnly(config.model, data_info, _heads(config, data_info)),
        attention=("encoder/self",),
    ),
    "decoder_only": Family(
        lambda config, data_info: DecoderOnly(config.model, data_info),
        attention=("decoder/self",),
        encodes=False,
    ),
}


def _begin(data_info: DataInfo) -> int:
    return data_info.start if data_info.begin is None else data_info.begin


def _translate(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Objective:
    data = config.data
    lengths = data.max_source_length, data.max_target_length
    return objectives.Translate(*lengths, data_info.start, data_info.end, data_info.begin, data_info.first, data_info.code)


def _causal(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Objective:
    data = config.data
    return objectives.CausalLM(
        data.max_target_length, data_info.start, data_info.end, config.train.seed, data.cross_documents, shift=training
    )


def _decoder_only_translate(
    config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool
) -> objectives.Objective:
    return objectives.DecoderOnlyTranslate(config.data.max_target_length, data_info.start, data_info.end)


def _prefix(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Objective:
    return objectives.PrefixLM(config.data.max_target_length, data_info.start, data_info.end, config.train.seed)


def _encoded_prefix(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Objective:
    data = config.data
    return objectives.EncodedPrefixLM(
        data.max_source_length,
        data.max_target_length,
        data_info.start,
        data_info.end,
        data_info.begin,
        seed=config.train.seed,
    )


def _masked(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Objective:
    objective, vocabulary = config.objective, vocabularies["text"]
    assert data_info.mask is not None
    return objectives.MaskedLM(
        config.data.max_source_length,
        _begin(data_info),
        data_info.end,
        data_info.mask,
        low=max(data_info.pad, data_info.start, data_info.end, data_info.unknown) + 1 if data_info.begin is None else 0,
        high=vocabulary.size,
        rate=objective.rate,
        starts_word=vocabulary.starts_word() if objective.whole_words else None,
        next_sentence=objective.next_sentence,
        seed=config.train.seed,
    )


def _spans(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Objective:
    data, objective = config.data, config.objective
    return objectives.SpanCorruption(
        data.max_source_length,
        data.max_target_length,
        data_info.sentinels,
        data_info.target_size - 1,
        data_info.start,
        data_info.end,
        objective.rate,
        objective.span_length,
        config.train.seed,
    )


def _denoise(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Objective:
    data, objective, vocabulary = config.data, config.objective, vocabularies["text"]
    assert data_info.mask is not None
    return objectives.Denoise(
        data.max_source_length,
        data.max_target_length,
        data_info.mask,
        data_info.start,
        data_info.end,
        data_info.begin,
        objective.rate,
        objective.span_length,
        ends_sentence=encode.sentence_ends(vocabulary, data_info.target_size) if objective.permute_sentences else None,
        delete_rate=objective.delete_rate,
        code=data_info.code,
        seed=config.train.seed,
    )


def _labelled(
    make: Callable[[int, int, int], objectives.Objective],
) -> Mapping[str, Callable[[Config, DataInfo, Vocabularies, bool], objectives.Objective]]:
    return {
        "encoder_only": lambda config, data_info, vocabularies, training: make(
            config.data.max_source_length, _begin(data_info), data_info.end
        )
    }


def _answer(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool) -> objectives.Answer:
    between = vocabularies["text"].between
    return objectives.Answer(config.data.max_source_length, _begin(data_info), data_info.end, between)


def classify(config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool = False) -> objectives.Classify:
    """Texts or pairs of texts for a model with one output for each row."""
    between = vocabularies["text"].between
    return objectives.Classify(config.data.max_source_length, _begin(data_info), data_info.end, between)


TRANSLATING = ("train", "evaluate", "translate", "attend", "align", "export", "describe")
LABELLING = ("train", "evaluate", "predict", "attend", "export", "describe")

TASKS: dict[str, Task] = {
    "translate": Task(
        ("source", "target"),
        {"encoder_decoder": _translate, "recurrent": _translate, "decoder_only": _decoder_only_translate},
        encode.texts,
        token_loss,
        "text",
        TRANSLATING,
    ),
    "causal_lm": Task(
        ("text",),
        {"decoder_only": _causal},
        encode.texts,
        token_loss,
        "continuation",
        ("train", "evaluate", "generate", "attend", "export", "describe"),
    ),
    "prefix_lm": Task(
        ("text",),
        {"encoder_decoder": _encoded_prefix, "decoder_only": _prefix},
        encode.texts,
        token_loss,
        "none",
        TRANSLATING,
    ),
    "masked_lm": Task(
        ("text",),
        {"encoder_only": _masked},
        encode.texts,
        masked_loss,
        "filled",
        LABELLING,
        extra="mask",
    ),
    "span_corruption": Task(
        ("text",), {"encoder_decoder": _spans}, encode.texts, token_loss, "none", TRANSLATING, extra="sentinels"
    ),
    "denoise": Task(("text",), {"encoder_decoder": _denoise}, encode.texts, token_loss, "none", TRANSLATING, extra="mask"),
    "classify": Task(
        ("text", "pair", "label"),
        {"encoder_only": classify, "encoder_decoder": classify},
        encode.classified,
        label_loss,
        "label",
        LABELLING,
    ),
    "embed": Task(
        ("text", "pair"), {"encoder_only": classify}, encode.texts, no_loss, "vector", ("predict", "attend", "export")
    ),
    "tag": Task(("text", "tags"), _labelled(objectives.Tag), encode.tagged, label_loss, "tags", LABELLING),
    "answer": Task(("question", "text"), {"encoder_only": _answer}, encode.answered, span_loss, "span", LABELLING),
}


def task_of(config: Config) -> Task:
    """The task of the configuration. UserError: its family does not support it."""
    task = TASKS[config.objective.kind]
    if config.family not in task.objectives:
        able = ", ".join(name for name, each in TASKS.items() if config.family in each.objectives)
        raise UserError(
            f"config.objective.kind {config.objective.kind} is for config.family {' or '.join(task.objectives)}, not "
            f"{config.family}, which has {able}"
        )
    return task


def make_objective(
    config: Config, data_info: DataInfo, vocabularies: Vocabularies, training: bool = False
) -> objectives.Objective:
    """The objective of a configuration: the inputs and targets of its model."""
    return task_of(config).objectives[config.family](config, data_info, vocabularies, training)


def check_mode(config: Config, mode: str) -> None:
    """UserError: the trained model does not have this mode."""
    task = task_of(config)
    if mode not in task.modes:
        raise UserError(
            f"--mode={mode}: config.family {config.family} with config.objective.kind {config.objective.kind} has the modes "
            f"{', '.join(task.modes)}"
        )


def check_vocabularies(config: Config, vocabularies: Vocabularies, where: str) -> None:
    """UserError, which begins with `where`: an id has different meanings in sources and targets, but both are read from the
    same table."""
    if "source" not in vocabularies or not shares_table(config):
        return
    source, target = vocabularies["source"], vocabularies["target"]
    if source is not target and source.pieces(range(source.size)) != target.pieces(range(target.size)):
        raise UserError(
            f"{where}: sources and targets have two vocabularies, and config.family {config.family} with config.model.tying "
            f"{config.model.tying} has one table for both; set these to encoder_decoder and two_way"
        )


def text_fields(task: Task) -> Sequence[str]:
    """Fields of an example that a vocabulary encodes."""
    return [field for field in task.fields if field not in ("label", "tags")]


def init_params(model: nn.Module, objective: objectives.Objective, seed: int) -> Any:
    """A model's parameters. The key is fold_in(seed, 0): stream 0 is initialisation."""
    batch = {name: jnp.zeros((1, 8), dtype) for name, dtype in features(objective).items()}
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return _init(model)(key, batch)["params"]


@functools.lru_cache(maxsize=64)
def _init(model: nn.Module) -> Callable[..., Any]:
    return jax.jit(model.init)


def features(objective: objectives.Objective) -> dict[str, Any]:
    """The types of a batch's arrays, by name."""
    return {name: dtype for sequence in objective.sequences for name, dtype in sequence.features.items()}


def param_shapes(model: nn.Module, features: Mapping[str, Any]) -> Any:
    """The tree of a model's parameters as shapes, for batches with these features. Equal models are traced once."""
    return jax.tree.map(lambda leaf: leaf, _traced(model, tuple(features.items())))


@functools.lru_cache(maxsize=64)
def _traced(model: nn.Module, features: tuple[tuple[str, Any], ...]) -> Any:
    batch = {name: jnp.zeros((1, 8), dtype) for name, dtype in features}
    return jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
