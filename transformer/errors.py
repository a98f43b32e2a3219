"""Errors of the user, which the command line turns into one line and exit status 2, and messages to the user.

A message names the thing, the place and the remedy, in one line. Any other exception is a bug of this library and keeps its
traceback, followed by `BUG`.
"""

import contextlib
import difflib
import math
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_PERPLEXITY = 1_000_000
BUG = (
    "This is a bug, not your mistake. Please report it where you got this code (for a repository: its issues), "
    "with the command and all of the above; record.json of the workdir describes the machine and versions."
)


class UserError(Exception):
    """Wrong input. The message is one line: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint "; did you mean 'x'?" with the known name closest to `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest_setting(name: str, known: Iterable[str]) -> str:
    """As `nearest`, for dotted names: a name with the same last part, or with these initials, such as "lr", comes first."""
    known = list(known)
    ends = {each: each.rpartition(".")[2] for each in known}
    end = name.rpartition(".")[2]
    alike = [each for each in known if ends[each] == end] or [
        each for each in known if "_" in ends[each] and "".join(part[:1] for part in ends[each].split("_")) == end
    ]
    return f"; did you mean {' or '.join(map(repr, alike[:3]))}?" if alike else nearest(name, known)


def program() -> str:
    """The name of the running command, which begins a message: "launch.py", or "transformer" where that is installed."""
    name = Path(sys.argv[0]).name
    return "transformer" if name == "__main__.py" else name or "python"


def launcher() -> str:
    """How the running command was started, for commands that are suggested to the user."""
    return f"python {shlex.quote(sys.argv[0])}" if program() == "launch.py" else "transformer"


def first_line(error: Exception) -> str:
    """The first line of a library's error message, or the error's type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def counted(number: int, thing: str, plural: str | None = None) -> str:
    """ "1 device", "1,024 devices". `plural`: for plurals that do not end in s."""
    return f"{number:,} {thing if number == 1 else plural or f'{thing}s'}"


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Runs an optional step, such as figures after the scores: a failure is one line to the user, and the run continues.

    A bug is reported with its place in the code, because there is no traceback.
    """
    try:
        yield
    except UserError as error:
        say(f"{what}: left out, {error}")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        say(
            f"{what}: left out, {type(error).__name__}: {first_line(error)} ({Path(place.filename).name}:{place.lineno}); "
            "everything else is complete, but this is a bug: please report it"
        )


def say(text: object) -> None:
    """Prints a line to the user on stderr; only results go to stdout."""
    print(text, file=sys.stderr, flush=True)


def readable(name: str, value: float, text: str) -> str:
    """`text`, which is `value` as text; a perplexity above the size of any vocabulary is only shown as such."""
    return f">{MOST_PERPLEXITY:,}" if "perplexity" in name and MOST_PERPLEXITY < value < math.inf else text


@contextlib.contextmanager
def no_failure(what: str, verb: str, instead: str = "--workdir") -> Iterator[None]:
    """Turns errors of the system into a UserError: `what` cannot be `verb` (read, written, ..). `instead`: the flag to
    change."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{what} cannot be {verb} ({reason}); change its permissions or choose another {instead}") from error
