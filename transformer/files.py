"""Files and folders that appear at once and whole, so that a stopped run leaves no half of one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end; if another run made `path` meanwhile, that one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=path.name + ".", dir=path.parent))
    try:
        yield folder
        os.chmod(folder, 0o777 & ~_umask())  # mkdtemp makes it private
        try:
            folder.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file's name to write to, whose file takes the place of `path` at the end; nothing changes if writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
