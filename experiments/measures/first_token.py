"""The weight of self-attention on the first token: the attention sink (Xiao et al. 2024, section 3.1).

    python launch.py --config=experiments/shakespeare.py --workdir=runs/sink --config.data.directory=DIR \\
        --config.evaluate.measure=experiments/measures/first_token.py:FirstToken

The mean over texts, layers, heads and queries but the first, which sees itself alone in a decoder. In a model with an encoder
and a decoder, over both. A study compares arms by the metric "test/first_token" (or "validation/first_token").
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformer.components.measures import Measure
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstToken(Measure):
    """Between 0 and 1."""

    names: ClassVar[tuple[str, ...]] = ("first_token",)
    texts: int = setting(20, "examples of the split that are read", at_least=1)

    def values(self, model: Any, examples: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
        total, count = 0.0, 0
        for example in examples[: self.texts]:
            maps = model.attention(example.get("source") or example["text"], example.get("target"))
            for weights_LxHxTxS in (each.weights_LxHxTxS for each in maps if "self" in each.name):
                first_LxHxT = weights_LxHxTxS[:, :, 1:, 0]
                total, count = total + float(first_LxHxT.sum()), count + first_LxHxT.size
        return {"first_token": total / max(count, 1)}
