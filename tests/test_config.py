"""Settings: overrides, limits, cross-checks and files; wrong settings give a helpful one-line error."""

import dataclasses
import json

import pytest

from transformer import config as module
from transformer import families
from transformer import settings as settings_module
from transformer.config import Config, Data, Model, Objective
from transformer.data.tokenizers.vocabulary import Characters
from transformer.errors import UserError, counted, nearest
from transformer.settings import Variations, assign, differences, fields, from_dict, from_file, override, replace, to_dict
from transformer.validation import validate


def message(call, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def get(config: Config, name: str):
    for part in name.split("."):
        config = getattr(config, part)
    return config


# --- overrides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.num_heads", "4", 4),
        ("data.number_train_size", "10_000", 10_000),
        ("model.d_k", "16", 16),
        ("model.d_k", "none", None),
        ("model.d_k", "None", None),
        ("model.dropout_rate", "0", 0.0),
        ("train.learning_rate", "1e-3", 1e-3),
        ("train.learning_rate", "none", None),
        ("model.attention.qk_norm", "true", True),
        ("model.attention.qk_norm", "True", True),
        ("model.attention.qk_norm", "yes", True),
        ("model.attention.bias", "false", False),
        ("model.attention.bias", "0", False),
        ("model.final_norm", "none", None),
        ("model.final_norm", "no", False),
        ("model.attention.scale", "1/d_k", "1/d_k"),
        ("data.train", "news=2020", "news=2020"),
        ("data.test", "none", None),
        ("data.source_language", "none", "none"),
        ("data.number_range", "0,100", (0, 100)),
        ("data.number_range", "(0, 100)", (0, 100)),
        ("data.number_test_range", "none", None),
        ("evaluate.scores", "chrf", ("chrf",)),
        ("evaluate.scores", "exact_match, chrf", ("exact_match", "chrf")),
        ("evaluate.scores", "", ()),
        ("family", "encoder_decoder", "encoder_decoder"),
    ],
)
def test_override_of_every_type(name, text, value):
    changed = override(Config(), {name: text})
    found = get(changed, name)
    assert found == value and type(found) is type(value)
    # Nothing else has changed; where a component's setting has, so has the component.
    before = {n: value for n, _, _, value in fields(Config())}
    assert {n for n, _, _, value in fields(changed) if value != before[n]} <= {name, name.rpartition(".")[0]}


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("model.num_head", "4", ["--config.model.num_head:", "no such setting", "did you mean 'model.num_heads'?"]),
        ("num_heads", "4", ["did you mean 'model.num_heads'?"]),
        ("train.step", "4", ["did you mean 'train.steps'?"]),
        ("model.qqqqqqqqqqqqqqqqqq", "4", ["--config.model.qqqqqqqqqqqqqqqqqq: there is no such setting"]),
        ("model", "4", ["--config.model:", "it is a section", "--config.model.num_encoder_layers"]),
        ("model.d_model", "wide", ["--config.model.d_model=wide: expected int"]),
        ("model.d_model", "64.0", ["expected int"]),
        ("model.d_model", "", ["--config.model.d_model=: expected int"]),
        ("model.d_model", "none", ["expected int"]),
        ("model.d_k", "x", ["expected int or none"]),
        ("model.dropout_rate", "a lot", ["expected float"]),
        ("model.attention.qk_norm", "2", ["expected bool"]),
        ("train.trackers", "wandb,mlfow", ["expected any of wandb, mlflow, separated by commas; did you mean 'mlflow'?"]),
        ("evaluate.checkpoint", "bset", ["expected one of last, best or none; did you mean 'best'?"]),
        ("model.positions", "rotray", ["there is no Positions rotray", "did you mean 'rotary'?"]),
        ("data.number_range", "5", ["--config.data.number_range=5: expected int,int"]),
        ("data.number_range", "1,2,3", ["expected int,int"]),
        ("data.number_range", "a,b", ["expected int,int"]),
        ("data.number_test_range", "7", ["expected int,int or none"]),
        ("checkpoint.best_metric", "validation/los", ["did you mean 'validation/loss'?"]),
    ],
)
def test_wrong_overrides(name, text, parts):
    error = message(override, Config(), {name: text})
    assert all(part in error for part in parts), error


def test_nearest_names_none_where_none_is_near():
    assert nearest("zzzz", ["model.d_model"]) == ""
    assert nearest("d_modle", ["d_model", "d_ff"]) == "; did you mean 'd_model'?"


