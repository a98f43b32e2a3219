"""Alignments of number words, against alignments by hand and properties of all alignments."""

import random

import pytest

from transformer.data.synthetic.number_alignment import LANGUAGES, Alignment, align
from transformer.data.synthetic.number_words import speller
from transformer.errors import UserError

BELOW = 10**18
SPELL = {language: speller(language, "source_language", BELOW) for language in LANGUAGES}


def pieces(number: int, found: Alignment, source: str = "en", target: str = "de") -> tuple[list[str], list[str]]:
    return tuple(  # type: ignore[return-value]
        [SPELL[language](number)[a:b] for a, b in spans] for language, spans in ((source, found.source), (target, found.target))
    )


# Words in order; "=" before the word of the other language that it translates, "~" before those that it may be aligned to.
@pytest.mark.parametrize(
    ("number", "english", "german"),
    [
        (0, "zero", "null=zero"),
        (1, "one", "eins=one"),
        (13, "thirteen", "dreizehn=thirteen"),
        (30, "thirty", "dreißig=thirty"),
        (21, "twenty one", "ein=one und~twenty~one zwanzig=twenty"),
        (100, "one hundred", "ein=one hundert=hundred"),
        (105, "one hundred and five", "ein=one hundert=hundred fünf=five"),
        (345, "three hundred and forty five", "drei=three hundert=hundred fünf=five und~and~forty~five vierzig=forty"),
        (21_005, "twenty one thousand and five", "ein=one und~twenty~one zwanzig=twenty tausend=thousand fünf=five"),
        (2_000_000, "two million", "zwei=two Millionen=million"),
        (1_000_016, "one million and sixteen", "eine=one Million=million sechzehn=sixteen"),
        (101_000, "one hundred and one* thousand", "ein=one hundert=hundred eins=one* tausend=thousand"),
    ],
)
def test_by_hand(number, english, german):
    found = align(number)
    source, target = pieces(number, found)
    marked = english.split()
    assert source == [word.rstrip("*") for word in marked]
    assert target == [word.split("=")[0].split("~")[0] for word in german.split()]
    want = {(marked.index(word.split("=")[1]), t) for t, word in enumerate(german.split()) if "=" in word}
    may = {(marked.index(s), t) for t, word in enumerate(german.split()) for s in word.split("~")[1:]}
    assert found.links == want and found.possible == want | may


def numbers() -> list[int]:
    draw = random.Random(3)
    return [*range(1200), *(draw.randrange(10**digits) for digits in range(3, 19) for _ in range(15)), BELOW - 1, 10**15]


@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("de", "en"), ("en", "en")])
def test_words_make_up_the_text(source, target):
    for number in numbers():
        found = align(number, source, target)
        for language, spans in ((source, found.source), (target, found.target)):
            text = SPELL[language](number)
            assert "".join(text[a:b] for a, b in spans) == "".join(c for c in text if c not in " ,-"), number
            assert all(a < b <= c for (a, b), (c, _) in zip(spans, spans[1:], strict=False))


def test_properties_of_all_alignments():
    """Every word except "and" is aligned to one word; digits and powers are aligned to the same digits and powers."""
    meaning = {word: number for number in [*range(20), *range(20, 100, 10)] for word in (SPELL["en"](number),)}
    german = {SPELL["de"](number): number for number in [*range(20), *range(20, 100, 10)]} | {"ein": 1, "eine": 1}
    powers = {"hundred": "hundert", "thousand": "tausend", "million": "Million", "billion": "Milliarde", "trillion": "Billion"}
    powers |= {"quadrillion": "Billiarde"}
    for number in numbers():
        found = align(number)
        source, target = pieces(number, found)
        links = sorted(found.links)
        assert [s for s, _ in links] == [s for s, word in enumerate(source) if word != "and"]
        assert sorted(t for _, t in links) == [t for t, word in enumerate(target) if word != "und"]
        for s, t in links:
            if source[s] in powers:
                assert target[t] in (powers[source[s]] + ending for ending in ("", "n", "en"))
            else:
                assert meaning[source[s]] == german[target[t]]
        for s, t in found.possible - found.links:
            near = {t for link, t in links if link in (s, s - 1, s + 1)}
            assert target[t] == "und" and source[s] not in powers and near & {t - 1, t + 1}


def test_order_of_equal_words():
    """Nine hundred and ninety-nine thousand, nine hundred and ninety-nine: the same words twice, in order."""
    number = 999_999
    found = align(number)
    source, target = pieces(number, found)
    middle_source, middle_target = source.index("thousand"), target.index("tausend")
    assert all((s < middle_source) == (t < middle_target) for s, t in found.links if source[s] != "thousand")
    assert all((s < middle_source) == (t < middle_target) for s, t in found.possible if source[s] != "thousand")


def test_the_other_way_round():
    for number in numbers()[::7]:
        assert align(number, "de", "en").links == {(t, s) for s, t in align(number).links}


@pytest.mark.parametrize(("source", "target", "side"), [("fr", "de", "source"), ("en", "fr", "target")])
def test_other_languages(source, target, side):
    with pytest.raises(UserError, match=f"config.data.{side}_language fr.* en and de"):
        align(1, source, target)
    with pytest.raises(ValueError, match="from 0"):
        align(-1)
