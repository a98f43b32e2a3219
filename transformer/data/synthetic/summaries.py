"""The synthetic task of summarization: who has which things in the end, after they changed hands.

    Ben has five apples . Anna has two pears . Dora has six keys . Ben gives the apples to Anna .
    Anna has five apples and two pears . Dora has six keys .

Owners are in alphabetical order, their things in the order of the story. Copying sentences is not sufficient: a thing that
moved is mentioned with its first owner in one sentence and with its last owner in another, and only the first has its number.
"""

import random
from collections.abc import Mapping

from transformer.config import Data
from transformer.data.synthetic import stories
from transformer.data.synthetic.drawing import Task, distinct

MOVES = (2, 4)


def _draw(rng: random.Random, held: bool) -> Mapping[str, str]:
    text, sets = stories.tell(rng, MOVES)
    things = {owner: [f"{s.number} {s.kind}" for s in sets if s.owner == owner] for owner in sorted({s.owner for s in sets})}
    return {"source": text, "target": " ".join(f"{owner} has {' and '.join(each)} ." for owner, each in things.items())}


def make(data: Data) -> dict[str, list[Mapping[str, str]]]:
    """Examples {"source", "target"}; no story occurs twice."""
    return distinct(data, _draw, "source")


TASK = Task("Stories of things that change hands, and how they end.", "1.0.0", ("source", "target"), make)
