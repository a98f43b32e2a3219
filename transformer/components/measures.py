"""Measures: a user's own measurements of a trained model, which a run reports beside its scores and a study can compare."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformer.registry import Component


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure(Component, name="none"):
    """No measurement; the base of those in files of users.

    `names`: what it measures, as metrics of a split: `first_token` is "test/first_token" in a study.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def values(self, model: Any, examples: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
        """A number for each of `names`, from a `transformer.TrainedModel` and the examples of a split, by field: "source" and
        "target", or "text".
        """
        return {}
