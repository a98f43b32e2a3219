"""The lock: one run at a time; a second one is refused with a one-line error; the lock is released however its owner ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transformer.errors import UserError
from transformer.runtime.lock import NAME, only_run

ROOT = Path(__file__).resolve().parents[2]
HOLDS = """
import subprocess, sys
from pathlib import Path
from transformer.runtime.lock import only_run
with only_run(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught, only_run(folder):
        pass
    return str(caught.value)


def test_another_process_is_refused_until_the_owner_is_killed(tmp_path):
    """Also if a program that the owner started is still running."""
    words = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        child = int(owner.stdout.readline())
        try:
            text = refused(tmp_path)
            assert f"--workdir={tmp_path}: it is in use by a run (process {owner.pid})" in text
            owner.kill()
            owner.wait()
            os.kill(child, 0)  # it is there still
            assert (tmp_path / NAME).exists()
            with only_run(tmp_path):
                assert f"(process {os.getpid()})" in refused(tmp_path)
                assert f"(process {os.getpid()})" in refused(tmp_path)  # being refused takes nothing away
        finally:
            os.kill(child, signal.SIGKILL)
    assert not (tmp_path / NAME).exists()


def test_an_error_gives_it_back_and_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_run(folder):
            assert os.listdir(folder) == [NAME]
            _ = 1 / 0
        assert not folder.exists()
    with only_run(folder):
        (folder / "mine").write_text("")
    assert os.listdir(folder) == ["mine"]
    folder.joinpath("mine").unlink()
    with only_run(folder):
        pass
    assert folder.is_dir()  # it was there before


def test_a_lock_file_that_its_owner_took_away_meanwhile_is_none(tmp_path, monkeypatch):
    """The file is opened before its owner ends and locked afterwards: the next process would lock another file, and both would
    run."""
    real, taken = os.open, []

    def opened(path, *rest):
        descriptor = real(path, *rest)
        if not taken:
            taken.append(os.unlink(path))
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    with only_run(tmp_path):
        assert taken and str(os.getpid()) in refused(tmp_path)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert f"--workdir={tmp_path / 'file' / 'run'} cannot be made or written (Not a directory)" in refused(
        tmp_path / "file" / "run"
    )