def test_every_setting_has_a_meaning_and_a_default_of_its_type():
    for name, kind, field, value in fields(Config()):
        assert len(field.metadata["meaning"]) > 5, name
        assert settings_module.has_type(value, kind), name
        # Its default, written as `--help` and the command line have it, is read back.
        if not isinstance(value, Variations):
            assert settings_module.get(override(Config(), {name: settings_module.text_of(value)}), name) == value, name


def test_settings_cannot_be_changed_in_place():
    sections = [getattr(Config(), field.name) for field in dataclasses.fields(Config)]
    for section in [Config(), *filter(dataclasses.is_dataclass, sections)]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(section, dataclasses.fields(section)[0].name, 3)


LOCAL = Variations({"local": {"window": 4}})
MIXED = Variations({"a": {"window": 4, "num_kv_heads": 2}, "b": {"positions": "none", "d_ff": 64}})

# --- limits and cross-checks -------------------------------------------------------------------------------------------


RECURRENT = {"family": "recurrent", "data.batching": "bucketed"}


def test_a_model_without_heads_or_positions_may_have_any_width():
    validate(override(Config(), {"family": "recurrent", "model.d_model": "33", "data.batching": "bucketed"}))


def test_the_defaults_are_valid():
    assert validate(Config()) == Config()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"model.d_model": 0}, ["config.model.d_model is 0: must be at least 1"]),
        ({"model.dropout_rate": 1.0}, ["config.model.dropout_rate is 1.0: must be below 1"]),
        ({"model.positions": "rotary", "model.positions.base": 1.0}, ["must be above 1"]),
        ({"model.d_model": "512"}, ["config.model.d_model is '512': expected int"]),
        ({"model.d_model": True}, ["expected int"]),
        ({"train.learning_rate": float("nan")}, ["expected float"]),
        ({"train.learning_rate": float("inf")}, ["expected float"]),
        ({"model.positions": "circular"}, ["there is no Positions circular", "sinusoidal"]),
        ({"model.positions": 3}, ["config.model.positions is 3: expected a Positions"]),
        ({"data.number_range": (0, 1, 2)}, ["expected int,int"]),
        ({"evaluate.scores": ["bleu"]}, ["expected comma-separated str"]),
        ({"train.steps": 0}, ["config.train.steps is 0: must be at least 1"]),
        ({"model.num_heads": 7}, ["config.model.d_model 512", "config.model.num_heads 7", "config.model.d_k"]),
        ({"model.num_heads": 7, "model.d_k": 64}, ["config.model.d_v"]),
        ({"model.positions": "rotary", "model.d_k": 33}, ["config.model.d_k is 33", "even"]),
        ({"model.d_model": 33, "model.num_heads": 3}, ["config.model.d_model is 33", "sinusoids", "even"]),
        ({"model.num_kv_heads": 3}, ["config.model.num_kv_heads 3 does not divide config.model.num_heads 8"]),
        ({"model.num_kv_heads": 2} | RECURRENT, ["config.model.num_kv_heads", "config.family"]),
        ({"model.attention.bias": False} | RECURRENT, ["config.model.attention", "config.family"]),
        ({"model.mask": "all", "family": "encoder_only"}, ["config.model.mask=all", "decoder"]),
        ({"model.mask": "all", "model.positions": "t5"}, ["config.model.mask all", "positions t5 has buckets"]),
        ({"model.mask": "causal"}, ["config.model.mask=causal", "prefix"]),
        ({"model.layer_pattern": ("local",)}, ["config.model.layer_pattern names local", "layer_types.local.SETTING=VALUE"]),
        ({"model.layer_types": LOCAL}, ["config.model.layer_types.local is not in config.model.layer_pattern"]),
        (
            {"model.layer_types": Variations({"a": {"d_model": 8}}), "model.layer_pattern": ("a",)},
            ["config.model.layer_types.a.d_model: cannot differ by layer", "window"],
        ),
        ({"model.layer_pattern": ("encoder",)}, ["config.model.layer_pattern names encoder"]),
        (
            {"model.layer_types": Variations({"decoder": {"d_ff": 8}}), "family": "encoder_only"},
            ["config.model.layer_types.decoder", "config.family encoder_only"],
        ),
        ({"model.layer_types": Variations({"encoder": {"mask": "all"}})}, ["layer_types.encoder.mask", "stack"]),
        ({"model.layer_types": Variations({"encoder": {"num_heads": 7}})}, ["num_heads 7", "d_model 512"]),
        (
            {"model.layer_types": Variations({"a": {"positions": "none"}}), "model.layer_pattern": ("a",)},
            ["config.model.layer_types: positions that are added to the embeddings"],
        ),
        (
            {"model.attention.query_init": "initializer/sqrt(d_k)", "model.attention.qk_norm": True},
            ["config.model.attention.query_init", "config.model.attention.qk_norm"],
        ),
        (
            {"model.positions": "t5", "model.positions.max_distance": 16},
            ["config.model.positions.max_distance 16", "config.model.positions.buckets 32"],
        ),
        ({"data.segmentations": 2, "data.vocabulary": "bytes"}, ["config.data.segmentations 2: bytes has one way", "bpe"]),
        ({"data.segmentations": 2, "objective.kind": "answer"}, ["config.data.segmentations 2: labels of answer"]),
        ({"model.positions": "learned", "data.max_target_length": 2000}, ["config.model.positions.size 1024", "2000"]),
        (
            {"data.max_source_length": 2000, "model.layer_types": Variations({"encoder": {"positions": "learned"}})},
            ["config.model.positions.size 1024", "2000"],
        ),
        ({"data.joint_vocabulary": False}, ["config.model.tying three_way", "config.data.joint_vocabulary"]),
        (
            {"data.joint_vocabulary": False, "objective.kind": "denoise"},
            ["config.data.joint_vocabulary", "config.objective.kind=translate"],
        ),
        ({"family": "recurrent"}, ["config.family recurrent", "config.data.batching=bucketed"]),
        ({"objective.kind": "tag"}, ["config.objective.kind tag", "config.data.batching=bucketed"]),
        (
            {"objective.kind": "masked_lm", "objective.next_sentence": True},
            ["config.objective.next_sentence", "config.data.batching=bucketed"],
        ),
        ({"data.row_length": 100}, ["config.data.row_length 100", "config.data.max_target_length 256"]),
        ({"data.number_range": (5, 5)}, ["config.data.number_range is 5,5"]),
        ({"data.number_range": (-5, 5)}, ["config.data.number_range is -5,5"]),
        ({"data.number_test_range": (0, 2_000_000)}, ["config.data.number_test_range is 0,2000000", "number_range"]),
        ({"train.warmup_steps": 0}, ["config.train.warmup_steps is 0", "rsqrt"]),
        (
            {"family": "decoder_only", "objective.kind": "causal_lm", "evaluate.stride": 257, "model.mask": "prefix"},
            ["config.evaluate.stride 257", "config.data.max_target_length 256"],
        ),
        ({"search.n_best": 5}, ["config.search.n_best 5", "config.search.beam_size 4"]),
        ({"evaluate.average": 4}, ["config.evaluate.average 4", "config.checkpoint.keep_last 3"]),
        ({"evaluate.checkpoint": "best", "data.validation": None}, ["config.evaluate.checkpoint best", "validation is none"]),
        ({"evaluate.checkpoint": "best", "checkpoint.keep_best": 0}, ["config.checkpoint.keep_best is 0"]),
    ],
)
def test_what_does_not_fit(settings, parts):
    error = message(lambda: validate(assign(Config(), settings)))
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    "settings",
    [
        {"model.num_heads": 7, "model.d_k": 64, "model.d_v": 10},
        {"model.positions": "rotary", "model.d_k": 34},
        {"model.positions": "rotary", "model.d_model": 35, "model.num_heads": 5, "model.d_k": 4},
        {"model.positions": "none", "model.d_model": 33, "model.num_heads": 3},
        {"model.positions": "t5", "model.positions.max_distance": 17},
        {"model.positions": "rotary", "model.layer_pattern": ("a", "b"), "model.layer_types": MIXED},
        # One stack has its own positions, with a limit or without.
        {"model.positions": "alibi", "model.layer_types": Variations({"encoder": {"positions": "sinusoidal"}})},
        {"model.positions": "sinusoidal", "model.layer_types": Variations({"decoder": {"positions": "learned"}})},
        {"model.num_kv_heads": 1, "model.window": 4},
        {"model.layer_types": Variations({"encoder": {"num_heads": 16}, "decoder": {"num_kv_heads": 2, "d_ff": 8}})},
        {"model.positions": "learned", "data.max_target_length": 1024},
        {"model.tying": "two_way", "data.joint_vocabulary": False},
        {"data.row_length": 256},
        {"train.warmup_steps": 0, "train.schedule": "constant"},
        {"search.n_best": 4},
        {"evaluate.average": 3},
        {"evaluate.checkpoint": "best"},
    ],
)
def test_what_just_fits(settings):
    config = assign(Config(), settings)
    assert validate(config) is config


