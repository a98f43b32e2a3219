"""Splits text into lines and tagged words. Unicode has more white space characters than text formats use as separators.

Lines end at a newline, with or without a carriage return before it, but not at U+2028, U+0085 or a form feed, at which
`str.splitlines` also splits. The words of tagged text are separated by spaces and tabs: a no-break space, as in
"10\u00a0000", is part of a word. All Unicode white space is used to strip texts and to count words for scores (`str.strip`,
`str.split`), as in sacreBLEU.
"""

import re

_BLANKS = re.compile("[ \t]+")


def lines(text: str) -> list[str]:
    """The lines of a text without line ends. An empty rest after the last line end is not a line."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def tagged_words(text: str) -> list[str]:
    """The words of a tagged text, or the columns of a line with a word and its tag."""
    return [word for word in _BLANKS.split(text.strip("\r\n")) if word]
