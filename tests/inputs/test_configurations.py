"""Random configurations with a fixed seed: a valid one trains, is saved, restored and used; an invalid one gives an immediate
one-line error.

Validity is not defined again here, but by `validate` and the tables of families. Everything that they accept must work."""

import random
import string
import typing
from types import SimpleNamespace
from unittest import mock

import every_variant
import jax
import numpy as np
import pytest
import small
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from trained import command

from transformer import effects, families, settings
from transformer.components.attention import Attention
from transformer.components.norms import Norm
from transformer.components.positions import Positions
from transformer.config import Config
from transformer.data import pipeline, prepare
from transformer.data.sources.base import listed
from transformer.data.tokenizers.vocabulary import Bytes, Characters
from transformer.errors import UserError
from transformer.inference.loading import Loaded
from transformer.inference.predict import PREDICTORS
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.devices import Runtime
from transformer.training import loop, state_files, trainer
from transformer.validation import validate

# --- valid ones --------------------------------------------------------------------------------------------------------

SMALL = {
    "model.num_encoder_layers": "1",
    "model.num_decoder_layers": "1",
    "model.d_model": "8",
    "model.d_ff": "8",
    "model.num_heads": "2",
    "data.max_source_length": "12",
    "data.max_target_length": "12",
    "train.batch_tokens": "64",
    "train.warmup_steps": "1",
    "search.batch_size": "2",
    "search.max_extra": "2",
    "search.max_new_tokens": "2",
}
# All values of these are drawn where they are choices or yes and no, else these.
DRAWN = {
    "model.d_k": ("none", "6"),
    "model.d_v": ("none", "3"),
    "model.dropout_rate": ("0", "0.2"),
    "model.final_norm": ("none", "true", "false"),
    "model.token_types": ("0", "2"),
    "model.num_kv_heads": ("none", "1"),
    "model.window": ("none", "3"),
    "train.accumulate": ("1", "2"),
    "train.ema_decay": ("none", "0.9"),
    "train.clip_norm": ("none", "1"),
    "search.beam_size": ("1", "2"),
    "objective.next_sentence": ("false",),  # needs several documents
    "parallel.mode": ("jit", "pmap", "mesh"),
    "data.vocabulary": ("characters", "bytes"),
    "data.joint_vocabulary": ("true", "false"),
    "data.batching": ("packed", "bucketed"),
}
# Components, one of each kind; and of their settings those that have few values, where they are not choices.
COMPONENTS = {
    "model.positions": (*Positions.registry, *every_variant.names(Positions)),
    "model.norm": tuple(Norm.registry),
    "model.mask": ("prefix", "prefix", "causal", "all", f"{every_variant.FOLDER}/causal_mask.py:UnmaskedTraining"),
    "model.attention": ("multi_head", *every_variant.names(Attention)),
}
OF_COMPONENTS = {"learned": {"model.positions.size": "16"}, "t5": {"model.positions.buckets": "4"}}
PAIRS = [(family, kind) for kind, row in families.TASKS.items() for family in row.objectives if kind != "embed"]  # has no loss
TEXTS = ["ab cde", "b", "ca ab", "dd e", "abcde", "ab"]


def drawn(number: int) -> Config:
    """Configuration `number`. Families and objectives are taken in turn; the first valid draw is used."""
    draw, (family, kind) = random.Random(number), PAIRS[number % len(PAIRS)]
    for _ in range(100):
        chosen = SMALL | {"family": family, "objective.kind": kind}
        chosen |= {name: draw.choice(values) for name, values in DRAWN.items()}
        if family != "recurrent":
            chosen |= {name: draw.choice(values) for name, values in COMPONENTS.items()}
            chosen |= OF_COMPONENTS.get(chosen["model.positions"], {})
        else:
            chosen |= {"model.num_kv_heads": "none", "model.window": "none"}
        try:
            config = settings.override(Config(), chosen)
            choices = {
                name: ("true", "false") if kind is bool else kind.__args__
                for name, kind, _, _ in settings.fields(config)
                if name.startswith("model.") and (kind is bool or typing.get_origin(kind) is typing.Literal)
            }
            changed = {name: draw.choice(choices[name]) for name in draw.sample(sorted(choices), 8)}
            config = validate(effects.without_idle(settings.override(config, changed)))
            families.task_of(config)
            return config
        except UserError as error:
            assert len(str(error).splitlines()) == 1
    raise AssertionError(f"nothing valid for {family}, {kind}")


def examples(fields: tuple[str, ...]) -> list[dict[str, str]]:
    every = {
        "label": ["x", "y"],
        "question": ["b ?"],
        "answer": ["b"],
        "answers": ['["b"]'],
        "start": ["1"],
        "target": TEXTS[::-1],
    }
    if fields == ("question", "text"):
        return [{"question": "b ?", "text": "ab cde", "answer": "b", "start": "1", "answers": '["b"]'} for _ in TEXTS]
    rows = []
    for number, text in enumerate(TEXTS):
        tags = " ".join("B-X" if n % 2 else "O" for n, _ in enumerate(text.split(), number))
        rows.append(
            {f: {"tags": tags}.get(f) or every.get(f, TEXTS)[number % len(every.get(f, TEXTS))] for f in fields if f != "pair"}
        )
    return rows


