"""Counts of what was dropped, cut, capped or replaced, to be shown wherever its effect is visible."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

Notice = Callable[[Any], None]  # takes a line, or an object such as a `Cut` that `str` turns into a line


@dataclasses.dataclass(frozen=True)
class Cut:
    """`count` of `of` things were dropped, cut, capped or replaced.

    `what` names the things, says what happened to them and which setting decides it, as in "examples are longer than 256
    source tokens (config.data.max_source_length) and were dropped". The same event has the same `what` in every run.
    `where`: the split, if it is about one.
    """

    count: int
    of: int
    what: str
    where: str = ""

    def __str__(self) -> str:
        share = f" ({self.count / self.of:.1%})" if 0 < self.count < self.of and self.of >= 20 else ""
        return f"{self.where}{': ' if self.where else ''}{self.count:,} of {self.of:,}{share} {self.what}"

    def at(self, where: str) -> "Cut":
        """The same cut, for a split."""
        return dataclasses.replace(self, where=where)


def some(*cuts: Cut) -> list[Cut]:
    """Those that happened."""
    return [cut for cut in cuts if cut.count]


def merged(cuts: Iterable[Cut]) -> list[Cut]:
    """Merges cuts of the same kind, in the order of their first occurrence."""
    found: dict[tuple[str, str], Cut] = {}
    for cut in cuts:
        key = cut.what, cut.where
        old = found.get(key, Cut(0, 0, *key))
        found[key] = Cut(old.count + cut.count, old.of + cut.of, *key)
    return list(found.values())


def only(notices: Iterable[Any]) -> list[Cut]:
    """The cuts among notices."""
    return [notice for notice in notices if isinstance(notice, Cut)]


def to_json(cuts: Iterable[Cut]) -> list[dict[str, Any]]:
    """For a file."""
    return [dataclasses.asdict(cut) for cut in cuts]


def from_json(value: Any) -> list[Cut]:
    """The inverse of `to_json`. KeyError, TypeError, ValueError: the data are something else."""
    return [Cut(int(each["count"]), int(each["of"]), str(each["what"]), str(each["where"])) for each in value]
