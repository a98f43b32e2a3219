"""One run in a workdir at a time: a lock that the system releases when its owner ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from transformer.errors import UserError, no_failure

NAME = ".lock"  # a file with the owner's process id; what a killed run leaves of it locks nothing


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """The folder for this run alone; it is made if it is missing, and gone again if nothing was put there.

    Who only reads needs no lock. UserError: another run has it, or it cannot be made or written.
    """
    with no_failure(f"--workdir={folder}", "made or written"):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder)
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)  # while it is locked: nobody else's can be met
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
        os.close(descriptor)  # its owner ended, and took the name away, between our opening and locking it
