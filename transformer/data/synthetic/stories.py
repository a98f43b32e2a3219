"""The synthetic task of question answering: who has which things after they changed hands; answers are spans of the story.

    Ben has five apples . Anna has two pears . Dora has six keys . Ben gives the apples to Carl .
    who has the apples ?  Carl                    who had the apples first ?  Ben
    how many apples does Carl have ?  five apples (or five)     what does Anna have ?  two pears

A story has several facts, and only the question determines which of them is the answer, so the answer cannot be guessed from
the position in the story or from the frequency of words.
"""

import dataclasses
import json
import random
from collections.abc import Mapping

from transformer.config import Data
from transformer.data.synthetic.drawing import Task, distinct, words

PERSONS = words("Anna Ben Carl Dora Emil Fay Gus Hana Ivan Jill")
KINDS = words("apples books coins eggs keys lamps pears shells")
NUMBERS = words("two three four five six seven eight nine ten")
PEOPLE = (3, 4)  # in a story, minimum and maximum
SETS = 3  # of things
MOVES = (1, 2)


@dataclasses.dataclass
class Things:
    """A set of things: its number and kind, its first and last owner, and where the story says so (first characters)."""

    number: str
    kind: str
    first: str
    first_at: int
    things_at: int
    owner: str
    owner_at: int


Question = tuple[str, str, int]  # text, answer, the answer's first character in the story


def tell(rng: random.Random, moves: tuple[int, int] = MOVES) -> tuple[str, list[Things]]:
    """A story in which things move a random number of times (minimum, maximum), and its sets of things."""
    people = rng.sample(PERSONS, rng.randint(*PEOPLE))
    text, sets = "", []
    for number, kind in zip(rng.sample(NUMBERS, SETS), rng.sample(KINDS, SETS), strict=True):
        owner = rng.choice(people)
        sets.append(Things(number, kind, owner, len(text), len(f"{text}{owner} has "), owner, len(text)))
        text += f"{owner} has {number} {kind} . "
    for _ in range(rng.randint(*moves)):
        moved = rng.choice(sets)
        giver, receiver = moved.owner, rng.choice([person for person in people if person != moved.owner])
        before = rng.choice((f"{giver} gives the {moved.kind} to ", f"the {moved.kind} go from {giver} to "))
        moved.owner, moved.owner_at = receiver, len(text + before)
        text += f"{before}{receiver} . "
    return text.strip(), sets


def _questions(sets: list[Things]) -> list[list[Question]]:
    """The possible questions, by kind."""
    alone = [s for s in sets if sum(s.owner == other.owner for other in sets) == 1]
    return [
        [(f"who has the {s.kind} ?", s.owner, s.owner_at) for s in sets],
        [(f"who had the {s.kind} first ?", s.first, s.first_at) for s in sets],
        [(f"how many {s.kind} does {s.owner} have ?", f"{s.number} {s.kind}", s.things_at) for s in sets],
        [(f"what does {s.owner} have ?", f"{s.number} {s.kind}", s.things_at) for s in alone],
    ]


def _draw(rng: random.Random, held: bool) -> Mapping[str, str]:
    text, sets = tell(rng)
    question, answer, start = rng.choice(rng.choice([asked for asked in _questions(sets) if asked]))
    answers = [answer, answer.split()[0]] if question.startswith("how many") else [answer]
    return {"question": question, "text": text, "answer": answer, "start": str(start), "answers": json.dumps(answers)}


def make(data: Data) -> dict[str, list[Mapping[str, str]]]:
    """Examples {"question", "text", "answer", "start", "answers"} as in SQuAD (sources/squad.py); no story occurs twice."""
    return distinct(data, _draw)


TASK = Task(
    "Stories of things that change hands, and questions.",
    "1.0.0",
    ("question", "text", "answer", "start", "answers"),
    make,
)