# --- to JSON and back --------------------------------------------------------------------------------------------------

OTHER = override(
    Config(),
    {"model.positions": "rotary", "model.positions.scaling": "yarn", "model.layer_pattern": "a"}
    | {"model.layer_types.a.window": "3", "model.d_k": "32"}
    | {"model.logits_bias": "true", "data.number_test_range": "5,50", "evaluate.scores": "chrf,bleu", "train.ema_decay": "0.9"},
)


@pytest.mark.parametrize("config", [Config(), OTHER])
def test_round_trip_through_json(config):
    assert from_dict(json.loads(json.dumps(to_dict(config))), Config) == config


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"modle": {}}, ["config.json: unknown setting modle", "did you mean 'model'?"]),
        ({"model": {"d_modle": 3}}, ["unknown setting model.d_modle", "did you mean 'd_model'?"]),
        ({"model": {"d_model": "3"}}, ["model.d_model is '3', expected int"]),
        ({"model": {"d_model": 3.5}}, ["expected int"]),
        ({"model": {"logits_bias": 1}}, ["expected bool"]),
        ({"model": {"positions": {"component": "rotray"}}}, ["config.json: model.positions: there is no Positions rotray"]),
        ({"model": {"positions": {"size": 3}}}, ["config.json: model.positions.component is None"]),
        ({"model": {"layer_types": {"a": 3}}}, ["model.layer_types"]),
        ({"model": 3}, ["model.", "is not an object of settings"]),
        ({"data": {"number_range": [1]}}, ["data.number_range"]),
    ],
)
def test_damaged_settings(change, parts):
    error = message(from_dict, change, Config)
    assert all(part in error for part in parts), error


