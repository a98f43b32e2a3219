"""Atomic writing of files and folders, so that a stopped run leaves no partial ones; and shipped files."""

import contextlib
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"  # in the checkout, or next to the installed package


def shipped(path: str | Path) -> Path:
    """`path`, or, if it does not exist here, the file of that name that ships with the package.

    So `experiments/number_words.py` names the same file in every folder.
    """
    path = Path(path).expanduser()
    if path.parts[:1] == (EXPERIMENTS.name,) and not path.exists():
        found = EXPERIMENTS.parent / path
        return found if found.exists() else path
    return path


def shipped_name(path: Path) -> str | None:
    """The name by which `shipped` finds a file of the package from the current folder, or None."""
    if EXPERIMENTS not in path.parents:
        return None
    name = path.relative_to(EXPERIMENTS.parent)
    return str(name) if shipped(name).resolve() == path else None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` at the end; if another run has made `path` meanwhile, that one is kept."""
    folder = _beside(path)
    folder.mkdir()
    try:
        yield folder
        try:
            folder.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file name, whose file replaces `path` at the end; nothing changes if writing fails.

    If `path` is not a regular file, such as /dev/null or a pipe, it is written directly. A link is kept, its target replaced.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove(paths: Iterable[Path]) -> None:
    """Removes files and folders, with everything in them."""
    for path in list(paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _beside(path: Path) -> Path:
    """An unused name in the same folder. Process ids are not sufficient, because containers may share them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
