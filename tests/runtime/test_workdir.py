"""The workdir: files round-trip, nothing is half-written, and errors take one line."""

import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from transformer.config import Config, DataInfo
from transformer.errors import UserError
from transformer.runtime import workdir as module
from transformer.runtime.workdir import Workdir, create, open_existing, read_json, run_record, write_json
from transformer.settings import replace

OTHER = replace(replace(Config(), "model.d_k", 32), "data.number_train_range", (0, 1000))


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def no_notice(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def unwritable():
    """A folder that can be read but not written, even if the tests run as root."""
    folder, root = Path(tempfile.mkdtemp()), os.geteuid() == 0
    folder.chmod(0o755)
    (folder / "run").mkdir()
    create(folder / "run", Config(), no_notice)
    for path in (folder / "run", folder):
        path.chmod(0o555)
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in (folder, folder / "run"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_settings_and_data_info_come_back(tmp_path):
    made, data_info = create(tmp_path / "a" / "run", OTHER, no_notice), DataInfo(10, 20, 16, 32, pad=0, start=5)
    made.write_data_info(data_info)
    assert open_existing(str(tmp_path / "a" / "run")) == made
    assert made.config() == OTHER and made.data_info() == data_info
    again = create(tmp_path / "a" / "run", OTHER, no_notice)
    assert again == made and again.config() == OTHER
    shutil.move(tmp_path / "a" / "run", tmp_path / "moved")
    assert open_existing(tmp_path / "moved").config() == OTHER and open_existing(tmp_path / "moved").data_info() == data_info


def test_its_parts_lie_inside(tmp_path):
    run = Workdir(tmp_path)
    names = [name for name, value in vars(Workdir).items() if isinstance(value, property)]
    places = [getattr(run, name).relative_to(tmp_path).as_posix() for name in names]
    assert sorted(places) == sorted(
        ["config.json", "data_info.json", "record.json", "cuts.json", "vocabulary", "tokens", "checkpoints"]
        + ["metrics.jsonl", "tensorboard", "profile", "pictures"]
    )
    assert run.evaluation_file("test") == tmp_path / "evaluation" / "test.json"


def test_other_settings_are_refused_and_change_nothing(tmp_path):
    made = create(tmp_path, Config(), no_notice)
    before = made.config_file.read_bytes()
    changed = replace(replace(Config(), "model.d_model", 64), "train.steps", 7)
    text = message(create, tmp_path, changed, no_notice)
    assert f"--workdir={tmp_path} was made with other settings: model.d_model: 512 -> 64;" in text
    assert "choose another --workdir or set the old values" in text and "train.steps" not in text
    many = {"model.d_model": 64, "model.d_ff": 65, "model.num_heads": 2, "model.d_k": 3, "model.d_v": 4}
    many |= {"train.seed": 5, "train.batch_tokens": 6, "data.vocabulary_size": 9}
    for name, value in many.items():
        changed = replace(changed, name, value)
    text = message(create, tmp_path, changed, no_notice)
    assert text.count("->") == 6 and "and 2 more;" in text and "model.d_k: None -> 3" in text
    assert made.config_file.read_bytes() == before


def test_free_settings_may_change_and_are_reported(tmp_path):
    made, notices = create(tmp_path, Config(), no_notice), []
    changed = replace(replace(Config(), "train.steps", 7), "search.beam_size", 9)
    create(tmp_path, changed, notices.append)
    assert made.config() == changed
    assert notices == [f"{made.config_file}: changed train.steps: 100000 -> 7, search.beam_size: 4 -> 9"]
    create(tmp_path, changed, no_notice)


def test_settings_unknown_when_it_was_made_have_their_defaults(tmp_path):
    made = create(tmp_path, Config(), no_notice)
    values = json.loads(made.config_file.read_text())
    del values["model"]["logits_bias"]
    made.config_file.write_text(json.dumps(values))
    assert made.config() == Config()


def test_a_folder_that_is_no_workdir_is_named_with_the_remedy(tmp_path):
    create(tmp_path / "number_words", Config(), no_notice)
    text = message(open_existing, tmp_path / "number_word")
    assert f"--workdir={tmp_path / 'number_word'}: there is no such folder; did you mean" in text
    assert repr(str(tmp_path / "number_words")) in text
    assert "did you mean" not in message(open_existing, tmp_path / "heads")  # which has the same parents
    assert f" --workdir={tmp_path / 'number_word'} [" in text
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in message(open_existing, tmp_path / "empty")
    assert "is not a workdir" in message(Workdir(tmp_path / "empty").config)
    assert "has no data_info.json yet" in message(Workdir(tmp_path / "number_words").data_info)
    (tmp_path / "empty" / "checkpoints").mkdir()
    assert "it has checkpoints of a run but no config.json" in message(create, tmp_path / "empty", Config(), no_notice)
    assert os.listdir(tmp_path / "empty") == ["checkpoints"]


def test_a_damaged_file_is_named_with_the_location(tmp_path):
    made = create(tmp_path, Config(), no_notice)
    whole = made.config_file.read_text()
    for content, says in {
        whole[: len(whole) // 2].encode(): "line ",
        b"": "line 1, column 1",
        b'{"family": NaN}': "NaN is not JSON",
        b'{"family": "\xff"}': "utf-8",
        b"[]": "not an object of settings",
        whole.replace('"d_ff"', '"d_fff"').encode(): "unknown setting model.d_fff; did you mean 'd_ff'?",
        whole.replace('"d_ff": 2048', '"d_ff": "many"').encode(): "model.d_ff is 'many', expected int",
        whole.replace('"d_ff": 2048', '"d_ff": 0').encode(): "must be at least 1",
    }.items():
        made.config_file.write_bytes(content)
        text = message(made.config)
        assert text.startswith(str(made.config_file)) and says in text
    made.data_info_file.write_text('{"source_size": 3}')
    assert message(made.data_info).startswith(str(made.data_info_file))


def test_a_folder_that_cannot_be_made_or_written(tmp_path, unwritable):
    for path in (unwritable / "new", unwritable / "run"):  # the second is there, with the same settings
        text = message(create, path, Config(), no_notice)
        assert f"--workdir={path} cannot be made or written (Permission denied)" in text and "another --workdir" in text
    assert open_existing(unwritable / "run").config() == Config()  # reading needs no permission to write
    path = unwritable / "run" / "data_info.json"
    assert f"{path} cannot be written (Permission denied)" in message(write_json, path, {})


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "cannot be made or written (File exists)" in message(create, tmp_path / "file", Config(), no_notice)
    assert "cannot be made or written (Not a directory)" in message(create, tmp_path / "file" / "x", Config(), no_notice)
    assert "it has no config.json" in message(open_existing, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_json_comes_back_and_folders_are_made(tmp_path):
    value = {"a": [1, 2.5, None, True, "ü\n"], "b": {"c": 1e-45, "d": 0.1 + 0.2}}
    write_json(tmp_path / "evaluation" / "test.json", value)
    assert read_json(tmp_path / "evaluation" / "test.json") == value
    assert "ü" in (tmp_path / "evaluation" / "test.json").read_text(encoding="utf-8")
    assert "cannot be read (No such file" in message(read_json, tmp_path / "none.json")


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    for value, says in (
        ({"scores": {"bleu": math.nan}}, "scores.bleu is nan"),
        ({"scores": [1.0, np.float64("inf")]}, r"scores\[1\] is inf"),
    ):
        with pytest.raises(ValueError, match=says):
            write_json(path, value)
    with pytest.raises(TypeError):
        write_json(path, {"object": object()})

    def stopped(self, text, **options):
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", stopped)
    assert f"{path} cannot be written (No space left on device)" in message(write_json, path, {"new": [2] * 99})
    monkeypatch.undo()
    assert read_json(path) == {"old": 1} and os.listdir(tmp_path) == ["x.json"]
    umask = os.umask(0o022)
    try:
        write_json(path, {"new": 2})
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644  # others of the group may read a run


def test_every_start_is_recorded(tmp_path):
    run = create(tmp_path, Config(), no_notice)
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    run.append_record(run_record({"train.en": "abc"}, ["launch.py", "--config=a b.py"]))
    run.append_record(run_record({}))
    first, second = read_json(run.record_file)
    assert first["command"] == "launch.py '--config=a b.py'" and first["data"] == {"train.en": "abc"}
    assert before <= datetime.datetime.fromisoformat(first["started"]) <= datetime.datetime.now(datetime.UTC)
    assert first["versions"]["jax"] == jax.__version__ and first["versions"]["numpy"] == np.__version__
    assert first["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert sum(first["devices"].values()) == len(jax.devices()) and first["cpus"] == os.cpu_count()
    assert second["data"] == {} and second["command"]
    run.record_file.write_text("{}")
    assert "not a list of records" in message(run.append_record, {})
    run.record_file.write_text("[")
    assert f"{run.record_file}: damaged" in message(run.append_record, {})


def test_a_package_that_is_absent_is_absent(monkeypatch):
    monkeypatch.setattr(module, "RECORDED", ("jax", "no-such-package-at-all"))
    assert set(run_record({})["versions"]) == {"python", "jax"}


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_the_code_s_own(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a hook runs the tests
        monkeypatch.delenv(name, raising=False)
    root = tmp_path.resolve()
    (root / "inner").mkdir()
    assert module._code(root) == {}  # no checkout

    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", "-C", root, *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert module._code(root) == {}  # no commit
    (root / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert len(commit) >= 40
    (root / "untracked").write_text("b")
    assert module._code(root) == {"commit": commit, "dirty": False}
    (root / "file").write_text("c")
    assert module._code(root) == {"commit": commit, "dirty": True}
    assert module._code(root / "inner") == {}  # inside the checkout of something else
    monkeypatch.setenv("PATH", str(root / "inner"))
    assert module._code(root) == {}  # no git
