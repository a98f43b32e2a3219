"""The command line: errors for wrong input, help, exit status, and modules that it never imports."""

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trained
from trained import ROOT, command

from transformer import cli, modes, registry, streams
from transformer.cli import flags
from transformer.components.positions import Positions
from transformer.config import Config, Train
from transformer.data import prepare
from transformer.errors import BUG, UserError
from transformer.inference import predict
from transformer.inference.translate import Translator
from transformer.runtime.workdir import Workdir
from transformer.settings import fields, replace, text_of
from transformer.training import step

# --- wrong input: one line, exit status 2, nothing compiled, nothing left behind ------------------------------------------

Prepare = Callable[[Path], object]


def corpus(**contents: bytes | None) -> Prepare:
    """Two valid splits, except for the given files (an underscore means a dot; None: the file is missing)."""

    def prepare(folder: Path) -> None:
        trained.write_corpus(folder / "data")
        for name, content in contents.items():
            path = folder / "data" / name.replace("_", ".")
            path.unlink()
            if content is not None:
                path.write_bytes(content)

    return prepare


def nothing(folder: Path) -> None:
    pass


def file_as_workdir(folder: Path) -> None:
    (folder / "run").write_text("")


def experiment(text: str) -> Prepare:
    return lambda folder: (folder / "mine.py").write_text(text)


def flagfile(folder: Path) -> None:
    (folder / "flags").write_text("# a comment\n--config.model.num_head=4\n")


def labelled(folder: Path) -> None:
    """One file of each kind, and a broken one."""
    (folder / "data").mkdir()
    question = {"id": "q", "question": "b?", "answers": [{"text": "b", "answer_start": 0}]}
    contents = {
        "train.tsv": "yes\ta b\nno\tc d\n",
        "other.tsv": "maybe\ta\n",
        "broken.tsv": "yes\ta b\nno\n",
        "broken.conll": "a O\nb PER\n",
        "broken.json": json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": [question]}]}]}),
        "text.txt": "a b c. d e f.\n\n" * 9,
        "empty.txt": "",
    }
    for name, content in contents.items():
        (folder / "data" / name).write_text(content)


def encoder(kind: str, source: str) -> list[str]:
    settings = {"family": "encoder_only", "objective.kind": kind, "data.source": source, "data.batching": "bucketed"}
    return [f"--config.{name}={value}" for name, value in (settings | {"data.validation": "none", "data.test": "none"}).items()]


CLASSIFY, TAGS = [*encoder("classify", "tsv"), "--config.data.train=train"], encoder("tag", "conll")
ANSWERS, MASKS = encoder("answer", "squad"), [*encoder("masked_lm", "documents"), "--config.data.train=text.txt"]
NUMBERS = ["--config=number_words.py", "--config.data.number_train_size=50", "--config.data.number_test_size=10"]
NUMBERS += ["--config.data.number_small_copies=1"]
SMALL = ["--config.model.d_model=16", "--config.model.num_heads=2"]

