"""What modes share: lines in and out, folders of data."""

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from transformer import streams
from transformer.data import prepare
from transformer.errors import UserError, no_failure
from transformer.files import new_file
from transformer.runtime.workdir import Workdir


def folders(workdir: Workdir) -> prepare.Folders:
    return prepare.Folders(workdir.vocabulary, workdir.tokens, workdir.path / "data")


ONE_LINE = str.maketrans("\n\r\t", "   ")  # what a vocabulary of bytes may say, and a reader of lines would stumble over


def lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8, without their ends; only a newline ends a line."""
    for number in itertools.count(1):
        try:
            if not (line := file.readline()):
                return
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: line {number} is not UTF-8; convert it, for example with iconv") from error
        except OSError as error:
            raise UserError(f"{name}: line {number} cannot be read: {error.strerror}; name a file that can be read") from error


@contextlib.contextmanager
def reader(path: str | None) -> Iterator[BinaryIO]:
    if path is None:
        yield streams.stdin("--input=FILE")
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115  (closed below: here the caller's own errors are not for us)
    except OSError as error:
        raise UserError(f"--input={path}: {error.strerror}; name a file that can be read") from error
    with file:
        yield file


@contextlib.contextmanager
def writer(path: str | None) -> Iterator[Callable[[str], Any]]:
    if path is None:
        yield sys.stdout.write
        return
    refused = functools.partial(no_failure, f"--output={path}", "written", "--output")
    with contextlib.ExitStack() as stack:
        with refused():
            file = stack.enter_context(stack.enter_context(new_file(Path(path))).open("w", encoding="utf-8"))

        def write(text: str) -> None:
            with refused():
                file.write(text)

        yield write
        with refused():
            stack.close()
