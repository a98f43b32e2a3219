"""What a user did wrong: one exception type, which `launch.py` turns into one line and exit status 2.

A message names the thing, the place and the remedy, in one line. A bug of ours is any other exception.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input. The message is one line: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint "; did you mean 'x'?" with the known name closest to `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