# What is wrong: what is there before, the arguments, and parts of the line. {0} is the test's folder.
TRAINING: dict[str, tuple[Prepare, list[str], list[str]]] = {
    "flag": (nothing, ["--inptu=x"], ["--inptu: there is no such flag (see --help); did you mean 'input'?"]),
    "setting as flag": (nothing, ["--beam_size=3"], ["--beam_size: there is no", "did you mean 'config.search.beam_size'?"]),
    "flag without value": (nothing, ["--input"], ["--input", "see --help"]),
    "profile": (nothing, ["--profile=100"], ["--profile=100: expected FIRST:LAST, the numbers of two updates"]),
    "profile backwards": (nothing, ["--profile=9:8"], ["--profile=9:8: expected FIRST:LAST"]),
    "profile from 0": (nothing, ["--profile=0:8"], ["--profile=0:8: expected FIRST:LAST"]),
    "profile past the end": (nothing, ["--profile=149:151"], ["--profile=149:151: the run ends with update 150"]),
    "mode": (nothing, ["--mode=trian"], ["--mode=trian", ", ".join(flags.MODES), "did you mean 'train'?"]),
    "flag of another mode": (nothing, ["--mode=translate", "--source=ab"], ["--source", "translate", "attend or import"]),
    "a default of another mode": (nothing, ["--num_samples=1"], ["--num_samples", "--mode=train", "generate"]),
    "initials of a setting": (nothing, ["--lr=1"], ["--lr", "'config.train.learning_rate'"]),
    "setting of another section": (nothing, ["--config.train.num_heads=2"], ["'model.num_heads'"]),
    "setting in a flagfile": (flagfile, ["--flagfile={0}/flags"], ["--config.model.num_head:", "'model.num_heads'"]),
    "no flagfile": (nothing, ["--flagfile={0}/flags"], ["{0}/flags"]),
    "study without a file": (nothing, ["--mode=ablate"], ["--mode=ablate", "--config="]),
    "line of an experiment": (experiment("x = 1\n1 / 0\n"), ["--config=mine.py"], ["mine.py", "ZeroDivisionError", "line 2"]),
    "positional": (nothing, ["train"], ["train: arguments are flags, --name=value; see --help"]),
    "setting": (nothing, ["--config.model.num_head=4"], ["--config.model.num_head:", "did you mean 'model.num_heads'?"]),
    "section": (nothing, ["--config.model=4"], ["--config.model:", "it is a section"]),
    "no value": (nothing, ["--config.model.d_model"], ["--config.model.d_model: a setting needs a value"]),
    "spaced value": (nothing, ["--config.model.d_model", "64"], ["needs a value, --config.model.d_model=VALUE"]),
    "int": (nothing, ["--config.model.d_model=wide"], ["--config.model.d_model=wide: expected int"]),
    "choice": (nothing, ["--config.model.positions=rotray"], ["there is no Positions", "did you mean 'rotary'?"]),
    "bool": (nothing, ["--config.model.attention.qk_norm=maybe"], ["--config.model.attention.qk_norm=maybe: expected bool"]),
    "pair": (nothing, ["--config.data.number_range=5"], ["--config.data.number_range=5: expected int,int"]),
    "limit": (nothing, ["--config.model.dropout_rate=1"], ["config.model.dropout_rate is 1.0: must be below 1"]),
    "nan": (nothing, ["--config.train.learning_rate=nan"], ["config.train.learning_rate is nan: expected float"]),
    "heads": (nothing, ["--config.model.num_heads=7"], ["d_model 32", "num_heads 7", "config.model.d_k"]),
    "odd d_k": (nothing, ["--config.model.positions=rotary", "--config.model.d_k=7"], ["config.model.d_k is 7", "even"]),
    "odd d_model": (
        nothing,
        ["--config.model.positions=sinusoidal", "--config.model.d_model=33", "--config.model.num_heads=3"],
        ["config.model.d_model is 33", "even"],
    ),
    "table too short": (
        nothing,
        ["--config.model.positions=learned", "--config.model.positions.size=39"],
        ["config.model.positions.size 39 is shorter than the longest sequence, 40"],
    ),
    "n best": (nothing, ["--config.search.n_best=3"], ["config.search.n_best 3", "config.search.beam_size 2"]),
    "average": (nothing, ["--config.evaluate.average=3"], ["config.evaluate.average 3", "config.checkpoint.keep_last 2"]),
    "no steps": (nothing, ["--config.train.steps=0"], ["config.train.steps is 0: must be at least 1"]),
    "heads removed": (
        nothing,
        ["--config.evaluate.heads_removed=0.5", "--config.data.validation=none"],
        ["config.evaluate.heads_removed 0.5", "config.data.validation is none"],
    ),
    "score": (
        corpus(),
        ["--config.evaluate.scores=chrf,blue"],
        ["config.evaluate.scores:", "'blue'", "did you mean 'bleu'?"],
    ),
    "no experiment": (nothing, ["--config={0}/nowhere.py"], ["--config={0}/nowhere.py: there is no such file"]),
    "experiment name": (experiment(""), ["--config={0}/mien.py"], ["there is no such file", "did you mean 'mine.py'?"]),
    "no config": (
        experiment("x = 1"),
        ["--config={0}/mine.py"],
        ["mine.py: it has no get_config() that returns a Config; write one"],
    ),
    "study to train": (
        nothing,
        ["--config=experiments/ablations/causal_mask.py"],
        ["it has no get_config() that returns a Config; it is a study: use --mode=ablate"],
    ),
    "name of a shipped experiment": (nothing, ["--config=shakespeare"], ["did you mean 'experiments/shakespeare.py'?"]),
    "name of a shipped variant": (
        nothing,
        ["--config.model.residual=layer_scale.py:ReZero"],
        ["did you mean 'experiments/variants/layer_scale.py'?"],
    ),
    "no file": (corpus(train_de=None), [], ["data/train.de: there is no such file", "config.data.train"]),
    "prefix": (corpus(), ["--config.data.train=trian"], ["data/trian.en", "did you mean 'train.en'?"]),
    "language": (corpus(), ["--config.data.target_language=fr"], ["data/train.fr", "config.data.target_language"]),
    "no test file": (corpus(test_en=None), [], ["data/test.en: there is no such file", "config.data.test"]),
    "empty": (corpus(train_en=b""), [], ["data/train.en: the file is empty"]),
    "not utf-8": (corpus(validation_de=b"A\nB\xff\n"), [], ["data/validation.de: line 2 is not UTF-8"]),
    "lengths": (corpus(train_en=b"a\nb\nc\n"), [], ["train.en has 3 lines", "train.de has 200"]),
    "blank only": (corpus(train_en=b" \n\n", train_de=b"A\nB\n"), [], ["no pair of lines in which both have text"]),
    "no training split": (corpus(), ["--config.data.train=none"], ["config.data.train is none"]),
    "vocabulary": (
        corpus(),
        ["--config.data.vocabulary=bpe", "--config.data.vocabulary_size=9"],
        ["config.data.vocabulary_size 9", "set a larger size"],
    ),
    "number language": (
        nothing,
        [*NUMBERS, "--config.data.target_language=dee"],
        ["config.data.target_language dee: num2words has no such language; did you mean 'de'?"],
    ),
    "too many numbers": (
        nothing,
        [*NUMBERS, "--config.data.number_range=0,60", "--config.data.number_test_range=none"],
        ["config.data.number_train_size 50", "0,60 has 40 numbers beside"],
    ),
    "number range": (
        nothing,
        [*NUMBERS, "--config.data.number_test_range=5,3"],
        ["config.data.number_test_range is 5,3: expected two numbers"],
    ),
    "tfds name": (nothing, ["--config.data.source=tfds"], ["config.data.tfds_name is not set"]),
    "tfds data": (
        nothing,
        ["--config.data.source=tfds", "--config.data.tfds_name=wmt14_translate/de-en", "--config.data.directory={0}/data"],
        ["wmt14_translate/de-en: not prepared in {0}/data", "tfds build"],
    ),
    "workdir is a file": (file_as_workdir, [], ["--workdir={0}/run cannot be made or written"]),
    "workdir in a file": (file_as_workdir, ["--workdir={0}/run/more"], ["--workdir={0}/run/more cannot be made or written"]),
    "not writable": (nothing, ["--workdir=/proc/run"], ["--workdir=/proc/run cannot be made or written"]),
    "no such workdir": (nothing, ["--mode=translate"], ["--workdir={0}/run: there is no such folder", "trains a model there"]),
    "no source": (nothing, ["--mode=attend"], ["--mode=attend needs --source="]),
    "blank source": (nothing, ["--mode=attend", "--source= "], ["--mode=attend needs --source="]),
    "no input": (nothing, ["--mode=translate", "--input={0}/x"], ["--input={0}/x", "No such file"]),
    "input is a folder": (nothing, ["--mode=translate", "--input={0}"], ["--input={0}: Is a directory"]),
    "output is a folder": (nothing, ["--mode=translate", "--output={0}"], ["--output={0}", "Is a directory"]),
    "output in a file": (file_as_workdir, ["--mode=translate", "--output={0}/run/x"], ["--output={0}/run/x"]),
    "split": (nothing, ["--mode=evaluate", "--split=dev"], ["--split=dev", "train, validation, test"]),
    "describe": (nothing, ["--mode=describe", "--config.model.num_heads=7"], ["config.model.num_heads 7"]),
    "no samples": (nothing, ["--mode=generate", "--num_samples=0"], ["num_samples", "see --help"]),
    "seed": (nothing, ["--mode=generate", "--seed=x"], ["--seed=x", "see --help"]),
    "no workdir to generate": (nothing, ["--mode=generate", "--prompt=a"], ["--workdir={0}/run: there is no such folder"]),
    "no workdir to predict": (nothing, ["--mode=predict"], ["--workdir={0}/run: there is no such folder"]),
    "prompt": (nothing, ["--promt=a"], ["--promt: there is no such flag", "did you mean 'prompt'?"]),
    "family": (nothing, ["--config.family=encoder_onyl"], ["expected one of", "did you mean 'encoder_only'?"]),
    "kind": (
        nothing,
        ["--config.objective.kind=causal_lm"],
        ["config.objective.kind causal_lm is for config.family decoder_only, not encoder_decoder, which has translate"],
    ),
    "packed labels": (
        nothing,
        [*CLASSIFY, "--config.data.batching=packed"],
        ["kind classify", "batching=bucketed"],
    ),
    "packed states": (
        nothing,
        ["--config.family=recurrent", "--config.model.positions=sinusoidal"],
        ["family recurrent", "batching=bucketed"],
    ),
    "kind to describe": (
        nothing,
        ["--mode=describe", "--config.family=encoder_only"],
        ["config.objective.kind translate is for", "not encoder_only, which has masked_lm, classify, embed, tag, answer"],
    ),
    "source of another kind": (
        corpus(),
        [*CLASSIFY, "--config.data.source=text"],
        ["config.data.source text: its examples have source, target, and config.objective.kind needs text, label"],
    ),
    "tsv": (labelled, [*CLASSIFY, "--config.data.train=broken"], ["broken.tsv: line 2 has 1 field", "label TAB text"]),
    "conll": (
        labelled,
        [*TAGS, "--config.data.train=broken"],
        ["broken.conll: line 2: the tag PER is neither O nor B- or I-"],
    ),
    "squad": (
        labelled,
        [*ANSWERS, "--config.data.train=broken"],
        ["broken.json: data[0].paragraphs[0].qas[0].answers[0]", "'b' is not at character 0"],
    ),
    "no documents": (labelled, [*MASKS, "--config.data.train=empty.txt"], ["empty.txt: the file is empty"]),
    "slice": (labelled, [*MASKS, "--config.data.train=text.txt[50:]"], ["text.txt[50:]: a slice needs whole percents"]),
    "prefix of documents": (labelled, [*MASKS, "--config.data.prefix=a: "], ["config.data.prefix"]),
    "init from nothing": (corpus(), ["--config.train.init_from={0}/other"], ["--workdir={0}/other: there is no such folder"]),
}


