"""Norms as components: LayerNorm and RMSNorm as pure functions that call Flax. Statistics are computed in fp32."""

import dataclasses

import jax

from transformer.components.parameters import Constant, Declared, Parameters
from transformer.registry import Component
from transformer.settings import setting

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm(Component):
    """Base of norms over the last axis."""

    epsilon: float = setting(1e-6, "added to the variance", above=0)

    def parameters(self, width: int) -> Declared:
        """Learned parameters, by name."""
        return {"scale": Constant((width,), (), 1.0)}

    def __call__(self, p: Parameters, x: Array) -> Array:
        """The normalized input, with the shape (... x D) and type of `x`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNorm(Norm, name="layer"):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias (Ba et al. 2016)."""

    bias: bool = setting(True, "a learned bias")

    def parameters(self, width: int) -> Declared:
        return dict(super().parameters(width)) | ({"bias": Constant((width,))} if self.bias else {})

    def __call__(self, p: Parameters, x: Array) -> Array:
        import flax.linen as nn  # imported here, because reading settings does not need it

        norm = nn.LayerNorm(epsilon=self.epsilon, use_bias=self.bias, dtype=x.dtype)
        return norm.apply({"params": dict(p)}, x)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSNorm(Norm, name="rms"):
    """x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich 2019)."""

    plus_one: bool = setting(False, "the factor is 1 + scale, and scale is initialized to 0 (Gemma)")

    def parameters(self, width: int) -> Declared:
        return {"scale": Constant((width,), (), 0.0 if self.plus_one else 1.0)}

    def __call__(self, p: Parameters, x: Array) -> Array:
        import flax.linen as nn

        scale = p["scale"] + 1.0 if self.plus_one else p["scale"]
        return nn.RMSNorm(epsilon=self.epsilon, dtype=x.dtype).apply({"params": {"scale": scale}}, x)  # type: ignore[return-value]
