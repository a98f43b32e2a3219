"""How text is divided into lines and tagged words. Unicode has more white space than the formats that hold text mean.

Lines end at a newline, with or without a carriage return before it: not at U+2028, U+0085 or a form feed, at which
`str.splitlines` ends them, too. The words of tagged text are separated by spaces and tabs: a no-break space, as in
"10\u00a0000", is part of a word. What stands around a text is stripped, and words are counted for scores, by all of Unicode's
white space (`str.strip`, `str.split`), as sacreBLEU has it.
"""

import re

_BLANKS = re.compile("[ \t]+")


def lines(text: str) -> list[str]:
    """The lines of a text, without their ends; nothing after the last end is no line."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def tagged_words(text: str) -> list[str]:
    """The words of a text that have a tag each, or the columns of a line that contains them."""
    return [word for word in _BLANKS.split(text.strip("\r\n")) if word]
