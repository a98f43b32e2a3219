"""Components: their names, loading from a file, checks, writing and reading; and no workdir executes code."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from trained import ROOT, command, write_corpus

from transformer import registry, settings
from transformer.components.attention import Attention
from transformer.components.positions import Positions
from transformer.config import Config
from transformer.data import fitting
from transformer.errors import UserError
from transformer.modes import training
from transformer.runtime import workdir as workdirs
from transformer.studies.plan import Run
from transformer.validation import validate

SOFT_CAP = '''
"""Logits bounded by a soft cap."""

import dataclasses

import jax.numpy as jnp

from transformer.components.attention import Attention
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftCap(Attention):
    """cap tanh(logits / cap)."""

    cap: float = setting(50.0, "bound of the logits", above=0)

    def logits(self, p, q, k, pairs, positions):
        return self.cap * jnp.tanh(super().logits(p, q, k, pairs, positions) / self.cap)
'''


@pytest.fixture
def variant(tmp_path):
    """A user's file in a separate folder."""
    (tmp_path / "soft_cap.py").write_text(SOFT_CAP)
    yield tmp_path / "soft_cap.py"
    registry.forget(tmp_path / "soft_cap.py")


def message(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_attention(name, **more):
    below = {f"model.attention.{key}": value for key, value in more.items()}
    return settings.override(Config(), below | {"model.attention": str(name)})


def test_a_class_in_a_file_is_a_setting_with_settings_of_its_own(variant):
    config = with_attention(f"{variant}:SoftCap", cap="30", qk_norm="true")
    assert type(config.model.attention).__name__ == "SoftCap" and config.model.attention.cap == 30
    assert config.model.attention.qk_norm  # an inherited one
    assert settings.differences(Config(), config)[0].startswith("model.attention: multi_head -> ")


def test_what_both_classes_have_is_carried_over(variant):
    base = settings.override(Config(), {"model.attention.bias": "false"})
    changed = settings.override(base, {"model.attention": f"{variant}:SoftCap"})
    assert not changed.model.attention.bias
    assert settings.override(changed, {"model.attention": "multi_head"}) == base


@pytest.mark.parametrize(
    ("name", "more", "parts"),
    [
        ("mutli_head", {}, ["no Attention mutli_head", "did you mean 'multi_head'?"]),
        ("{file}:SoftCup", {}, ["has no class SoftCup that inherits from Attention", "SoftCap"]),
        ("{file}:SoftCap", {"cup": "3"}, ["--config.model.attention.cup: there is no such setting", "model.attention.cap"]),
        ("{file}:SoftCap", {"cap": "x"}, ["--config.model.attention.cap=x: expected float"]),
        ("{folder}/soft_cup.py:SoftCap", {}, ["there is no Python file", "did you mean 'soft_cap.py'?"]),
    ],
)
def test_what_cannot_be_named(variant, name, more, parts):
    error = message(lambda: with_attention(name.format(file=variant, folder=variant.parent), **more))
    assert all(part in error for part in parts), error


WRONG = {
    "not a dataclass": ("@dataclasses.dataclass(frozen=True, kw_only=True)\n", "", "no @dataclasses.dataclass"),
    "not frozen": ("frozen=True, kw_only=True", "kw_only=True", "cannot inherit non-frozen"),
    "other arguments": (
        "def logits(self, p, q, k, pairs, positions)",
        "def logits(self, q, k)",
        "has the arguments (self, q, k)",
    ),
    "a misspelt hook": ("def logits(", "def logist(", "logist is not a hook of Attention; did you mean 'logits'?"),
    "what cannot be hashed": (
        'cap: float = setting(50.0, "bound of the logits", above=0)',
        "cap: list = dataclasses.field(default_factory=list)",
        "SoftCap.cap cannot be hashed",
    ),
    "an error": ("import dataclasses\n", "import dataclasses\n\n1 / 0\n", "ZeroDivisionError in line 6: division by zero"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_class_is_one_line(variant, name):
    old, new, part = WRONG[name]
    assert old in SOFT_CAP
    variant.write_text(SOFT_CAP.replace(old, new))
    assert part in message(lambda: settings.check(with_attention(f"{variant}:SoftCap")))


def test_calling_a_norm_is_a_hook_too(tmp_path):
    file = tmp_path / "norm.py"
    body = "class Same(RMSNorm):\n    def __call__(self, x):\n        return x\n"
    file.write_text(f"from transformer.components.norms import RMSNorm\n\n\n{body}")
    error = message(settings.override, Config(), {"model.norm": f"{file}:Same"})
    assert "Same.__call__ has the arguments (self, x); those of Norm.__call__ are (self, p, x)" in error


def test_arguments_of_a_hook_need_no_shapes_in_their_names(variant):
    hook = "    def normalize(self, p, logits, pairs):\n        return super().normalize(p, logits, pairs)\n"
    variant.write_text(f"{SOFT_CAP}\n{hook}")
    settings.check(with_attention(f"{variant}:SoftCap"))


def test_it_goes_through_json_and_to_other_processes(variant):
    config = with_attention(f"{variant}:SoftCap", cap="30")
    written = json.loads(json.dumps(settings.to_dict(config)))
    assert written["model"]["attention"]["sources"].keys() == {"soft_cap.py"}
    assert settings.from_dict(written, Config) == config
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).model.attention.cap)"
    there = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config), capture_output=True, cwd=ROOT)
    assert there.stdout == b"30.0\n", there.stderr


