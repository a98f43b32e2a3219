"""The synthetic tagging task: persons, places, and the meaning of number words in a sentence.

    the road from Jordan to Verona is closed until seven thirty .
    O   O    O    B-LOC  O  B-LOC  O  O      O     B-TIME I-TIME O

A sentence is a template with filled slots, so its tags (BIO) are known. The tag of a word depends on the rest of the sentence,
which may be far away: the same number words are quantities, amounts of money, times or dates, the same names are persons or
places, and half of the names in validation and test do not occur in training. A table of each word's most frequent tag has an
entity F1 of 25 %.
"""

import functools
import random
from collections.abc import Callable, Mapping

from transformer.config import Data
from transformer.data.synthetic.drawing import Task, distinct, words
from transformer.data.synthetic.number_words import speller

FIRST = words("""Anna Ben Clara David Emma Felix Greta Hannah Ida Jonas Karl Lena Martin Nora Oscar Paula Robert Sarah Thomas
Ulla Victor Wanda Yusuf Zoe Amir Bella Carlos Dora Elias Fatima Gustav Helga Igor Julia Kofi Laila Mona Nils Olga Pablo""")
LAST = words("""Berg Costa Dahl Evans Fischer Grant Hansen Ito Jensen Keller Lund Moreau Novak Olsen Patel Quinn Rossi Silva
Tanaka Ueda Varga Weber Young Zuber Ahmed Brandt Cohen Diaz Ek Farkas""")
PLACES = words("""Berlin Oslo Lima Cairo Porto Madrid Vienna Prague Dublin Zagreb Nairobi Osaka Toronto Bergen Verona Basel
Krakow Ghent Turin Lyon Malmo Utrecht Leipzig Seville Tartu Kyoto Quito Accra Tunis Riga New_Haven Santa_Rosa Cape_Town
Long_Beach Salt_Lake Port_Louis Saint_Malo Green_Bay Rio_Grande High_Point""")
EITHER = words("""Paris Jordan Georgia Florence Sydney Chelsea Austin Charlotte Lincoln Savannah Carolina Victoria Dakota
Madison Houston Virginia Adelaide Alexandria Brooklyn Camden Denver Kingston Milan Phoenix Regina Sienna Troy Vernon Logan
Orlando""")
THINGS = words("apples books boxes cards chairs coins eggs flowers lamps letters maps pens plates shirts shoes stamps")

TEMPLATES = [
    "PER bought QUANTITY THINGS in LOC .",
    "PER has QUANTITY THINGS at home .",
    "LOC has QUANTITY THINGS for every child .",
    "PER needs QUANTITY more THINGS before TIME .",
    "they packed the THINGS in QUANTITY boxes for PER .",
    "QUANTITY is how many THINGS PER carried to LOC .",
    "of all the THINGS that PER owned only QUANTITY were new .",
    "PER counted to QUANTITY and went on with the THINGS .",
    "for QUANTITY days PER walked through LOC .",
    "PER paid MONEY for the THINGS in LOC .",
    "the THINGS cost PER MONEY .",
    "MONEY is what PER paid for the THINGS .",
    "PER sold QUANTITY THINGS for MONEY .",
    "in LOC the THINGS are sold at MONEY .",
    "the mayor of LOC asked PER for MONEY .",
    "PER owes PER MONEY since DATE .",
    "in LOC a price of MONEY seemed too high to PER .",
    "the train to LOC leaves at TIME .",
    "PER woke up at TIME in LOC .",
    "TIME is when PER goes to bed .",
    "the road from LOC to LOC is closed until TIME .",
    "between TIME and TIME nobody answered in LOC .",
    "the clock of PER stopped at TIME .",
    "PER said that at TIME the THINGS would be sold .",
    "in LOC it is TIME when PER eats .",
    "PER was born in LOC in DATE .",
    "LOC was founded in DATE .",
    "DATE is the year when PER left LOC .",
    "between DATE and DATE there was no mayor in LOC .",
    "the letter from PER to PER is dated DATE .",
    "in DATE the THINGS came to LOC .",
    "PER met PER in LOC in DATE .",
    "a war began in DATE and PER fled to LOC .",
    "flights to LOC cost MONEY after TIME .",
    "the mother of PER lives in LOC .",
    "the river runs from LOC to LOC .",
    "the letter to PER came from LOC .",
    "the visitors of LOC thanked PER .",
    "PER laughed at PER .",
    "LOC lies north of LOC .",
    "nobody in LOC knew the sister of PER .",
    "PER dreamt of the bridges of LOC .",
]
TYPES = ("PER", "LOC", "QUANTITY", "MONEY", "TIME", "DATE")
EVERY = 5  # 1 / this of the names are used only in validation and test


def held_out(names: list[str]) -> tuple[list[str], list[str]]:
    """The names of training, and the names that only validation and test have."""
    return [name for i, name in enumerate(names) if i % EVERY], names[::EVERY]


@functools.cache
def _spell() -> Callable[[int], str]:
    return speller("en", "source_language", 1000)


def _name(rng: random.Random, held: bool, names: list[str]) -> str:
    return rng.choice(held_out(names)[held and rng.random() < 0.5])


def _person(rng: random.Random, held: bool) -> str:
    first = _name(rng, held, EITHER if rng.random() < 0.5 else FIRST)
    return first if rng.random() < 0.5 else f"{first} {_name(rng, held, LAST)}"


def _place(rng: random.Random, held: bool) -> str:
    return _name(rng, held, EITHER if rng.random() < 0.5 else PLACES).replace("_", " ")


def _small(rng: random.Random) -> str:
    return _spell()(rng.randint(2, 12))


def _pair(rng: random.Random) -> str:
    """Two numbers, as in seven thirty (a time or a price), nineteen eighty-four (a year or a price)."""
    return f"{_spell()(rng.randint(2, 20))} {_spell()(rng.choice((rng.randint(13, 59), rng.randint(13, 99))))}"


def _large(rng: random.Random) -> str:
    return _spell()(rng.randint(13, 999))


# The forms of each kind of number: every form belongs to several kinds.
FORMS: Mapping[str, tuple[Callable[[random.Random], str], ...]] = {
    "QUANTITY": (_small, _large),
    "MONEY": (_small, _pair, _large),
    "TIME": (_small, _pair),
    "DATE": (_pair, _large),
}


def _fill(rng: random.Random, held: bool, slot: str) -> str:
    if slot in FORMS:
        return rng.choice(FORMS[slot])(rng)
    return {"PER": _person, "LOC": _place}[slot](rng, held)


def _draw(rng: random.Random, held: bool) -> Mapping[str, str]:
    text, tags = [], []
    for slot in rng.choice(TEMPLATES).split():
        if slot in TYPES:
            filled = _fill(rng, held, slot).split()
            tags += [f"B-{slot}"] + [f"I-{slot}"] * (len(filled) - 1)
        else:
            filled = [rng.choice(THINGS) if slot == "THINGS" else slot]
            tags.append("O")
        text += filled
    return {"text": " ".join(text), "tags": " ".join(tags)}


def make(data: Data) -> dict[str, list[Mapping[str, str]]]:
    """Examples {"text", "tags"}: words and the same number of tags, separated by single spaces."""
    return distinct(data, _draw)


TASK = Task("Sentences with names and numbers, and their types.", "1.0.0", ("text", "tags"), make)
