"""Wrong input: one line that names the thing, the location and the remedy; exit status 2; nothing is run, written or lost."""

import os
import shlex
import subprocess
import sys

import jax.numpy as jnp
import pytest
from bad import BAD
from places import copy, powerless
from trained import ROOT, command

from transformer import modes
from transformer.cli import flags
from transformer.errors import BUG
from transformer.inference.generate import Generator
from transformer.inference.label import Labeller
from transformer.inference.translate import Translator
from transformer.training import loop


def nothing_runs(monkeypatch):
    """No mode may run from here on."""

    def fail(*arguments, **more):
        raise AssertionError("wrong input must be found before anything is run")

    for where, name in ((loop, "train"), (Translator, "_chunk"), (Generator, "_draw"), (Labeller, "_apply")):
        monkeypatch.setattr(where, name, fail)


def held(folder):
    """All files with their contents."""
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts and not path.is_dir())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def default(command):
    """A workdir has its own settings."""
    has_own = "--mode=" in command and not {"--mode=describe", "--mode=ablate", "--mode=check"} & {*command.split()}
    return ["--workdir=run"] if has_own else ["--config=tiny.py", "--workdir=run"]


@pytest.mark.parametrize("name", BAD)
def test_wrong_input(name, tmp_path, monkeypatch):
    bad = BAD[name]
    copy(bad.place, tmp_path)
    bad.spoil(tmp_path)
    nothing_runs(monkeypatch)
    monkeypatch.chdir(tmp_path)
    before = held(tmp_path)
    with powerless():
        result = command(*default(bad.command), *shlex.split(bad.command), stdin=bad.stdin)
    lines = result.err.splitlines()
    assert result.status == 2 and result.out == "", result
    assert result.err.endswith("\n") and lines[-1].startswith("launch.py: "), result.err
    assert bad.more_lines or len(lines) == 1, result.err
    for part in bad.says:
        assert part in lines[-1]
    assert "Traceback" not in result.err and "Errno" not in lines[-1] and len(lines[-1]) < 900
    after = held(tmp_path)
    assert {
        file: content for file, content in after.items() if before.get(file) != content
    } == {} and after.keys() == before.keys()


def test_enough_is_wrong():
    assert len(BAD) >= 60
    used = " ".join(bad.command for bad in BAD.values())
    for mode in flags.MODES.keys() - {"train"}:  # train needs no flag
        assert f"--mode={mode}" in used, mode


def test_too_little_memory_gives_a_one_line_error(monkeypatch, tmp_path):
    copy("translator", tmp_path)
    monkeypatch.setattr(Translator, "_chunk", lambda *arguments, **more: jnp.zeros(2**46).sum())
    result = command(f"--workdir={tmp_path / 'run'}", "--mode=translate", stdin=b"ab\n")
    assert result.status == 2 and result.err.count("\n") == 1
    assert result.err.startswith("launch.py: --mode=translate: there is not enough memory; lower ")


def test_a_bug_says_where_to_report_it(monkeypatch):
    def crash(*arguments) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(modes, "describe", crash)
    with pytest.raises(ZeroDivisionError) as found:
        command("--mode=describe")
    assert found.value.__notes__ == [BUG]


def test_processes_of_their_own(tmp_path):
    """As a shell sees it: no traceback, and the correct exit status; in one process, because imports take seconds."""
    copy("translator", tmp_path)
    code = """
import sys
from transformer import cli
for line in sys.stdin.read().splitlines():
    sys.argv = ["launch.py", *line.split()]
    try:
        cli.run()
    except SystemExit as end:
        print(end.code)
"""
    names = ["no beam", "a name too long", "an export without a place", "attention of nothing"]  # in which nothing is spoilt
    ended = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(" ".join([*default(BAD[name].command), BAD[name].command]) for name in names),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout.split()) == (0, ["2"] * len(names))
    lines = ended.stderr.splitlines()
    assert len(lines) == len(names) and all(line.startswith("launch.py: ") for line in lines), ended.stderr
    for name, line in zip(names, lines, strict=True):
        assert all(part in line for part in BAD[name].says), (name, line)