def works(config: Config, folder) -> None:
    """One update, a bitwise save and restore, and a prediction."""
    family, task, runtime = families.FAMILIES[config.family], families.task_of(config), Runtime(config.parallel)
    rows = examples(task.fields)
    made = Bytes() if config.data.vocabulary == "bytes" else Characters(sorted(set("".join(TEXTS) + "?")))
    vocabularies = {field: made for field in families.text_fields(task) if field != "pair"}
    data_info = prepare.make_data_info(vocabularies, task.extra, SimpleNamespace(training=lambda: listed(rows)), None)
    model = family.model(config, data_info)
    objective = families.make_objective(config, data_info, vocabularies, training=True)
    tokens = task.encode(rows, vocabularies, data_info.labels)
    batches, _ = pipeline.plan(
        tokens, objective, config.data, config.train.batch_tokens, config.train.accumulate * runtime.count, 0, training=True
    )
    _, train_step, begin = trainer.make(config, data_info, model)

    def init():
        return begin(small.filled(model, objective))

    state, metrics = runtime.compile_train(train_step)(runtime.place_state(init()), runtime.place_batch(batches[0]))
    found = loop.means(runtime.fetch(metrics))
    assert np.isfinite(found["loss"]) and found["skipped"] == 0
    after = jax.device_get(runtime.single(state))
    checkpoints = Checkpoints(folder, config.checkpoint)
    state_files.save(checkpoints, 1, after, {})
    again = state_files.restore(checkpoints, 1, jax.eval_shape(init))
    checkpoints.close()
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), after, again))
    predictor = PREDICTORS[task.output](Loaded(config, data_info, model, objective, again.params, vocabularies))
    if hasattr(predictor, "translate"):
        assert len(list(predictor.translate(["ab", "", "ca"]))) == 3
    elif hasattr(predictor, "generate"):
        assert len(predictor.generate("ab", 2)) == 2
    else:
        assert len(predictor.predict(rows[:3])) == 3


MORE = pytest.mark.slow, pytest.mark.thorough


@pytest.mark.parametrize("number", [n if n < 4 else pytest.param(n, marks=MORE[n % 2]) for n in range(len(PAIRS))])
def test_a_valid_configuration_works(number, tmp_path):
    works(drawn(number), tmp_path)


# --- invalid ones ------------------------------------------------------------------------------------------------------

FIELDS = {name: kind for name, kind, _, _ in settings.fields(Config())}
NUMBERS = st.integers(-3, 3) | st.integers() | st.floats() | st.just(2**31)
STRANGE = (
    st.text(string.printable, max_size=8)
    | st.text(max_size=4)
    | NUMBERS.map(str)
    | st.tuples(NUMBERS, NUMBERS).map(lambda pair: f"{pair[0]},{pair[1]}")
)
NAMES = st.sampled_from(sorted(FIELDS)) | st.text("abcdmodelrt._", min_size=1, max_size=12)


def refusal(given_settings: dict[str, str]) -> str | None:
    try:
        validate(settings.override(Config(), given_settings))
    except UserError as error:
        return str(error)
    return None


@hypothesis_settings(max_examples=400, derandomize=True, deadline=None)
@given(st.dictionaries(NAMES, STRANGE, min_size=1, max_size=3))
def test_any_settings_are_valid_or_refused_in_a_line(given_settings):
    outcome = refusal(given_settings)
    assert outcome is None or ("config" in outcome and outcome and len(outcome.splitlines()) == 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "d_model", "data", "train", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis_settings(max_examples=300, derandomize=True, deadline=None)
@given(JSON | st.tuples(st.sampled_from(sorted(FIELDS)), JSON))
def test_any_json_is_settings_or_refused_in_a_line(value):
    if isinstance(value, tuple):  # one setting, where it belongs
        name, value = value
        for part in reversed(name.split(".")):
            value = {part: value}
    try:
        validate(settings.from_dict(value, Config, "config.json"))
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and "config" in str(error)


@hypothesis_settings(max_examples=40, derandomize=True, deadline=None)
@given(name=NAMES, text=STRANGE)
def test_an_invalid_setting_ends_a_command_before_anything_is_there(name, text, tmp_path_factory):
    assume(refusal({name: text}) is not None and max(text, default="") < "\ud800")
    workdir = tmp_path_factory.getbasetemp() / "never"
    with mock.patch.object(loop, "train", side_effect=AssertionError):
        outcome = command(f"--workdir={workdir}", f"--config.{name}={text}")
    assert (outcome.status, outcome.out) == (2, "") and outcome.err.startswith("launch.py: ") and outcome.err.count("\n") == 1
    assert not workdir.exists()
