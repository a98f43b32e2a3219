"""Files and folders that are written atomically."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from transformer.files import new_file, new_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_folder_appears_at_the_end(tmp_path, umask):
    path = tmp_path / "a" / "b" / "result"
    with new_folder(path) as folder:
        (folder / "x").write_text("1")
        assert not path.exists()
        made = folder.stat().st_ino
    assert path.stat().st_ino == made  # moved in one go, not copied
    assert (path / "x").read_text() == "1" and names(path.parent) == ["result"]
    assert path.stat().st_mode & 0o777 == 0o750


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half way"), new_folder(tmp_path / "result") as folder:
        (folder / "x").write_text("1")
        raise RuntimeError("half way")
    assert names(tmp_path) == []


def test_of_two_folders_the_first_one_stays(tmp_path):
    path, both = tmp_path / "result", threading.Barrier(2)
    failures = []

    def make(name: str) -> None:
        try:
            with new_folder(path) as folder:
                for part in ("x", "y"):
                    (folder / part).write_text(name)
                    both.wait(timeout=30)
        except Exception as error:  # in a thread nobody would hear of it
            failures.append(error)

    threads = [threading.Thread(target=make, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(tmp_path) == ["result"] and names(path) == ["x", "y"]
    assert (path / "x").read_text() == (path / "y").read_text()


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path):
    path = tmp_path / "result"
    path.write_text("mine")
    with pytest.raises(OSError), new_folder(path) as folder:
        (folder / "x").write_text("1")
    assert names(tmp_path) == ["result"] and path.read_text() == "mine"


def test_a_killed_process_leaves_no_half_and_is_in_nobodys_way(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from transformer.files import new_file, new_folder
here = Path({str(tmp_path)!r})
with new_folder(here / "result") as folder, new_file(here / "file") as file:
    (folder / "x").write_text("1")
    file.write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "result").exists() and not (tmp_path / "file").exists()
    with new_folder(tmp_path / "result") as folder, new_file(tmp_path / "file") as file:
        file.write_text("2")
        assert names(folder) == []
    assert names(tmp_path / "result") == [] and (tmp_path / "file").read_text() == "2"


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path, umask):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with new_file(path) as file:
            file.write_text(text)
            assert not path.exists() if text == "first" else path.read_text() == "first"
            made = file.stat().st_ino
        assert path.stat().st_ino == made
        assert path.read_text() == text and names(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_that_fails_changes_nothing(tmp_path, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)
    with pytest.raises(RuntimeError, match="half way"), new_file(path) as file:
        file.write_text("new")
        raise RuntimeError("half way")
    assert names(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_text() == old


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "file", tmp_path / "link"
    path.write_text("old")
    link.symlink_to(path)
    with new_file(link) as file:
        file.write_text("new")
    assert link.is_symlink() and path.read_text() == "new"
    assert names(tmp_path) == ["link", "there"] and names(path.parent) == ["file"]


def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    """For example --output=/dev/stdout: replacing a pipe by a file would lose the output."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with new_file(pipe) as file:
        assert file == pipe
    assert pipe.is_fifo() and names(tmp_path) == ["pipe"]
    with pytest.raises(IsADirectoryError), new_file(tmp_path) as file:
        file.write_text("")
