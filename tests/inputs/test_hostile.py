"""Malicious files: nothing from a workdir, or from a folder of weights or data, is ever executed or fills the memory."""

import ast
import gzip
import os
import pickle
from pathlib import Path

import pytest
from places import copy
from trained import ROOT, command

from transformer.data.sources import reading
from transformer.errors import UserError
from transformer.inference.translate import Translator
from transformer.training import loop


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_the_bomb_explodes(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))  # noqa: S301
    assert (tmp_path / "mark").exists()


PARTS = {
    "config.json": "--mode=translate",
    "data_info.json": "--mode=translate",
    "vocabulary/*": "--mode=translate",
    "checkpoints/**/*": "--mode=translate",
    "checkpoints/**/manifest.json": "--mode=translate",
    "tokens/**/*": "--mode=evaluate",
    "record.json": "--config.train.steps=151",
}


@pytest.mark.parametrize("pattern", PARTS)
def test_no_file_of_a_workdir_is_unpickled(pattern, tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    copy("translator", tmp_path)
    spoilt = [path for path in (tmp_path / "run").glob(pattern) if path.is_file()]
    assert spoilt
    for path in spoilt:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    for where, name in ((loop, "train"), (Translator, "_chunk")):
        monkeypatch.setattr(where, name, lambda *arguments, **more: pytest.fail("it was taken for good"))
    monkeypatch.chdir(tmp_path)
    result = command("--config=tiny.py", "--workdir=run", PARTS[pattern], stdin=b"ab\n")
    assert (result.status, result.out) == (2, "") and result.err.splitlines()[-1].startswith("launch.py: "), result.err
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_no_file_of_theirs_is_unpickled(name, tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    copy("gpt2", tmp_path)
    (tmp_path / "theirs" / name).write_bytes(pickle.dumps(Bomb(mark)))
    monkeypatch.chdir(tmp_path)
    result = command("--mode=import", "--source=theirs", "--workdir=new")
    assert (
        result.status == 2
        and result.err.count("\n") == 1
        and name.partition(".")[0] in result.err.replace("its tokenizer", "tokenizer")
    )
    assert not mark.exists() and not (tmp_path / "new").exists()


def test_what_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "GROWN", 2**22)
    bomb, lines = tmp_path / "bomb.gz", tmp_path / "lines.gz"
    bomb.write_bytes(gzip.compress(bytes(2**25)))  # a single line
    lines.write_bytes(gzip.compress(b"a\n" * 2**23))
    for path in (bomb, lines):
        with pytest.raises(UserError, match=rf"{path}: more than 100 times as large as the .gz.*decompress it yourself"):
            reading.read_lines(path)
    draw = "".join(map(str, range(900_000)))  # text that grows to more than that, but as text does
    text = "\n".join(draw[n : n + 60] for n in range(0, len(draw), 60)) + "\n"
    (tmp_path / "text.gz").write_bytes(gzip.compress(text.encode()))
    assert len(text) > 2**22 and "".join(reading.read_lines(tmp_path / "text.gz")) == text


def test_nothing_that_runs_what_it_reads_is_used():
    """In addition to ruff's rules, which cover calls: no module with this purpose, and no array file that may
    contain objects."""
    for path in [ROOT / "launch.py", *sorted((ROOT / "transformer").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {
                "pickle",
                "cloudpickle",
                "dill",
                "joblib",
                "marshal",
                "shelve",
                "yaml",
                "torch",
            }, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load", "jnp.load"):
                assert any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords), (
                    path,
                    node.lineno,
                )
