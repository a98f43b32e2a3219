"""One run in a workdir at a time: a lock that the system releases when its owner ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from transformer.errors import UserError, no_failure

NAME = ".lock"  # a file with the owner's process id; the file of a killed run locks nothing


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Locks the folder for this run; it is made if it is missing, and removed again if it stays empty.

    Readers need no lock. UserError: another run has locked it, or it cannot be made or written.
    """
    with no_failure(f"--workdir={folder}", "made or written"):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder)
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)  # while it is locked, so that it cannot be that of another run
        os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def _lock(folder: Path) -> int:
    """The locked file, as a descriptor that programs started from here do not inherit."""
    path = folder / NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise UserError(
                f"--workdir={folder}: it is in use by a run (process {owner}); wait until it ends, or choose another --workdir"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner ended and removed the file between our opening and locking it
