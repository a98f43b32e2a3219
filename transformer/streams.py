"""Standard streams of a command that may be closed, full, or a pipe whose reader has left."""

import contextlib
import io
import os
import sys
from typing import Any, BinaryIO

from transformer.errors import UserError


def prepare() -> None:
    """Makes stdout UTF-8 whatever the locale, and its failures UserErrors; a closed stderr is /dev/null.

    UserError: stdout is closed.
    """
    for descriptor in (0, 2):  # otherwise the next opened file would get this descriptor, and output would go there
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if sys.stdout is None:
        raise UserError("stdout is closed, and results are written to it; open it, with >FILE or >/dev/null")
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # not a file: the caller reads it from memory
        if isinstance(sys.stdout, io.TextIOWrapper):  # otherwise it takes text, not bytes
            sys.stdout.reconfigure(encoding="utf-8")
        return
    sys.stdout.flush()
    buffer = io.BufferedWriter(_Stdout(descriptor, "w", closefd=False))
    sys.stdout = io.TextIOWrapper(buffer, "utf-8", line_buffering=sys.stdout.isatty())


class _Stdout(io.FileIO):
    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_stdout()
            raise UserError(f"stdout cannot be written ({error.strerror}); write to another file") from error


def discard_stdout() -> None:
    """Sends remaining output to /dev/null, because Python flushes once more when it ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stdin(instead: str) -> BinaryIO:
    """stdin as bytes. UserError: it is closed; use `instead`."""
    if sys.stdin is None:
        raise UserError(f"stdin is closed; use {instead}")
    return sys.stdin.buffer
