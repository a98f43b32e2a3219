"""Helpers of several modes: input and output of lines, folders of data, names of results."""

import contextlib
import functools
import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from transformer import settings, streams
from transformer.config import Config
from transformer.data import prepare
from transformer.errors import UserError, no_failure
from transformer.files import new_file
from transformer.runtime.workdir import Workdir


def folders(workdir: Workdir) -> prepare.Folders:
    return prepare.Folders(workdir.vocabulary, workdir.tokens, workdir.path / "data")


# The free settings that change the outputs of a trained model, or how they are shown.
_OUTPUTS = re.compile(r"evaluate\.|search\.(?!batch_size$)")
LONGEST_NAME = 120  # bytes


def kept_as(what: str, made: Config, used: Config) -> tuple[str, dict[str, Any]]:
    """The name under which results are kept, and the settings that make it differ from `what`, by name.

    With the settings of the workdir the name is `what`; with others it is, for example, `what-beam_size=1`, so that no result
    is overwritten.
    """
    old = settings.plain(made)
    changed = {n: new for n, new in settings.plain(used).items() if _OUTPUTS.match(n) and (n not in old or old[n] != new)}
    parts = [f"{name.rpartition('.')[2]}={settings.text_of(value)}" for name, value in changed.items()]
    return file_name("-".join([what, *parts])), changed


def file_name(text: str) -> str:
    """Text as the name of a file: only letters, digits and some signs are kept; if anything is lost, a hash is appended."""
    name = re.sub(r"[^\w.,=+-]+", "_", text).strip("_.") or "_"
    short = name.encode()[:LONGEST_NAME].decode(errors="ignore")
    lost = short.replace("_", " ") != text.replace("_", " ")
    return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if lost else name


ONE_LINE = str.maketrans("\n\r\t", "   ")  # a vocabulary of bytes may output these, which would break a line


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
        file = Path(path).open("rb")  # noqa: SIM115  (closed below: errors of the caller are not caught here)
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