@pytest.fixture
def nothing_compiled(monkeypatch):
    trained.run()

    def fail(*arguments, **more):
        pytest.fail("wrong input must be found before anything is compiled")

    monkeypatch.setattr(step, "make_train_step", fail)
    monkeypatch.setattr(Translator, "translate", fail)


def check(result: trained.Result, parts: list[str], folder: Path) -> None:
    assert result.status == 2 and result.out == ""
    assert result.err.startswith("launch.py: ") and result.err.count("\n") == 1 and result.err.endswith("\n"), result.err
    for part in parts:
        assert part.replace("{0}", str(folder)) in result.err
    assert len(result.err) < 600


def stored(arguments: list[str]) -> bool:
    """Whether the mode uses the settings in the workdir."""
    return any(a.startswith("--mode=") and a != "--mode=describe" for a in arguments)


@pytest.mark.parametrize("name", TRAINING)
def test_wrong_input(name, tmp_path, monkeypatch, nothing_compiled):
    prepare, arguments, parts = TRAINING[name]
    prepare(tmp_path)
    (tmp_path / "tiny.py").write_text(trained.EXPERIMENT)
    (tmp_path / "number_words.py").write_text((ROOT / "experiments" / "number_words.py").read_text())
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    filled = [argument.replace("{0}", str(tmp_path)) for argument in arguments]
    default = [f"--workdir={tmp_path / 'run'}", *([] if stored(arguments) else ["--config=tiny.py"])]
    result = command(*default, *filled)
    check(result, parts, tmp_path)
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == before


