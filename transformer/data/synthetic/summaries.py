"""The synthetic task of summarising: who has what in the end, after things changed hands.

    Ben has five apples . Anna has two pears . Dora has six keys . Ben gives the apples to Anna .
    Anna has five apples and two pears . Dora has six keys .

Owners stand in alphabetical order, their things in the story's. Copying sentences does not do it: what moved stands with its
first owner in one sentence, with its last in another, and its number in the first alone.
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
    """Examples {"source", "target"}; no story is there twice."""
    return distinct(data, _draw, "source")


TASK = Task("Stories of things that change hands, and how they end.", "1.0.0", ("source", "target"), make)
