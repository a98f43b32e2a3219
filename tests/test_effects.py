"""Every setting has an effect or is refused: each one is changed, in every family and objective.

The effect is observed where the setting acts: in the program of the model or of the update as text, without compilation; in
batches; in the order of events of the loop; in scores of given outputs; in the rules of a search."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import tasks
import trained

from experiments.measures.first_token import FirstToken
from transformer import effects, families
from transformer.components.attention import Attention
from transformer.components.feed_forward import FeedForward
from transformer.components.masks import All
from transformer.components.norms import RMSNorm
from transformer.components.positions import NoPositions
from transformer.config import Config, DataInfo
from transformer.data import pipeline, prepare
from transformer.data.synthetic import algorithms, number_words
from transformer.data.synthetic import tasks as synthetic
from transformer.errors import UserError
from transformer.inference import decoding, sampling
from transformer.modes import scoring, training
from transformer.probes import head_pruning
from transformer.settings import assign, fields, override, replace
from transformer.training import loop, optimizer, step
from transformer.training.monitor import Monitor
from transformer.validation import validate

# --- what is changed ---------------------------------------------------------------------------------------------------

SMALL = {
    "model.num_encoder_layers": 2, "model.num_decoder_layers": 2, "model.d_model": 16, "model.d_ff": 24, "model.num_heads": 2,
    "model.positions": "rotary",
    "data.vocabulary": "characters", "data.vocabulary_size": 120, "data.max_source_length": 20, "data.max_target_length": 20,
    "data.batching": "bucketed", "data.buckets": 2,
    "train.batch_tokens": 512, "train.steps": 20, "train.warmup_steps": 3, "train.learning_rate": 0.1,
    "train.log_every": 2, "train.evaluate_every": 4, "checkpoint.every_steps": 5, "train.loss_chunk": 16,
}  # fmt: skip
CASES = {  # by family and objective; files that are read are written by tests/tasks.py
    "encoder_decoder translate": ({"data.source": "text"}, trained.write_corpus),
    "recurrent translate": ({"data.source": "text"}, trained.write_corpus),
    "decoder_only translate": ({"data.source": "text"}, trained.write_corpus),
    "encoder_decoder prefix_lm": ({"data.source": "documents"}, tasks.DOCUMENTS),
    "decoder_only prefix_lm": ({"data.source": "documents"}, tasks.DOCUMENTS),
    "decoder_only causal_lm": ({"data.source": "documents", "data.batching": "packed"}, tasks.DOCUMENTS),
    "encoder_only masked_lm": ({"data.source": "documents"}, tasks.DOCUMENTS),
    "encoder_decoder span_corruption": ({"data.source": "documents", "objective.rate": 0.5}, tasks.DOCUMENTS),
    "encoder_decoder denoise": ({"data.source": "documents"}, tasks.DOCUMENTS),
    "encoder_only classify": ({"data.source": "tsv"}, tasks.TASKS["classify"].files),
    "encoder_decoder classify": ({"data.source": "tsv"}, tasks.TASKS["classify"].files),
    "encoder_only tag": ({"data.source": "conll"}, tasks.TASKS["tag"].files),
    "encoder_only answer": ({"data.source": "squad"}, tasks.TASKS["answer"].files),
}

# Another value than the default, where none is found by the type.
OTHER: dict[str, Any] = {
    "model.d_model": 24, "model.d_k": 6, "model.d_v": 6, "model.final_norm": True, "model.num_kv_heads": 1, "model.window": 3,
    "model.tying": "none", "model.num_heads": 4, "model.positions": NoPositions(), "model.mask": All(), "model.norm": RMSNorm(),
    "model.attention": Attention(bias=False), "model.feed_forward": FeedForward(bias=False),
    "model.feed_forward.activation": "gelu", "model.attention.norm_epsilon": 1e-3,
    "model.attention.scale_width": 3, "model.attention.logit_cap": 0.5, "model.attention.output_bias": False,
    "model.lora_rank": 2, "model.lora_kernels": ("query",), "train.freeze": ("*kernel",),
    "model.logits_cap": 0.5, "model.residual": "parallel", "model.base_width": 7, "model.base_d_k": 7,
    "model.attention_backend": "plain", "model.norm.epsilon": 1e-3, "model.recurrent.attention": "luong_dot",
    "data.tfds_name": "wmt", "data.mixture": ("tasks:1",), "data.number_range": (0, 5000), "data.number_train_range": (0, 900),
    "data.number_test_range": (0, 900), "data.algorithm_train_lengths": (3, 6), "data.algorithm_test_lengths": (7, 8),
    "data.prefix": "say: ", "data.row_length": 90, "data.source_language": "de", "data.target_language": "en",
    "data.train": "validation", "data.validation": "train", "data.test": "train", "data.vocabulary_size": 9,
    "data.algorithm": "reverse", "data.normalization": "identity", "data.lowercase": True, "data.segmentations": 2,
    "data.max_source_length": 12, "data.max_target_length": 12, "data.vocabulary": "bytes", "data.buckets": 1,
    "data.batching": "packed", "data.document": "file", "data.number_train_size": 70, "data.number_test_by_digits": 0.5,
    "data.number_test_size": 7,
    "data.synthetic_train_size": 70, "data.synthetic_test_size": 7,
    "objective.rate": 0.6,
    "train.schedule": "constant", "train.optimizer": "adafactor",
     "train.decay_steps": 4, "train.label_smoothing": 0.3, "train.z_loss": 0.1, "train.clip_norm": 0.5,
    "train.ema_decay": 0.5, "train.max_minutes": 2.0, "train.patience": 1, "train.loss_chunk": 64, "train.min_delta": 0.7,
    "train.loss_backend": "fused",
    "train.max_skipped": 1, "train.init_metrics": ("operations",), "train.batch_tokens": 256,
    "train.warmup_steps": 6, "train.learning_rate": 0.2, "train.log_every": 3, "train.evaluate_every": 6,
    "evaluate.scores": ("exact_match",), "evaluate.lengths": (0, 3), "evaluate.places": (1, 3), "evaluate.stride": 5,
    "evaluate.samples": 1, "evaluate.heads_removed": 0.5, "evaluate.head_order": "random",
    "evaluate.measure": FirstToken(), "evaluate.head_place": "decoder/cross", "evaluate.bleu_tokenize": "char",
    "search.top_k": 3, "search.top_p": 0.5, "search.stop": "b", "search.max_new_tokens": 7, "search.max_length": 9,
    "search.n_best": 2, "search.max_extra": 3,
    "checkpoint.every_steps": 6, "checkpoint.best_metric": "validation/nll", "checkpoint.keep_best": 2,
}  # fmt: skip

# What else is set, so that a setting has an effect; without it, it is refused.
NEEDS: dict[str, dict[str, Any]] = {
    **{f"model.positions.{name}": {"model.positions": "sinusoidal"} for name in ("layout", "spacing", "offset")},
    **{
        f"model.attention.{name}": {"model.attention.qk_norm": True}
        for name in ("norm_epsilon", "qk_norm_over", "qk_norm_plus_one")
    },
    **{f"model.{name}": {"model.norm_order": "pre"} for name in ("residual", "attention_norm")},
    "model.lora_alpha": {"model.lora_rank": 2},
    **{f"model.{name}": {"model.parametrization": "mup"} for name in ("base_width", "base_d_k")},
    "model.lora_kernels": {"model.lora_rank": 2},
    "model.init_stddev": {"model.initializer": "normal"},
    "model.recurrent.context": {"model.recurrent.attention": "none"},
    "model.recurrent.input_feeding": {"model.recurrent.attention": "luong_dot"},
    **{
        f"model.{name}": {"objective.next_sentence": True}
        for name in ("head_dropout_rate", "pooler_activation", "pooling", "prediction_head")
    },
    "data.segmentation_rate": {"data.vocabulary": "bpe", "data.vocabulary_size": 40, "data.segmentations": 2},
    "data.segmentations": {"data.vocabulary": "bpe", "data.vocabulary_size": 40},
    "data.normalization": {"data.vocabulary": "bpe", "data.vocabulary_size": 40},
    "data.row_length": {"data.batching": "packed"},
    "data.buckets": {"data.batching": "bucketed"},
    "data.joint_vocabulary": {"model.tying": "none"},
    "data.vocabulary": {"data.vocabulary_size": 8000},
    **{
        f"data.number_{name}": {"data.source": "number_words"}
        for name in (
            "range",
            "train_range",
            "test_range",
            "train_size",
            "test_size",
            "train_by_digits",
            "test_by_digits",
            "small_copies",
        )
    },
    "data.synthetic_train_size": {"data.source": "algorithms"},
    "data.synthetic_test_size": {"data.source": "algorithms"},
    **{f"data.algorithm{name}": {"data.source": "algorithms"} for name in ("", "_alphabet", "_train_lengths", "_test_lengths")},
    "train.decay_steps": {"train.schedule": "wsd"},
    "train.weight_decay": {"train.optimizer": "adamw"},
    "train.min_delta": {"train.patience": 1},
    "evaluate.head_order": {"evaluate.heads_removed": 0.5},
    "evaluate.head_place": {"evaluate.heads_removed": 0.5},
}

# Settings that choose the case, or whose effect is tested in the file named here.
ELSEWHERE = {
    "family": "the cases", "objective.kind": "the cases", "data.source": "the cases",
    "model.positions.size": "a limit on lengths: tests/test_config.py",
    "model.layer_pattern": "tests/models/test_transformer.py", "model.layer_types": "tests/models/test_transformer.py",
    "data.directory": "files of another folder: tests/data/test_sources_files.py",
    "data.tfds_name": "needs a prepared data set: tests/data/test_sources.py",
    "data.workers": "processes that read ahead, batches stay: tests/data/test_pipeline.py",
    "train.init_from": "tests/modes/test_tasks.py", "train.branch_from": "tests/training/test_branch.py",
    "train.branch_step": "tests/training/test_branch.py", "train.trackers": "tests/training/test_trackers.py",
    "search.source_code": "tests/inference/test_languages.py", "search.target_code": "tests/inference/test_languages.py",
    "evaluate.average": "tests/inference/test_loading.py", "evaluate.checkpoint": "tests/inference/test_loading.py",
    "evaluate.stride": "tests/inference/test_perplexity.py",
    "search.batch_size": "how many are decoded together, outputs stay: tests/inference/test_translate.py",
    "checkpoint.keep_last": "tests/runtime/test_checkpoints.py",
    "embed.pooling": "tests/inference", "embed.normalize": "tests/inference", "embed.format": "tests/inference",
    "parallel.mode": "tests/runtime/test_devices.py", "parallel.fsdp": "tests/runtime/test_mesh.py",
    "parallel.tensor": "tests/runtime/test_mesh.py",
}  # fmt: skip


# In these cases the setting has its effect where a source is cut: tests/inference/test_translate.py.
IN_MODES = {f"decoder_only {kind}": {"data.max_source_length"} for kind in ("translate", "prefix_lm")}


def other(name: str, kind: Any, value: Any) -> Any:
    """Another value of a setting."""
    if name in OTHER and OTHER[name] != value:
        return OTHER[name]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return other(name, next(each for each in arguments if each is not type(None)), value)
    if origin is Literal:
        return next(each for each in arguments if each != value)
    if kind is bool:
        return not value
    assert kind in (int, float), f"{name}: add another value to OTHER"
    return value + 1 if kind is int else value / 2 if value else 0.1


# --- what comes of it --------------------------------------------------------------------------------------------------


def text_of(function: Callable, *arguments: Any) -> str:
    """The program of a function as text, including its constants."""
    program = jax.make_jaxpr(function)(*arguments)
    constants = [hashlib.sha256(np.asarray(c).tobytes()).hexdigest() for c in program.consts if not hasattr(c, "_impl_key")]
    return re.sub("0x[0-9a-f]+", "", f"{program} {constants}")


def data_info(config: Config) -> DataInfo:
    extra = {"masked_lm": "mask", "denoise": "mask"}.get(config.objective.kind)
    return DataInfo(20, 20, 20, 20, mask=19 if extra else None, sentinels=4, labels=("a", "b"))


def model_program(config: Config, deterministic: bool = False) -> str:
    """The initialization and the forward pass, with texts so long that `attention_backend` auto is chunked."""
    model = families.FAMILIES[config.family].model(config, data_info(config))
    sides = {"encoder_only": ("source",), "decoder_only": ("inputs",)}.get(config.family, ("source", "inputs"))
    batch = {side: jax.ShapeDtypeStruct((2, 1024), np.int32) for side in sides}
    if config.objective.kind in ("translate", "prefix_lm") and config.family == "decoder_only":
        batch["prefix"] = batch["inputs"]
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)

    def run(key: Any, batch: Any) -> Any:
        return model.init_with_output({"params": key, "dropout": key}, batch, deterministic)

    return text_of(run, key, batch)


VOCABULARY = types.SimpleNamespace(size=19, starts_word=lambda: np.ones(19, bool), between=())


def loss_program(config: Config) -> str:
    """The loss of an untrained model for a batch with the shapes of the objective."""
    model, known = families.FAMILIES[config.family].model(config, data_info(config)), data_info(config)
    objective = families.make_objective(config, known, {"text": VOCABULARY})  # type: ignore[dict-item]
    batch = pipeline.blank(objective, config.data, 64, 128, 1)
    params = jax.eval_shape(lambda: families.init_params(model, objective, 0))
    loss = families.make_loss(model, config, known)
    return text_of(lambda p, b: loss(p, b, jax.random.key(0)), params, batch)


def update_program(config: Config) -> str:
    """An update of a few parameters with a loss that is fast to trace."""
    train = config.train
    params = {"encoder": {"kernel": jnp.ones((2, 2)), "self_gates": jnp.ones(2)}}
    rule, schedule = optimizer.make_optimizer(train), optimizer.make_schedule(train, config.model)

    def loss(params: Any, batch: Any, key: Any) -> Any:
        return {"loss_sum": sum(map(jnp.sum, jax.tree.leaves(params))) * jnp.sum(batch["x"]), "weight_sum": jnp.sum(batch["x"])}

    update = step.make_train_step(loss, rule, schedule, train, optimizer.freezing(train, False))
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(20)))
    return text_of(update, step.init_state(params, rule, train), {"x": jnp.ones(12)}) + str(rates)


def batches(config: Config, folder: Path) -> str:
    """The first batches of training, and all batches of validation and test."""
    if config.data.source in ("number_words", "algorithms"):
        make = {"number_words": number_words, "algorithms": algorithms}[config.data.source].TASK.make
        drawn = {
            name: list(itertools.islice(examples, 5)) + [len(list(examples))] for name, examples in make(config.data).items()
        }
        return str(drawn)
    task, where = families.task_of(config), prepare.Folders(folder / "vocabulary", folder / "tokens", folder / "cache")
    text = prepare.Text(config.data, task.fields, where.cache, lambda notice: None)
    vocabularies = prepare.make_vocabularies(text, families.text_fields(task), where)
    known = prepare.make_data_info(vocabularies, task.extra, text, None)
    result = hashlib.sha256(str(known).encode())
    for name in prepare.NAMES:
        training = name == "train"
        split = prepare.encode_split(text, name, where, vocabularies, known, task.encode, training)
        if split is None:
            continue
        objective = families.make_objective(config, known, vocabularies, training)
        settings = config.train
        found, _ = pipeline.plan(
            split.tokens, objective, config.data, settings.batch_tokens, settings.accumulate, settings.seed,
            training,
        )  # fmt: skip
        for number in range(2 if training else len(found)):
            result.update(b"".join(n.encode() + a.tobytes() for n, a in sorted(found[number].items())))
    return result.hexdigest()


def events(config: Config) -> list[str]:
    """The events of the loop; updates 6 and 7 are skipped, and validations first improve, then do not."""
    calls: list[str] = []
    clock = itertools.count(step=12.0)
    monitor = Monitor(config)
    quiet = contextlib.nullcontext()
    names = ("advance", "report", "score", "skipped")
    telemetry: Any = type("Recorder", (), {"awaited": staticmethod(lambda batches: batches), "paused": lambda self: quiet})()
    for name in names:
        setattr(telemetry, name, lambda number, *rest, name=name, **more: calls.append(f"{name} {number}"))
    sums = {"weight_sum": 1.0, "loss_sum": 1.0, "nll_sum": 1.0, "correct_sum": 1.0}

    def evaluate(state: int) -> dict[str, float]:
        loss = 5.0 if state < 6 else 4.5 if state < 10 else 4.6 + state / 100
        return {"validation/loss": loss, "validation/nll": 5 + state / 10} if config.data.validation else {}

    def step(state: int, batch: Any) -> tuple[int, dict[str, float]]:
        return state + 1, {"skipped": float(state + 1 in (6, 7))}

    runtime = SimpleNamespace(place_batch=dict, fetch=lambda metrics: {**sums, **metrics}, asked=bool)
    callbacks = small.callbacks(evaluate=evaluate, save=lambda number, *rest: calls.append(f"save {number}"))
    stop = loop.Stop(config.train.max_minutes, lambda: next(clock))
    job = loop.Job(config, runtime, step, callbacks, telemetry, monitor, stop)
    with contextlib.suppress(UserError):
        loop.alone(loop.train(job, 0, 0, iter([{}] * config.train.steps)))
    with training._nan_checks(config.train.debug_nans):
        calls.append(str(jax.config.jax_debug_nans))
    return [*calls, *scoring.reported(config), str(config.train.init_metrics)]


class Fake:
    """A predictor whose outputs are given."""

    notices = ()
    cuts = ()

    def __init__(self, config: Config):
        self.config = config

    def translate(self, texts: Any, scored: bool = True) -> Iterator[Any]:
        return ([types.SimpleNamespace(text=f"a b {text[:3]}")] for text in texts)

    def translate_to_length(self, pairs: Any) -> Iterator[Any]:
        return ([types.SimpleNamespace(text="a")] for _ in pairs)

    def predict(self, examples: Any) -> list[str]:
        return ["O B-PER" if "tags" in examples[0] else "yes" for _ in examples]

    def perplexity(self, documents: Any) -> dict[str, float]:
        return {}

    def generate(self, prompt: str, count: int) -> list[str]:
        return ["text"] * count


EXAMPLES = {
    "text": [{"source": "a b c", "target": "a b c d e f"}, {"source": "d, e", "target": "a b d e!"}],
    "label": [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}],
    "tags": [{"text": "a b", "tags": "O B-PER"}, {"text": "a b", "tags": "O O"}],
    "span": [{"question": "q", "text": "yes", "answer": "yes", "answers": '["yes"]'}] * 2,
    "continuation": [{"text": "a"}, {"text": "b"}],
}


def scored(config: Config) -> str:
    """Scores and samples of given outputs, and the removed heads."""
    task, predictor = families.task_of(config), Fake(config)
    scoring.check_evaluate(config)
    split = prepare.Split(EXAMPLES.get(task.output, []), {}, "")
    found: Any = None
    alone = replace(config, "evaluate.head_statistics", False)
    if judge := scoring.JUDGES.get(task.output):
        found = scoring._outputs(Fake(alone), judge, task, "test", split)
    elif task.output == "continuation":
        found = scoring._continuation(predictor, "test", split)
    removed = ()
    if config.evaluate.heads_removed:
        removed = (head_pruning.heads(config), head_pruning.num_removed(config), config.evaluate.head_order)
    return str((found, removed, scoring.reported(config)))


def searched(config: Config) -> str:
    """The rules by which text is generated."""
    modes, result = families.task_of(config).modes, []
    if "translate" in modes:
        result += [decoding.make_rule(config, data_info(config), 9), config.search.output_limit(5)]
    if "generate" in modes:
        asked = config.search
        result += [sampling.Warp(asked.temperature, asked.top_k, asked.top_p, asked.repetition_penalty)]
        result += [asked.continuation_limit(3), asked.stop, asked.start_token]
    return str(result)


def outcome(name: str, config: Config, folder: Path) -> str:
    """Everything that the setting may affect."""
    section, _, rest = name.partition(".")
    if section in ("data", "objective") or name in ("train.seed", "train.batch_tokens"):
        return batches(config, folder)
    if section == "model":
        return model_program(config, deterministic=False)
    if section == "evaluate":
        return scored(config)
    if section == "search":
        return searched(config)
    if rest in ("label_smoothing", "loss_chunk", "loss_backend", "z_loss"):
        return loss_program(config)
    return update_program(config) + str(events(config))


# --- the walk ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Callable:
    """A function of a case, a setting and further settings, which returns "refused", "changes nothing" or "has an effect"."""

    @functools.cache
    def folder(case: str) -> Path:
        result = tmp_path_factory.mktemp("data")
        CASES[case][1](result)
        for file in result.iterdir():  # capitals, what Unicode normalisation changes, and texts of several lengths
            text = file.read_text().replace("fan", "\uff46a fn").replace("bf", "b\uff46").replace("egg", "Egg")
            file.write_text(text if file.suffix == ".json" else text.replace("ann", "annabel the great"))
        trained.write_corpus(result / "tasks")
        return result

    @functools.cache
    def base(case: str, needs: tuple) -> Config | None:
        """None: what is needed is refused itself."""
        family, kind = case.split()
        given = {**SMALL, **CASES[case][0], **dict(needs)}
        given |= {f"data.{split}": f"{split}.txt" for split in prepare.NAMES if given["data.source"] == "documents"}
        if given["data.source"] in ("number_words", "algorithms"):
            given |= {"data.number_train_size": 60, "data.number_test_size": 6} if given["data.source"] == "number_words" else {
                "data.synthetic_train_size": 60, "data.synthetic_test_size": 6, "data.algorithm_train_lengths": (3, 5)
            }  # fmt: skip
        config = Config(family=family, objective=replace(Config(), "objective.kind", kind).objective)  # type: ignore[arg-type]
        config = assign(config, {**given, "data.directory": str(folder(case))})
        try:
            return validate(effects.without_idle(config, kept=dict(needs)))
        except UserError:
            return None

    @functools.cache
    def before(case: str, needs: tuple, group: Any) -> str:
        config = base(case, needs)
        assert config is not None
        return outcome(group, config, tmp_path_factory.mktemp("base"))

    values = {name: kind for name, kind, _, _ in fields(Config())}

    @functools.cache
    def look(case: str, name: str, needs: tuple = ()) -> str:
        old = base(case, needs)
        if old is None:
            return "refused"
        if (value := {n: v for n, _, _, v in fields(old)}.get(name, ...)) is ...:
            return "refused"  # the component has no such setting
        new = replace(old, name, other(name, values[name], value))
        try:
            validate(new)
            found = outcome(name, new, tmp_path_factory.mktemp("changed"))
        except UserError as error:
            # Of two settings that do not go together either may be named.
            assert "\n" not in str(error)
            return "refused"
        return "changes nothing" if found == before(case, needs, _group(name)) else "has an effect"

    return look


def _group(name: str) -> str:
    """A setting whose outcome equals that of `name` if both have their base values."""
    section, _, rest = name.partition(".")
    if section in ("data", "objective") or name in ("train.seed", "train.batch_tokens"):
        return "data.train"
    if section == "model":
        return "model.d_model"
    if section in ("evaluate", "search"):
        return f"{section}.samples"
    return "train.loss_chunk" if rest in ("label_smoothing", "loss_chunk", "loss_backend", "z_loss") else "train.log_every"


SECTIONS = {name: name.partition(".")[0] for name, *_ in fields(Config()) if name not in ELSEWHERE}
# A model's settings take most of the time, as each is traced: they are seen in the slow tests, once a family.
QUICK = {
    "encoder_decoder translate": ("data", "objective", "evaluate", "search"),
    "decoder_only causal_lm": ("data", "objective", "evaluate", "search"),
    "encoder_only masked_lm": ("data", "objective", "train", "checkpoint", "evaluate", "search"),
    "encoder_only classify": ("data", "objective", "evaluate", "search"),
    "encoder_decoder denoise": ("objective",),
}
ALL = ("model", "data", "objective", "train", "checkpoint", "evaluate", "search")


def found_in(walk: Callable, case: str, sections: tuple[str, ...]) -> dict[str, set[str]]:
    """The results for each setting, alone and with the settings that it requires."""
    names = [name for name, section in SECTIONS.items() if section in sections]
    return {name: {walk(case, name), walk(case, name, tuple(NEEDS.get(name, {}).items()))} for name in names}


def idle(found: dict[str, set[str]], case: str) -> set[str]:
    return {name for name, results in found.items() if "changes nothing" in results} - IN_MODES.get(case, set())


@pytest.mark.parametrize("case", QUICK)
def test_settings_have_an_effect_or_are_refused(walk, case):
    assert not idle(found_in(walk, case, QUICK[case]), case)


def test_settings_have_an_effect_somewhere(walk):
    results = [found_in(walk, case, sections) for case, sections in QUICK.items()]
    seen = {name for found in results for name, what in found.items() if "has an effect" in what}
    assert seen >= {name for name, section in SECTIONS.items() if section != "model"}
    assert ELSEWHERE.keys() | SECTIONS.keys() == {name for name, *_ in fields(Config())}


@pytest.mark.slow
def test_settings_have_an_effect_or_are_refused_in_every_case(walk):
    seen, first = set(), {case.split()[0]: case for case in reversed(CASES)}
    for case in CASES:
        found = found_in(walk, case, ALL if case in first.values() else tuple(name for name in ALL if name != "model"))
        assert not idle(found, case), case
        seen |= {name for name, what in found.items() if "has an effect" in what}
    assert seen == SECTIONS.keys()


def test_rows_name_settings_that_there_are():
    known = {name for name, *_ in fields(Config())}
    named = {f"{section}.{name}" for section, names, _, _ in effects.EFFECTS for name in names.split()}
    assert named <= known
    made = {name for name, task in synthetic.TASKS.items() if "source" in task.texts}
    assert made == set(effects.PAIRS) & synthetic.TASKS.keys()
    translating = {name for name, kind in families.TASKS.items() if "translate" in kind.modes}
    assert translating == set(effects.TRANSLATING)
    assert set(effects.LABELS) == {name for name, kind in families.TASKS.items() if kind.output in ("label", "tags", "span")}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"train.weight_decay": "10"}, "train.weight_decay"),
        ({"train.optimizer": "adafactor", "train.weight_decay": "10"}, "train.weight_decay"),
        ({"train.optimizer": "adafactor", "train.beta1": "0.5"}, "train.beta1"),
        ({"train.optimizer": "adafactor", "train.beta2": "0.5"}, "train.beta2"),
        ({"train.optimizer": "adafactor", "train.epsilon": "0.5"}, "train.epsilon"),
        ({"train.min_delta": "1"}, "train.min_delta"),
        ({"model.feed_forward": "none", "model.d_ff": "5"}, "model.d_ff"),
        ({"model.feed_forward": "none", "model.feed_forward.activation": "gelu"}, "model.feed_forward.activation"),
        ({"search.top_k": "5"}, "search.top_k"),
        ({"search.source_code": "fra_Latn"}, "search.source_code"),
        ({"search.target_code": "fra_Latn"}, "search.target_code"),
        ({"train.patience": "2", "evaluate.average": "2"}, "evaluate.average"),
    ],
)
def test_a_setting_without_an_effect_is_named(settings, named):
    with pytest.raises(UserError, match=rf"^config\.{re.escape(named)}=") as caught:
        validate(override(Config(), settings))
    assert "\n" not in str(caught.value)


def test_settings_that_only_one_type_of_layer_reads_have_an_effect():
    types = {"model.layer_pattern": "a,b", "model.layer_types.b.window": "5", "model.dropout_rate": "0"}
    normed = {"model.layer_types.a.attention.qk_norm": "true", "model.attention.norm_epsilon": "0.1"}
    dropping = {"model.layer_types.a.attention.dropout_rate": "0.1", "model.dropout_generator": "threefry"}
    validate(override(Config(), types | normed | dropping))
    for left_out in ("model.layer_types.a.attention.qk_norm", "model.layer_types.a.attention.dropout_rate"):
        others = {name: value for name, value in (normed | dropping).items() if name != left_out}
        with pytest.raises(UserError, match="norm_epsilon|dropout_generator"):
            validate(override(Config(), types | {"model.layer_types.a.window": "7"} | others))


def test_without_idle_leaves_what_has_an_effect():
    config = override(Config(), {"train.weight_decay": "10", "train.beta1": "0.5", "model.attention.norm_epsilon": "7"})
    assert effects.without_idle(config) == replace(Config(), "train.beta1", 0.5)
    assert effects.without_idle(config, kept=["model.attention.norm_epsilon"]).model.attention.norm_epsilon == 7
    assert dataclasses.replace(config) == config