# The same, but known once the text is tokens: lines that tell of it come before.
READ: dict[str, tuple[Prepare, list[str], str]] = {
    "too long": (
        corpus(train_en=b"abc\n" * 3, train_de=b"ABC\n" * 3),
        ["--config.data.max_source_length=2", "--config.data.max_target_length=2"],
        "3 of 3 examples take more than 2",
    ),
    "label": (
        labelled,
        [*CLASSIFY, "--config.data.test=other"],
        "config.data.test other: example 1 of this split or slice has the label 'maybe', which no training example has; "
        "did you mean 'yes'?; "
        "the labels are no, yes: ",
    ),
    "one document": (
        labelled,
        [*MASKS, "--config.objective.next_sentence=true", "--config.data.document=file"],
        "config.objective.next_sentence: all text is one document",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_wrong_text(name, tmp_path, nothing_compiled):
    prepare, arguments, error = READ[name]
    prepare(tmp_path)
    where = [f"--workdir={tmp_path / 'run'}", f"--config.data.directory={tmp_path / 'data'}"]
    result = command(f"--config={trained.run().experiment}", *where, *arguments)
    assert result.status == 2 and result.out == "" and not (tmp_path / "run").exists()
    assert result.err.splitlines()[-1].startswith(f"launch.py: {error}")


def damaged(text: str) -> Prepare:
    return lambda workdir: (workdir / "config.json").write_text(text)


def without_validation(workdir: Path) -> None:
    values = json.loads((workdir / "config.json").read_text())
    values["data"]["validation"] = None
    values["train"]["evaluate_every"] = Train().evaluate_every
    (workdir / "config.json").write_text(json.dumps(values))


def without(name: str) -> Prepare:
    return lambda workdir: (workdir / name).rename(workdir.parent / "away")


def as_it_is(workdir: Path) -> None:
    pass


# The same of a trained run, a copy of it, spoilt or not. {0} is the copy.
TRAINED: dict[str, tuple[Prepare, list[str], list[str]]] = {
    "other configuration": (
        as_it_is,
        [*SMALL, "--config.train.seed=1"],
        ["--workdir={0} was made with other settings: model.d_model: 32 -> 16, train.seed: 0 -> 1"],
    ),
    "fewer steps": (as_it_is, ["--config.train.steps=149"], ["{0} has 150 updates already, config.train.steps is 149"]),
    "no settings": (without("config.json"), [], ["{0}: it has checkpoints", "no config.json"]),
    "no settings to translate": (without("config.json"), ["--mode=translate"], ["{0}: it has no config.json"]),
    "no checkpoint": (without("checkpoints"), ["--mode=translate"], ["{0}/checkpoints has no checkpoint; train first"]),
    "no vocabulary": (without("vocabulary"), ["--mode=evaluate"], ["{0}/vocabulary: there is no vocabulary"]),
    "no data_info": (without("data_info.json"), ["--mode=translate"], ["{0}: it has no data_info.json yet"]),
    "damaged settings": (damaged("{"), ["--mode=translate"], ["{0}/config.json: damaged, line 1"]),
    "unknown settings": (damaged('{"modle": {}}'), ["--mode=translate"], ["{0}/config.json: unknown setting modle"]),
    "fixed setting": (
        as_it_is,
        ["--mode=translate", "--config.model.d_ff=64"],
        ["{0} was trained with other settings", "model.d_ff: 32 -> 64"],
    ),
    "setting": (as_it_is, ["--mode=translate", "--config.beam_size=3"], ["did you mean 'search.beam_size'?"]),
    "n best": (as_it_is, ["--mode=translate", "--config.search.n_best=3"], ["config.search.n_best 3"]),
    "no split": (without_validation, ["--mode=evaluate", "--split=validation"], ["config.data.validation is none"]),
    "heads": (as_it_is, ["--mode=evaluate", "--config.evaluate.heads_removed=2"], ["config.evaluate.heads_removed is 2.0"]),
    "too few heads": (
        as_it_is,
        ["--mode=evaluate", "--config.evaluate.heads_removed=0.01"],
        ["config.evaluate.heads_removed 0.01", "none of 6 heads"],
    ),
    "score": (as_it_is, ["--mode=evaluate", "--config.evaluate.scores=blue"], ["config.evaluate.scores:", "'bleu'"]),
    "mode of another kind": (
        as_it_is,
        ["--mode=predict"],
        ["--mode=predict: config.family encoder_decoder", "translate has the modes train, evaluate, translate, attend"],
    ),
    "generate with a translator": (as_it_is, ["--mode=generate", "--prompt=a"], ["--mode=generate:", "has the modes train"]),
    "another kind": (
        as_it_is,
        ["--config.objective.kind=denoise"],
        ["{0} was made with other settings: objective.kind: translate -> denoise"],
    ),
    "data elsewhere": (
        as_it_is,
        ["--mode=evaluate", "--config.data.directory=/nowhere"],
        ["/nowhere/test.en: there is no such file"],
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_wrong_input_to_a_trained_run(name, tmp_path, monkeypatch, nothing_compiled):
    prepare, arguments, parts = TRAINED[name]
    run = trained.run()
    copy = run.copy(tmp_path)
    prepare(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    monkeypatch.chdir(run.folder)
    default = [] if stored(arguments) else [f"--config={run.experiment}"]
    result = command(*default, f"--workdir={copy}", *arguments, stdin=b"ab\n")
    check(result, parts, copy)
    assert {path for path in copy.rglob("*") if path.is_file()} == set(before)


def test_enough_is_checked():
    assert len(TRAINING) + len(TRAINED) >= 60


def test_the_default_workdir_is_named_after_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(trained.EXPERIMENT)
    assert "--workdir=runs/number_words: there is no such folder" in command("--mode=translate").err
    assert "--workdir=runs/mine: there is no such folder" in command("--mode=translate", "--config=mine.py").err


def given(monkeypatch, mode: str, *arguments: str, **more) -> list:
    """The arguments that the command passes to its mode, which does nothing."""
    handed = []
    monkeypatch.setattr(modes, mode, lambda *given, **more: handed.append(given))
    result = command(f"--mode={mode}", *arguments, **more)
    assert (result.status, result.out, result.err) == (0, "", "")
    return list(handed[0])


@pytest.mark.parametrize("mode", ["train", "describe"])
def test_a_workdir_alone_has_the_settings_stored_there(monkeypatch, mode):
    config = given(monkeypatch, mode, f"--workdir={trained.run().workdir}", "--config.train.steps=160")[0]
    assert config == replace(Workdir(trained.run().workdir).config(), "train.steps", 160)


def test_a_workdir_that_is_new_has_the_settings_of_the_default_job(monkeypatch, tmp_path):
    config = given(monkeypatch, "train", f"--workdir={tmp_path}")[0]
    assert config.data.source == "number_words"


def test_a_named_file_is_held_against_the_workdir(monkeypatch, tmp_path):
    """In every mode: free settings of the file are used, and the others must not differ."""
    run, mine = trained.run(), tmp_path / "mine.py"
    mine.write_text(
        run.experiment.read_text().replace("average=2", "average=1").replace('"data"', repr(str(run.folder / "data")))
    )
    flags = [f"--config={mine}", f"--workdir={run.workdir}"]
    overrides = given(monkeypatch, "translate", *flags, "--config.search.beam_size=3")[1]
    assert overrides == {"search.beam_size": "3", "evaluate.average": "1"}
    mine.write_text(run.experiment.read_text().replace("d_ff=32", "d_ff=64"))
    result = command("--mode=translate", *flags)
    assert result.status == 2 and "model.d_ff" in result.err and result.err.count("\n") == 1


def test_the_users_folder_is_known_by_its_short_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = given(monkeypatch, "translate", "--workdir=~/a", "--input=~/b", "--output=~/c")
    assert [paths[0], *paths[2:]] == [tmp_path / "a", f"{tmp_path}/b", f"{tmp_path}/c"]
    assert given(monkeypatch, "attend", "--source=~/a")[2] == "~/a"  # a sentence
    (tmp_path / "mine.py").write_text(trained.EXPERIMENT)
    data = "--config.data.directory=~/d", "--config.data.mixture=~/e:1", "--config.train.init_from=~/f"
    config = given(monkeypatch, "train", "--config=~/mine.py", *data)[0]
    found = config.data.directory, config.data.mixture, config.train.init_from
    assert found == (f"{tmp_path}/d", (f"{tmp_path}/e:1",), f"{tmp_path}/f")


def test_a_flagfile_may_have_settings(monkeypatch, tmp_path):
    (tmp_path / "flags").write_text("--config.train.steps=7\n--workdir=x\n")
    config, workdir, _ = given(monkeypatch, "train", f"--flagfile={tmp_path / 'flags'}", "--config.train.seed=3")
    assert (config.train.steps, config.train.seed, workdir) == (7, 3, Path("x"))


# --- standard streams that are full or closed ----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--mode=describe"]])
def test_a_full_disk_behind_stdout_is_a_line(arguments):
    with open("/dev/full", "w") as full:
        result = command(*arguments, stdout=full)
    assert result.status == 2 and "stdout" in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--mode=translate"], ["--mode=generate"]])
def test_a_closed_stdin_is_a_line(monkeypatch, tmp_path, arguments):
    monkeypatch.setattr(predict, "load", lambda *a: None)
    monkeypatch.setattr(streams, "prepare", lambda: setattr(sys, "stdin", None))
    result = command(f"--workdir={tmp_path}", *arguments)
    assert result.status == 2 and "stdin" in result.err and result.err.count("\n") == 1


def test_stdout_may_be_text_in_memory():
    with contextlib.redirect_stdout(io.StringIO()) as kept:
        streams.prepare()
        print("\u00e9")
    assert kept.getvalue() == "\u00e9\n"


def test_a_closed_stdout_is_a_line(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UserError, match="stdout"):
        streams.prepare()


def test_an_interrupted_command_says_so(monkeypatch, tmp_path):
    def interrupt(*arguments, **named) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "encode_split", interrupt)
    run = trained.run()
    monkeypatch.chdir(run.folder)
    result = command(f"--config={run.experiment}", f"--workdir={tmp_path / 'run'}")
    assert result.status == "launch.py: interrupted"  # Python prints it, and exits with 1
    assert (tmp_path / "run" / "vocabulary").is_dir()  # the same command resumes with it


def test_what_is_not_installed_is_a_line(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "transformer.cli.main", raising=False)
    monkeypatch.setitem(sys.modules, "absl", None)
    with pytest.raises(SystemExit) as ended:
        cli.run()
    error_output = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and "absl" in error_output
        and "requirements.txt" in error_output
        and error_output.count("\n") == 1
    )


def test_a_bug_keeps_its_traceback(monkeypatch):
    def crash(*arguments) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(modes, "describe", crash)
    monkeypatch.setattr(registry, "_FILES", {})
    with pytest.raises(ZeroDivisionError) as raised:
        command("--mode=describe")
    assert raised.value.__notes__ == [BUG]


def test_an_error_beside_a_variant_is_not_called_a_bug_at_once(monkeypatch, tmp_path):
    """The hook of a variant may give an array of another shape, which fails in a line of the library."""
    text = "from transformer.components.residuals import *\n\nclass Wide(Residual):\n"
    (tmp_path / "wide.py").write_text(text + "    def open(self, x):\n        return x[:, :, None]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FILES", {})
    with pytest.raises(Exception) as raised:
        command("--mode=describe", *SMALL, "--config.model.residual=wide.py:Wide")
    assert raised.value.__notes__[-1].startswith("First try --mode=check, which tells whether a hook in wide.py causes this.")


# --- help --------------------------------------------------------------------------------------------------------------


def test_help_lists_everything():
    result = command("--help=all")
    assert (result.status, result.err) == (0, "")
    lines, text = result.lines, " ".join(result.out.split())
    assert max(map(len, lines)) <= 120
    for name, _, field, value in fields(Config()):
        assert [line for line in lines if line.startswith(f"  {name}={text_of(value)}  ")], name
        assert " ".join(field.metadata["meaning"].split()) in text, name


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_is_short_and_names_what_there_is(flag):
    result = command(flag)
    assert (result.status, result.err) == (0, "")
    lines = result.lines
    assert len(lines) < 100 and max(map(len, lines)) <= 120
    for name in [field.name for field in dataclasses.fields(Config) if field.name != "family"]:
        assert [line for line in lines if re.match(f"  {name} +[A-Z]", line)], name
    named = "mode config workdir split input output prompt num_samples seed source target profile log_level"
    for name in named.split():
        assert [line for line in lines if line.startswith(f"  --{name}=")], name
    for mode in flags.MODES:
        assert [line for line in lines if re.match(f"  {mode} +[a-z]", line)], mode


def test_help_says_what_may_be_chosen():
    assert "<train|validation|test>" in command("--help").out
    section = command("--help=model")
    assert section.status == 0 and "train.steps" not in section.out and "model.d_model=512" in section.out
    assert command("--help=config.model").out == section.out == command("--help", "model").out
    text = " ".join(section.out.split())
    assert f"(one of {', '.join(Positions.registry)}, or FILE.py:Class)" in text and "rotary" in Positions.registry
    assert all(part in text for part in ("model.positions=rotary: ", "scaling=yarn: ", "model.positions.base=10000.0"))
    wrong = command("--help=modle")
    assert wrong.status == 2 and "--help=modle" in wrong.err and "did you mean 'model'?" in wrong.err


# --- processes of their own --------------------------------------------------------------------------------------------


def python(code: str, folder: Path, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
    """Runs `code` with the package importable, as in a user's process: without the settings of the tests, except for fast
    compilation."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True, **more
    )


def test_help_and_typing_errors_do_not_wait_for_the_models(tmp_path):
    code = """
import sys
from transformer import cli
for arguments in (["--help=model"], ["--inptu=x"], ["--config.model.num_head=3"]):
    sys.argv = ["launch.py", *arguments]
    try:
        cli.run()
    except SystemExit as end:
        print("status", end.code)
print([name for name in ("flax", "optax", "tensorflow", "matplotlib") if name in sys.modules])
"""
    result = python(code, tmp_path)
    assert result.stdout.endswith("status 2\nstatus 2\n[]\n"), result.stdout[-500:] + result.stderr
    assert "model.num_heads=8" in result.stdout
    assert result.stderr.splitlines() == [
        "launch.py: --inptu: there is no such flag (see --help); did you mean 'input'?",
        "launch.py: --config.model.num_head: there is no such setting; did you mean 'model.num_heads'?",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_with_status_2_and_with_0_on_a_closed_pipe(tmp_path):
    wrong = subprocess.run([sys.executable, ROOT / "launch.py", "train"], cwd=tmp_path, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("launch.py: train: ") and wrong.stderr.count("\n") == 1
    reading, writing = os.pipe()
    os.close(reading)
    closed = subprocess.run([sys.executable, ROOT / "launch.py", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.slow
def test_tensorflow_is_never_imported(tmp_path):
    """Training on a synthetic TFDS data set, and translating, where TensorFlow cannot be imported."""
    code = """
import importlib.machinery, io, sys
class Blocker:  # TensorFlow seems to be installed, and cannot be imported
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_text", "tf_keras", "keras"):
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise AssertionError(f"{spec.name} is imported")
    exec_module = create_module
sys.meta_path.insert(0, Blocker())
from transformer import cli
for arguments in (sys.argv[1:], ["--mode=translate"]):
    sys.argv = ["launch.py", "--workdir=run", "--config.search.batch_size=4", *arguments]
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"seven\\n"))
    try:
        cli.run()
    except SystemExit as end:
        assert not end.code, end.code
print("loaded:", [name for name in sys.modules if name.partition(".")[0] == "tensorflow"], "tensorflow_datasets" in sys.modules)
"""
    settings = {
        "data.number_range": "0,100",
        "data.number_test_range": "none",
        "data.number_small_copies": 1,
        "data.number_train_size": 50,
        "data.number_test_size": 4,
        "data.vocabulary": "bytes",
        "data.validation": "none",
        "data.max_source_length": 100,
        "data.max_target_length": 100,
        "model.num_encoder_layers": 1,
        "model.num_decoder_layers": 1,
        "model.d_model": 8,
        "model.d_ff": 8,
        "model.num_heads": 2,
        "train.steps": 1,
        "train.batch_tokens": 256,
        "search.beam_size": 1,
        "search.max_extra": 1,
    }
    result = python(code, tmp_path, *(f"--config.{name}={value}" for name, value in settings.items()))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "loaded: [] True"
    assert len((tmp_path / "run" / "evaluation" / "test.txt").read_text().splitlines()) >= 8