def test_missing_settings_have_their_defaults():
    assert from_dict({"model": {"d_model": 64}}, Config) == replace(Config(), "model.d_model", 64)


def test_missing_data_info_is_reported():
    assert "source_size" in message(from_dict, {"target_size": 3}, module.DataInfo, "data_info.json")


def test_differences():
    new = override(Config(), {"model.d_model": "256", "train.steps": "7", "data.test": "none"})
    assert differences(Config(), Config()) == differences(Config(), Config(), free=True) == []
    assert differences(Config(), new) == ["model.d_model: 512 -> 256", "data.test: test -> None"]
    assert differences(Config(), new, free=True) == [
        "model.d_model: 512 -> 256",
        "data.test: test -> None",
        "train.steps: 100000 -> 7",
    ]


def test_no_free_setting_changes_parameters_or_data():
    """The free settings are listed here again, so that adding one is a deliberate decision."""
    free = {name for name, _, field, _ in fields(Config()) if field.metadata.get("free")}
    sections = {"evaluate", "search", "embed", "checkpoint", "parallel"}
    assert {name for name in free if name.split(".")[0] not in sections} == {
        "model.attention_backend",
        "model.attention_chunk",
        "model.unroll",
        "model.remat",
        "data.directory",
        "data.workers",
        "train.steps",
        "train.loss_chunk",
        "train.loss_backend",
        "train.max_skipped",
        "train.debug_nans",
        "train.max_minutes",
        "train.trackers",
        "train.patience",
        "train.decay_steps",
    }
    assert sections <= {name.split(".")[0] for name in free}


# --- experiment files --------------------------------------------------------------------------------------------------


def test_an_experiment_file_is_read(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from transformer.config import Config, Model\ndef get_config():\n    return Config(model=Model(d_model=64))\n"
    )
    assert (
        from_file(tmp_path / "mine.py", Config)
        == from_file(str(tmp_path / "mine.py"), Config)
        == replace(Config(), "model.d_model", 64)
    )


FITTED = """
from transformer.config import Config, Model
from transformer.settings import override

def get_config():
    return Config(model=Model(d_model=64))

def fit_to_data(config, overrides, found):
    return override(config, {"train.steps": found, "model.d_ff": str(3 * config.model.d_model), "model.num_heads": "2"})
"""


