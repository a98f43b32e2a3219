"""The alignment of the words of a number in English and German, known by construction, in both directions.

    twenty-one thousand and five        links: twenty-zwanzig, one-ein, thousand-tausend, five-fünf
    ein|und|zwanzig|tausend|fünf        also possible: und-twenty, und-one

A number is spelled in both languages by groups of three digits. Words for the same digit, hundred or power of a thousand are
translations of each other. `probes/alignment.py` measures the agreement of attention with this alignment.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from transformer.data.synthetic.drawing import words
from transformer.data.synthetic.number_words import MOST, speller
from transformer.errors import UserError

Span = tuple[int, int]  # index of the first character, and of the character after the last
Key = tuple[int, str]  # the meaning of a word: a group of three digits, and the part of the group
Part = tuple[Sequence[str], Key]  # the forms of a word, the longest first

_ENGLISH = words("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""")
_ENGLISH_TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
_ENGLISH_POWERS = words("thousand million billion trillion quadrillion")
_GERMAN = words("""null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn
siebzehn achtzehn neunzehn""")
_GERMAN_TENS = words("zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")
_GERMAN_POWERS = (("tausend",), *((f"{w}en", f"{w}n", w) for w in words("Million Milliarde Billion Billiarde")))


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The words of a number in two languages, and the pairs (source word, target word), as indices, that are translations.

    `source` and `target` are the spans of the words in the text that `speller` writes. Words are separated by spaces, commas or
    hyphens, or not at all in a German compound. `possible` contains `links` and further possible pairs (Och and Ney 2003, 4.1).
    """

    source: tuple[Span, ...]
    target: tuple[Span, ...]
    links: frozenset[tuple[int, int]]
    possible: frozenset[tuple[int, int]]


def _groups(number: int) -> list[tuple[int, int, int]]:
    """(power of a thousand, hundreds, rest) of every group of three digits that has words, the largest first."""
    groups = [(power, number // 1000**power % 1000) for power in range(5, -1, -1)]
    return [(power, value // 100, value % 100) for power, value in groups if value or number == 0 == power]


def _english(number: int) -> Iterator[Part]:
    for power, hundreds, rest in _groups(number):
        if hundreds:
            yield (_ENGLISH[hundreds],), (power, "hundreds")
            yield ("hundred",), (power, "hundred")
        if rest and (hundreds or (power == 0 and number >= 1000)):
            yield ("and",), (power, "and")
        if rest >= 20:
            yield (_ENGLISH_TENS[rest // 10 - 2],), (power, "tens")
        if (low := rest % 10 if rest >= 20 else rest) or number == 0:
            yield (_ENGLISH[low],), (power, "ones")
        if power:
            yield (_ENGLISH_POWERS[power - 1],), (power, "power")


def _german(number: int) -> Iterator[Part]:
    def digit(value: int) -> Sequence[str]:
        return ("eins", "eine", "ein") if value == 1 else (_GERMAN[value],)

    for power, hundreds, rest in _groups(number):
        if hundreds:
            yield digit(hundreds), (power, "hundreds")
            yield ("hundert",), (power, "hundred")
        if (low := rest % 10 if rest >= 20 else rest) or number == 0:
            yield digit(low), (power, "ones")
        if rest >= 20:
            if low:
                yield ("und",), (power, "and")
            yield (_GERMAN_TENS[rest // 10 - 2],), (power, "tens")
        if power:
            yield _GERMAN_POWERS[power - 1], (power, "power")


LANGUAGES: Mapping[str, Callable[[int], Iterator[Part]]] = {"en": _english, "de": _german}


@functools.cache
def _speller(language: str) -> Callable[[int], str]:
    return speller(language, "source_language", MOST)


def align(number: int, source_language: str = "en", target_language: str = "de") -> Alignment:
    """The alignment of a number from 0 to 10^18 (excluded). UserError if a language is not in `LANGUAGES`."""
    if not 0 <= number < MOST:
        raise ValueError(f"{number} is not from 0 to 10^18")
    (source, source_keys), (target, target_keys) = (
        _words(number, language, side) for language, side in ((source_language, "source"), (target_language, "target"))
    )
    pairs = [(s, t) for s in range(len(source)) for t in range(len(target))]
    links = {(s, t) for s, t in pairs if source_keys[s] == target_keys[t] and source_keys[s][1] != "and"}
    besides = {(s, t) for s, t in pairs if target_keys[t] in _joins(source_keys[s])}
    return Alignment(source, target, frozenset(links), frozenset(links | besides))


def _joins(key: Key) -> tuple[Key, ...]:
    """Possible links of "and", which is at another position in the other language and is not the translation of a word."""
    return ((key[0], "and"),) if key[1] in ("and", "tens", "ones") else ()


def _words(number: int, language: str, side: str) -> tuple[tuple[Span, ...], list[Key]]:
    if language not in LANGUAGES:
        raise UserError(f"config.data.{side}_language {language}: number words are aligned only for {' and '.join(LANGUAGES)}")
    text = _speller(language)(number)
    spans, keys, place = [], [], 0
    for forms, key in LANGUAGES[language](number):
        place += len(text[place:]) - len(text[place:].lstrip(" ,-"))
        form = next((form for form in forms if text.startswith(form, place)), "")
        if not form:
            raise AssertionError(f"{number} in {language} is {text!r}, which has none of {forms} at {place}")
        spans.append((place, place + len(form)))
        keys.append(key)
        place += len(form)
    if place != len(text):
        raise AssertionError(f"{number} in {language} is {text!r}, in which {text[place:]!r} has no meaning")
    return tuple(spans), keys