def test_a_file_that_has_changed_is_refused(variant):
    written = settings.to_dict(with_attention(f"{variant}:SoftCap"))
    variant.write_text(SOFT_CAP + "\n# another line\n")
    assert "soft_cap.py has changed since it was recorded" in message(settings.from_dict, written, Config)


def test_an_error_in_it_names_its_line(tmp_path, monkeypatch):
    file = tmp_path / "wrong.py"
    file.write_text(SOFT_CAP.replace("self.cap * jnp", 'p["missing"] * jnp'))
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.extend(error.__notes__))
    try:
        command("--mode=describe", f"--config.model.attention={file}:SoftCap")
    except KeyError as error:
        shown = error.__notes__
    assert any(note.startswith("Raised in wrong.py:19, a file that you named") for note in shown), shown
    registry.forget(file)


def test_a_run_with_a_variant_keeps_a_copy_and_its_workdir_runs_nothing(variant, tmp_path, monkeypatch):
    """It is trained and scored, then loaded where the file is named, and refused with a one-line error where it is not."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data")
    small = ["num_encoder_layers=1", "num_decoder_layers=1", "d_model=8", "d_ff=8", "num_heads=2"]
    given = [f"--config.model.{each}" for each in small]
    given += [
        f"--config.data.{each}" for each in ("source=text", "directory=data", "vocabulary=characters", "vocabulary_size=16")
    ]
    given += [f"--config.train.{each}" for each in ("steps=1", "batch_tokens=512", "seed=3")]
    given += ["--config.search.beam_size=1", "--config.data.max_source_length=24", "--config.data.max_target_length=24"]
    monkeypatch.setattr(training, "_finish", lambda *arguments: None)  # scores are what the next command is for
    result = command(f"--config.model.attention={variant}:SoftCap", "--config.model.attention.cap=5", "--workdir=run", *given)
    assert result.status == 0, result.err
    assert (tmp_path / "run" / "variants" / "soft_cap.py").read_text() == SOFT_CAP
    assert command("--mode=evaluate", "--workdir=run", f"--variants={variant}").status == 0
    registry.forget(variant)
    spy = tmp_path / "run" / "variants" / "soft_cap.py"
    spy.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + SOFT_CAP)
    for mode in ("evaluate", "translate", "export"):
        refused = command(f"--mode={mode}", "--workdir=run", *(["--output=out"] if mode == "export" else []))
        assert refused.status == 2 and "--variants=" in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "ran").exists()


def test_two_files_of_one_name_are_refused(variant, tmp_path):
    """A workdir keeps a copy of each under its name, and --variants finds them by it."""
    other = tmp_path / "other" / variant.name
    other.parent.mkdir()
    other.write_text(SOFT_CAP.replace("30.0", "20.0"))
    config = settings.override(
        with_attention(f"{variant}:SoftCap"),
        {"model.layer_pattern": "local", "model.layer_types.local.attention": f"{other}:SoftCap"},
    )
    error = message(settings.sources, config)
    registry.forget(other)
    assert str(variant) in error and str(other) in error and "rename" in error


def test_names_that_are_registered():
    assert {"multi_head"} <= Attention.registry.keys() and Attention.kind is Attention
    assert {"none", "sinusoidal", "learned", "rotary", "alibi", "t5", "t5_layers", "shaw"} == Positions.registry.keys()


def of_a_layer_type(variant, **more):
    named = {"attention": f"{variant}:SoftCap"} | {f"attention.{name}": value for name, value in more.items()}
    below = {f"model.layer_types.local.{name}": value for name, value in named.items()}
    return settings.override(Config(), {"model.layer_pattern": "local", "model.positions": "none"} | below)


def test_a_layer_type_s_class_is_recorded_as_the_model_s_is(variant, tmp_path, monkeypatch):
    """Its file is hashed, copied for the record, loaded by other processes, and refused if it has changed."""
    monkeypatch.chdir(tmp_path)
    config = of_a_layer_type(variant, cap="30")
    local = config.model.layers_of_period("decoder")[0]
    assert type(local.attention).__name__ == "SoftCap" and local.attention.cap == 30
    written = json.loads(json.dumps(settings.to_dict(config)))
    assert written["model"]["layer_types"]["local"]["attention"]["sources"].keys() == {"soft_cap.py"}
    assert settings.from_dict(written, Config) == config
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).model.layers_of_period('decoder')[0].attention.cap)"
    there = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config), capture_output=True, cwd=ROOT)
    assert there.stdout == b"30.0\n", there.stderr
    workdir = workdirs.create(tmp_path / "run", config, print)
    assert (workdir.path / "variants" / "soft_cap.py").read_text() == SOFT_CAP and workdir.config() == config
    known = Run("a", 0, config).hash
    variant.write_text(SOFT_CAP + "\n# another line\n")
    assert Run("a", 0, config).hash != known
    error = message(workdir.config)
    assert "model.layer_types.local.attention" in error and "soft_cap.py has changed" in error
    registry.forget(variant)
    for name in ("attention", {"component": "soft_cap.py:SoftCap"}, "soft_cap.py:SoftCap"):
        if name != "attention":  # as it is written, then as a hand may write it
            written["model"]["layer_types"]["local"]["attention"] = name
            (workdir.path / "config.json").write_text(json.dumps(written))
        error = message(workdir.config)
        assert "model.layer_types.local.attention" in error and "--variants=soft_cap.py" in error


def test_a_layer_type_may_have_an_object(variant):
    """The object's own settings are used, not the defaults of its class."""
    made = with_attention(f"{variant}:SoftCap", cap="30", bias="false").model.attention
    config = settings.override(Config(), {"model.layer_pattern": "local", "model.positions": "none"})
    config = settings.replace(config, "model.layer_types", settings.Variations({"local": {"attention": made}}))
    assert config.model.layers_of_period("encoder")[0].attention == made


