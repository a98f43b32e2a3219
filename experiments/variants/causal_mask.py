"""Decoders without the causal mask, for the study ablations/causal_mask.py (Vaswani et al. 2017, section 3.2.3).

If tokens see later ones in evaluation, there is no cache: the whole prefix is recomputed at every step.
"""

import dataclasses

from transformer.components.masks import All, Mask, Prefix


@dataclasses.dataclass(frozen=True)
class UnmaskedTraining(Prefix):
    """No causal mask during training."""

    def during(self, training: bool) -> Mask:
        return All() if training else self


@dataclasses.dataclass(frozen=True)
class UnmaskedEvaluation(Prefix):
    """No causal mask in evaluation and generation."""

    def during(self, training: bool) -> Mask:
        return self if training else All()