def test_an_experiment_file_may_fit_its_settings_to_the_data(tmp_path):
    """The function sees overrides and the measured data, and cannot change the overrides."""

    def look(config: Config) -> str:
        return f"{config.model.d_model + 1}"

    (tmp_path / "mine.py").write_text(FITTED)
    fitted = from_file(tmp_path / "mine.py", Config, overrides={"model.d_model": "32", "model.num_heads": "4"}, look=look)
    assert (fitted.model.d_model, fitted.model.d_ff, fitted.model.num_heads, fitted.train.steps) == (32, 96, 4, 33)
    (tmp_path / "mine.py").write_text(FITTED.replace("return override", "return 3 or override"))
    assert "fit_to_data() returned int" in message(from_file, tmp_path / "mine.py", Config, look=look)
    assert from_file(tmp_path / "mine.py", Config).model.d_ff == Config().model.d_ff  # nothing to look at


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def get_config(:\n", ["SyntaxError", "line 1"]),
        ("x = 1\n", ["get_config"]),
        ("def get_config():\n    return 3\n", ["get_config() returned int, not a Config"]),
        ("def get_config():\n    raise RuntimeError('a\\nb')\n", ["RuntimeError in line 2: a b"]),
        ("import no_such_module\n", ["ModuleNotFoundError", "no_such_module", "line 1"]),
        (
            "from transformer.config import *\ndef get_config():\n    return Config(model=Model(heads=3))\n",
            ["TypeError", "'heads'", "line 3"],
        ),
        (
            "from transformer.errors import UserError\ndef get_config():\n    raise UserError('set X')\n",
            ["set X"],
        ),
    ],
)
def test_wrong_experiment_files(tmp_path, text, parts):
    (tmp_path / "mine.py").write_text(text)
    error = message(from_file, tmp_path / "mine.py", Config)
    assert all(part in error for part in parts), error
    if "UserError" not in text:
        assert error.startswith(f"--config={tmp_path / 'mine.py'}: ")


def test_a_missing_experiment_file_names_the_nearest(tmp_path):
    (tmp_path / "multi30k.py").touch()
    assert "did you mean 'multi30k.py'?" in message(from_file, tmp_path / "multi30.py", Config)
    assert "did you mean" not in message(from_file, tmp_path / "x.py", Config)
    assert "there is no such file" in message(from_file, tmp_path / "nowhere" / "x.py", Config)
    assert "there is no such file" in message(from_file, tmp_path, Config)


@pytest.mark.parametrize(
    ("number", "thing", "wanted"),
    [(1, ("device",), "1 device"), (0, ("device",), "0 devices"), (1024, ("hypothesis", "hypotheses"), "1,024 hypotheses")],
)
def test_one_is_singular(number, thing, wanted):
    assert counted(number, *thing) == wanted


# --- vocabularies and tables -------------------------------------------------------------------------------------------

TYINGS = ("three_way", "two_way", "inputs", "none")


@pytest.mark.parametrize("vocabulary", ["bpe", "imported"])
@pytest.mark.parametrize("tying", TYINGS)
@pytest.mark.parametrize("family", ["encoder_decoder", "recurrent", "decoder_only"])
def test_two_vocabularies_never_share_a_table(family, tying, vocabulary):
    """Imported vocabularies are compared when they are read: two of them may have the same ids."""
    data = Data(joint_vocabulary=False, vocabulary=vocabulary, batching="bucketed")
    config = Config(family=family, model=Model(tying=tying), data=data)
    assert validate(replace(config, "data.joint_vocabulary", True))
    shared = family == "decoder_only" or tying in ("three_way", "inputs")
    if shared and vocabulary == "bpe":
        assert "config.data.joint_vocabulary false" in message(validate, config)
    else:
        assert validate(config)
    same, other, where = Characters("ab"), Characters("ba"), "runs/x/vocabulary"
    families.check_vocabularies(config, {"source": same, "target": Characters("ab")}, where)
    families.check_vocabularies(config, {"text": same}, where)
    if shared:
        assert where in message(families.check_vocabularies, config, {"source": same, "target": other}, where)
    else:
        families.check_vocabularies(config, {"source": same, "target": other}, where)


ONE_TEXT = [
    *(("encoder_decoder", "span_corruption"), ("encoder_only", "masked_lm")),
    *(("encoder_only", "classify"), ("decoder_only", "causal_lm")),
]


@pytest.mark.parametrize(("family", "kind"), ONE_TEXT)
def test_an_objective_with_one_text_has_one_vocabulary(family, kind):
    config = Config(family=family, objective=Objective(kind=kind), data=Data(joint_vocabulary=False, batching="bucketed"))
    assert validate(replace(config, "data.joint_vocabulary", True))
    assert "config.data.joint_vocabulary=false" in message(validate, replace(config, "model.tying", "two_way"))
