"""Files and folders that appear at once and whole, so that a stopped run leaves no half of one; and shipped files."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"  # of the checkout, or beside the installed package


def shipped(path: str | Path) -> Path:
    """`path`, or, if there is no such file here, the file of that name that ships with the package.

    `experiments/number_words.py` then names the same file in every folder.
    """
    path = Path(path).expanduser()
    if path.parts[:1] == (EXPERIMENTS.name,) and not path.exists():
        found = EXPERIMENTS.parent / path
        return found if found.exists() else path
    return path


def shipped_name(path: Path) -> str | None:
    """The name by which `shipped` finds a file that ships with the package in the current folder; None: it does not."""
    if EXPERIMENTS not in path.parents:
        return None
    name = path.relative_to(EXPERIMENTS.parent)
    return str(name) if shipped(name).resolve() == path else None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end; if another run made `path` meanwhile, that one stays."""
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
    """A file's name to write to, whose file takes the place of `path` at the end; nothing changes if writing fails.

    What is there and is no file, such as /dev/null or a pipe, is written to as it is, and stays; so does a link.
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


def _beside(path: Path) -> Path:
    """A name that nobody has, in the same folder: process numbers would not do, containers share them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
