"""What was dropped, cut, capped or replaced, counted, so that the count can be shown wherever its effect is read."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

Notice = Callable[[Any], None]  # takes a line, or what `str` makes a line of, such as a `Cut`


@dataclasses.dataclass(frozen=True)
class Cut:
    """`count` of `of` things were dropped, cut, capped or replaced.

    `what` names the things, says what happened to them and which setting decides it, as in "training pairs are longer than
    ... and were dropped (config.data.too_long)". The same event has the same `what` in every run.
    """

    count: int
    of: int
    what: str

    def __str__(self) -> str:
        return f"{self.count:,} of {self.of:,}{self.share} {self.what}"

    @property
    def share(self) -> str:
        """The percentage, where it adds something to the two numbers."""
        return f" ({self.count / self.of:.1%})" if 0 < self.count < self.of and self.of >= 20 else ""


def some(*cuts: Cut) -> list[Cut]:
    """Those that happened."""
    return [cut for cut in cuts if cut.count]


def to_json(cuts: Iterable[Cut]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(cut) for cut in cuts]


def from_json(value: Any) -> list[Cut]:
    """KeyError, TypeError: not what `to_json` gives."""
    return [Cut(int(each["count"]), int(each["of"]), str(each["what"])) for each in value]
