"""The feed-forward sublayer as a component: pure hooks that a variant can replace.

Letters: B rows, T tokens, D d_model, F d_ff.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax

from transformer.components.masks import Sizes
from transformer.components.parameters import Constant, Declared, Kernel, Parameters
from transformer.components.products import product
from transformer.registry import Component
from transformer.settings import setting

Array = jax.Array
Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "geglu", "geglu_tanh", "swiglu"]

# name -> (function, gated). Gated: f(x W_1) * (x W_g), then W_2 (Shazeer 2020).
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "relu": (jax.nn.relu, False),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), False),
    "gelu_tanh": (lambda x: jax.nn.gelu(x, approximate=True), False),
    "silu": (jax.nn.silu, False),
    "geglu": (lambda x: jax.nn.gelu(x, approximate=False), True),
    "geglu_tanh": (lambda x: jax.nn.gelu(x, approximate=True), True),
    "swiglu": (jax.nn.silu, True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForward(Component, name="feed_forward"):
    """max(0, x W_1 + b_1) W_2 + b_2 (Vaswani et al. 2017, equation 2), or with another activation or a gate."""

    activation: Activation = setting("relu", "geglu, geglu_tanh and swiglu are gated")
    bias: bool = setting(True, "biases in the projections")
    dropout_rate: float = setting(0.0, "dropout on the inner activations", at_least=0, below=1)

    def parameters(self, sizes: Sizes) -> Declared:
        """Learned parameters, by name."""
        inner = ("inner", "gate") if ACTIVATIONS[self.activation][1] else ("inner",)
        declared: dict[str, Any] = {}
        for name in inner:
            declared[f"{name}/kernel"] = Kernel((sizes.d_model, sizes.d_ff), ("model", "hidden"))
            if self.bias:
                declared[f"{name}/bias"] = Constant((sizes.d_ff,), ("hidden",))
        declared["outer/kernel"] = Kernel((sizes.d_ff, sizes.d_model), ("hidden", "model"))
        return declared | ({"outer/bias": Constant((sizes.d_model,))} if self.bias else {})

    def hidden(self, p: Parameters, x_BxTxD: Array) -> Array:
        """The inner activations BxTxF."""
        function, gated = ACTIVATIONS[self.activation]
        hidden_BxTxF = function(_dense(p, "inner", x_BxTxD))
        return hidden_BxTxF * _dense(p, "gate", x_BxTxD) if gated else hidden_BxTxF

    def output(self, p: Parameters, hidden_BxTxF: Array) -> Array:
        """The output projection, BxTxD. Dropout is applied to the inner activations before it."""
        return _dense(p, "outer", hidden_BxTxF)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoFeedForward(FeedForward, name="none"):
    """Layers of attention only, without the sublayer and its norm (Elhage et al. 2021)."""

    def parameters(self, sizes: Sizes) -> Declared:
        return {}


def _dense(p: Parameters, name: str, x: Array) -> Array:
    result = product("btd,df->btf", x, p[f"{name}/kernel"])
    return result + p[f"{name}/bias"].astype(x.dtype)[None, None] if f"{name}/bias" in p else result
