"""What stands around attention: feed-forward, norms, embedding, initialisers, and a layer that wires them.

Letters: B rows, T tokens, D d_model, F d_ff, N entries of a vocabulary table, H heads.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.config import Model
from transformer.models.attention import MultiHeadAttention
from transformer.models.dropout import Dropout
from transformer.models.masks import Mask
from transformer.models.positions import NoPositions
from transformer.sharding import by_rows, rows_whole

Array = jax.Array

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

REMAT: dict[str, Callable[..., bool] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def kernel_initializer(config: Model) -> Callable[..., Any]:
    """Of projection kernels, (inputs, outputs)."""
    return {
        "xavier_uniform": nn.initializers.xavier_uniform(),
        "fan_in": nn.initializers.lecun_normal(),
        "normal": nn.initializers.normal(config.init_stddev),
    }[config.initializer]


def embedding_initializer(config: Model) -> Callable[..., Any]:
    """Of embedding tables."""
    stddev = {"1/sqrt(d_model)": config.d_model**-0.5, "normal": config.init_stddev, "unit": 1.0}[config.embedding_init]
    return nn.initializers.normal(stddev)


def make_norm(config: Model, name: str) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019), statistics in fp32."""
    dtype = jnp.dtype(config.dtype)
    if config.norm_kind == "rms":
        return nn.RMSNorm(epsilon=config.norm_epsilon, dtype=dtype, name=name)
    return nn.LayerNorm(epsilon=config.norm_epsilon, use_bias=config.norm_bias, dtype=dtype, name=name)


class FeedForward(nn.Module):
    """max(0, x W_1 + b_1) W_2 + b_2 (Vaswani et al. 2017, equation 2), or another activation, or gated."""

    config: Model
    deterministic: bool

    @nn.compact
    def __call__(self, x_BxTxD: Array) -> Array:
        config = self.config
        function, gated = ACTIVATIONS[config.activation]
        hidden_BxTxF = function(self._dense("inner", config.d_ff)(x_BxTxD))
        if gated:
            hidden_BxTxF = hidden_BxTxF * self._dense("gate", config.d_ff)(x_BxTxD)
        dropout = Dropout(config.activation_dropout_rate, config.dropout_generator, self.deterministic, name="dropout")
        return self._dense("outer", config.d_model)(dropout(hidden_BxTxF))

    def _dense(self, name: str, width: int) -> nn.Dense:
        config = self.config
        initializer, dtype = kernel_initializer(config), jnp.dtype(config.dtype)
        return nn.Dense(width, use_bias=config.ff_bias, kernel_init=initializer, dtype=dtype, name=name)


class Embedding(nn.Module):
    """A table of vectors: tokens in, and, where it is tied, states to logits out (Press and Wolf 2017)."""

    rows: int
    config: Model

    def setup(self) -> None:
        self.table_NxD = self.param("table", embedding_initializer(self.config), (self.rows, self.config.d_model))

    def __call__(self, tokens_BxT: Array) -> Array:
        """BxTxD, times sqrt(D) where the configuration says so (section 3.4)."""
        x_BxTxD = jnp.take(rows_whole(self.table_NxD), tokens_BxT, axis=0).astype(self.config.dtype)
        if self.config.embedding_scale == "sqrt(d_model)":
            x_BxTxD = x_BxTxD * math.sqrt(self.config.d_model)
        return by_rows(x_BxTxD)

    def logits(self, states_BxTxD: Array) -> Array:
        """States times the table: BxTxN in fp32."""
        return all_products(states_BxTxD, self.table_NxD)


def all_products(states_BxTxD: Array, table_NxD: Array) -> Array:
    """Each state times each row of a table: BxTxN in fp32.

    XLA on a CPU copies the second of two factors into an order of its own each time: of a large table and few states that had
    better be the states. Then the result lies with N first, which costs nothing where it is read so (`entries_first`).
    """
    table_NxD = table_NxD.astype(states_BxTxD.dtype)
    if entries_first(states_BxTxD.shape[0] * states_BxTxD.shape[1]):
        # As fp32, in which products of half precision are exact: with these factors XLA has no such product (JAX 0.10.2).
        table_NxD, states_BxTxD = table_NxD.astype(jnp.float32), states_BxTxD.astype(jnp.float32)
        return jnp.moveaxis(jnp.einsum("nd,btd->nbt", table_NxD, states_BxTxD), 0, -1)
    return jnp.einsum("btd,nd->btn", states_BxTxD, table_NxD, preferred_element_type=jnp.float32)


def entries_first(states: int) -> bool:
    """Does what `all_products` makes of so many states lie with the table's rows first."""
    return 1 < states <= 64 and jax.default_backend() == "cpu"


class Layer(nn.Module):
    """Self-attention, cross-attention if `cross`, feed-forward, each with its norm, dropout and residual.

    Post-norm (the paper): norm(x + dropout(f(x))); pre-norm: x + dropout(f(norm(x))).
    """

    config: Model
    positions: NoPositions
    cross: bool
    deterministic: bool

    @nn.compact
    def __call__(self, x_BxTxD: Array, own: dict[str, Any], shared: dict[str, Any]) -> tuple[Array, dict[str, Array] | None]:
        """`own`: what differs by layer (memory, cache, gates); `shared`: masks, slot, position parameters, the same for all.

        Returns the output and the layer's cache; the pair is what a scan over layers wants.
        """
        config, gates, cache = self.config, own.get("gates") or {}, own.get("cache")

        def attention(name: str, cross: bool, mask: Mask, **arguments: Any) -> Callable[[Array], Array]:
            module = MultiHeadAttention(
                config, self.positions, kernel_initializer(config), cross, self.deterministic, name=f"{name}_attention"
            )

            def call(x: Array) -> Array:
                nonlocal cache
                output, written = module(x, mask, gates=gates.get(name), **arguments)
                cache = written if written is not None else cache
                return output

            return call

        parameters = shared.get("position_parameters")
        self_arguments = {"cache": cache, "slot": shared.get("slot"), "position_parameters": parameters}
        x_BxTxD = self._residual("self_attention", x_BxTxD, attention("self", False, shared["mask"], **self_arguments))
        if self.cross:
            cross = attention("cross", True, shared["cross_mask"], memory=own["memory"])
            x_BxTxD = self._residual("cross_attention", x_BxTxD, cross)
        x_BxTxD = self._residual("feed_forward", x_BxTxD, FeedForward(config, self.deterministic, name="feed_forward"))
        return x_BxTxD, cache

    def _residual(self, name: str, x_BxTxD: Array, function: Callable[[Array], Array]) -> Array:
        norm = make_norm(self.config, f"{name}_norm")
        rate, generator = self.config.dropout_rate, self.config.dropout_generator
        dropout = Dropout(rate, generator, self.deterministic, name=f"{name}_dropout")
        if self.config.norm_order == "pre":
            return x_BxTxD + dropout(function(norm(x_BxTxD)))
        return norm(x_BxTxD + dropout(function(x_BxTxD)))