# --- classes of experiment files, scripts and notebooks ------------------------------------------------------------------

EXPERIMENT = f"""{SOFT_CAP}

from transformer.config import Config, Model

def get_config():
    return Config(model=Model(attention=SoftCap(cap=30.0)))
"""


def test_an_experiment_file_may_define_the_class_that_it_uses(variant):
    """It is recorded and read again; the file may change in the meantime, as in a notebook."""
    variant.write_text(EXPERIMENT)
    config = validate(fitting.read(variant, {"model.d_model": "32", "model.num_heads": "4"}))
    assert settings.from_dict(json.loads(json.dumps(settings.to_dict(config))), Config) == config
    assert fitting.read(variant, {"model.d_model": "32", "model.num_heads": "4"}) == config
    variant.write_text(EXPERIMENT.replace("cap=30.0", "cap=20.0"))
    assert fitting.read(variant, {}).model.attention.cap == 20
    registry.forget(variant)


SCRIPT = """
from transformer import settings
from transformer.validation import validate

config = validate(get_config())
assert settings.from_dict(settings.to_dict(config), Config) == config
"""


def test_a_script_may_define_the_class_that_it_uses(variant):
    variant.write_text(EXPERIMENT + SCRIPT)
    there = subprocess.run([sys.executable, variant], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert there.returncode == 0, there.stderr.decode()


def test_a_class_without_a_file_is_one_line():
    """As in a cell of a notebook."""
    names = {"__name__": "a_cell"}
    exec(compile(SOFT_CAP.replace("@dataclasses.dataclass(frozen=True, kw_only=True)\n", ""), "cell", "exec"), names)  # noqa: S102
    error = message(validate, settings.replace(Config(), "model.attention", names["SoftCap"]()))  # type: ignore[operator]
    assert "SoftCap" in error and "FILE.py:SoftCap" in error
