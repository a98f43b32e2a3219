"""Everything around attention: feed-forward, norms, embeddings, initializers, and a layer that connects them.

Letters: B rows, T tokens, D d_model, F d_ff, N entries of a vocabulary table, H heads.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components.feed_forward import NoFeedForward
from transformer.components.fused import SAVED
from transformer.components.masks import Pairs, Role
from transformer.components.parameters import Streams
from transformer.components.products import narrower, wide_product
from transformer.components.residuals import Sublayer
from transformer.config import Model
from transformer.models import lora
from transformer.models.attention import AttentionLayer
from transformer.models.declare import declare, rounded
from transformer.models.dropout import Dropout
from transformer.sharding import by_rows, rows_whole

Array = jax.Array

REMAT: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names(SAVED)
    ),
}


def kernel_initializer(config: Model) -> Callable[..., Any]:
    """The initializer of projection kernels (inputs, outputs). With muP the variance is proportional to 1 / width, which only
    `normal` does not give by itself."""
    return {
        "xavier_uniform": nn.initializers.xavier_uniform(),
        "fan_in": nn.initializers.lecun_normal(),
        "normal": nn.initializers.normal(config.init_stddev * config.width_ratio**-0.5),
    }[config.initializer]


def output_initializer(config: Model) -> Callable[..., Any]:
    """The initializer of the kernels (d_model, outputs) of logits and scores, whose number of outputs does not grow with width.

    It is `kernel_initializer` without muP. With muP the standard deviation is that at `base_width` divided by the ratio of
    widths (Yang et al. 2022, Table 3).
    """
    initializer, ratio = kernel_initializer(config), config.width_ratio
    if ratio == 1:
        return initializer

    def stddev(inputs: int, outputs: int, normal: float) -> float:
        return {"xavier_uniform": (2 / (inputs + outputs)) ** 0.5, "fan_in": inputs**-0.5, "normal": normal}[config.initializer]

    def init(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        wanted = stddev(config.base_width, shape[1], config.init_stddev) / ratio
        drawn = stddev(*shape, config.init_stddev * ratio**-0.5)
        return initializer(key, shape, dtype) * (wanted / drawn)

    return init


def embedding_initializer(config: Model) -> Callable[..., Any]:
    """The initializer of embedding tables."""
    stddev = {"1/sqrt(d_model)": config.embedding_width**-0.5, "normal": config.init_stddev, "unit": 1.0}
    return nn.initializers.normal(stddev[config.embedding_init])


class NormLayer(nn.Module):
    """The model's norm, with its parameters."""

    config: Model

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The normalized input ... x D, in the type of computation (`dtype`)."""
        norm = self.config.norm
        p = declare(self, norm.parameters(x.shape[-1]), kernel_initializer(self.config))
        return norm(p, x.astype(jnp.dtype(self.config.dtype)))


class FeedForwardLayer(nn.Module):
    """The model's feed-forward component, with its parameters and dropout on its inner activations."""

    config: Model
    stack: Any
    deterministic: bool

    @nn.compact
    def __call__(self, x_BxTxD: Array) -> Array:
        config, feed_forward = self.config, self.config.feed_forward
        declared = lora.declared(config, feed_forward.parameters(config.sizes(self.stack)))
        p = lora.adapted(config, declare(self, declared, kernel_initializer(config)))
        dropout = Dropout(feed_forward.dropout_rate, config.dropout_generator, self.deterministic, name="dropout")
        return feed_forward.output(p, dropout(feed_forward.hidden(p, x_BxTxD)))


class ResidualParameters(nn.Module):
    """The parameters of the residual connection of one sublayer."""

    config: Model
    stack: Any

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        declared = self.config.residual.parameters(self.config.sizes(self.stack))
        return declare(self, declared, kernel_initializer(self.config))


class Embedding(nn.Module):
    """A table of vectors that embeds tokens and, if it is tied, also maps states to logits (Press and Wolf 2017)."""

    rows: int
    config: Model

    def setup(self) -> None:
        self.table_NxD = self.param("table", embedding_initializer(self.config), (self.rows, self.config.d_model))

    def __call__(self, tokens_BxT: Array) -> Array:
        """Embeddings BxTxD, multiplied by sqrt(D) if `config.embedding_scale` says so (section 3.4)."""
        x_BxTxD = jnp.take(rows_whole(self.table_NxD), tokens_BxT, axis=0).astype(self.config.dtype)
        if self.config.embedding_scale == "sqrt(d_model)":
            x_BxTxD = x_BxTxD * math.sqrt(self.config.embedding_width)
        return by_rows(x_BxTxD)

    def factors(self, states_BxTxD: Array) -> tuple[Array, Array]:
        """States and the table, whose products are the logits. With muP, states are divided by the ratio of widths."""
        ratio = self.config.width_ratio
        return states_BxTxD if ratio == 1 else states_BxTxD / ratio, rounded(self.config, self.table_NxD)

    def logits(self, states_BxTxD: Array) -> Array:
        """States times the table: BxTxN in fp32."""
        return all_products(*self.factors(states_BxTxD))


def all_products(states_BxTxD: Array, table_NxD: Array) -> Array:
    """The product of each state with each row of a table: BxTxN in fp32.

    On a CPU, XLA copies the second factor into another layout on each call. If there are few states, they are the second
    factor, because they are smaller than the table. The memory layout of the result then has N first (`entries_first`).
    """
    if entries_first(states_BxTxD.shape[0] * states_BxTxD.shape[1]):
        # In fp32, because XLA has no half-precision product for these factors (JAX 0.10.2). Products of bf16 are exact in it.
        dtype = narrower(states_BxTxD, table_NxD)
        table_NxD, states_BxTxD = (each.astype(dtype).astype(jnp.float32) for each in (table_NxD, states_BxTxD))
        return jnp.moveaxis(jnp.einsum("nd,btd->nbt", table_NxD, states_BxTxD), 0, -1)
    return wide_product("btd,nd->btn", states_BxTxD, table_NxD)


def entries_first(states: int) -> bool:
    """Whether the result of `all_products` for this number of states has the rows of the table as the first axis in memory."""
    return 1 < states <= 64 and jax.default_backend() == "cpu"


def sublayers(config: Model, cross: bool) -> list[str]:
    """The names of a layer's sublayers, from the bottom."""
    has_feed_forward = not isinstance(config.feed_forward, NoFeedForward)
    return ["self_attention", *["cross_attention"] * cross, *["feed_forward"] * has_feed_forward]


Carried = tuple[Array, Streams]  # from layer to layer: the residual stream, and what self-attention passes up


class Layer(nn.Module):
    """Self-attention, cross-attention if `cross`, and feed-forward unless it is `none`, each with its norm, dropout and
    residual connection.

    A sublayer f computes, depending on `norm_order`: post (the paper): norm(x + f(x)); pre: x + f(norm(x)); sandwich: x +
    norm(f(norm(x))); output: x + norm(f(x)). Dropout is applied to what is added to x. What f reads and how it is added are
    steps of the residual connection, `config.residual`.
    """

    config: Model
    stack: Any
    cross: bool
    deterministic: bool

    @nn.compact
    def __call__(
        self, carried: Carried, per_layer: dict[str, Any], broadcast: dict[str, Any]
    ) -> tuple[Carried, dict[str, Any] | None]:
        """`per_layer`: values that differ between layers (number, first sublayer, memory, cache); `broadcast`: tokens, position
        parameters and the number of sublayers.

        Returns what is carried to the next layer, and the layer's cache, as a scan over layers requires.
        """
        config, (stream, below) = self.config, carried
        cache, write, keys, kind, allowed = per_layer.get("cache"), None, broadcast["query"], "", None
        if cache is not None:
            (kind, cache), step = next(iter(cache.items())), broadcast["step"]
            window = config.ring if kind == "ring" else 0
            write, keys, allowed = step.writes[window], step.new if kind == "state" else step.keys[window], step.allowed
        mask = config.self_mask(self.stack, not self.deterministic)
        ordered = kind not in ("slots", "ring")
        pairs = Pairs(
            broadcast["query"], keys, per_layer["number"], mask, aligned=cache is None, ordered=ordered, allowed=allowed
        )
        written = None

        def attention(role: Role, pairs: Pairs, **arguments: Any) -> Callable[[Array], Array]:
            module = AttentionLayer(
                config, self.stack, role, kernel_initializer(config), self.deterministic, name=f"{role}_attention"
            )

            def call(x: Array) -> Array:
                nonlocal written, below
                output, new, above = module(x, pairs, **arguments)
                if role == "self":
                    written, below = None if new is None else {kind: new}, above
                return output

            return call

        of_stack = broadcast.get("position_parameters")
        arguments = {"cache": cache, "write": write, "position_parameters": of_stack, "below": below}
        functions = {"self_attention": attention("self", pairs, **arguments)}
        if self.cross:
            source = Pairs(broadcast["cross_query"], broadcast["memory"], per_layer["number"])
            functions["cross_attention"] = attention("cross", source, memory=per_layer["memory"])
        functions["feed_forward"] = FeedForwardLayer(config, self.stack, self.deterministic, name="feed_forward")
        start = stream
        for index, name in enumerate(sublayers(config, self.cross)):
            sublayer = Sublayer(name, per_layer["first_sublayer"] + index, broadcast["sublayers"])
            stream = self._connect(sublayer, functions[name], stream, start)
        return (stream, below), written

    def _connect(self, sublayer: Sublayer, function: Callable[[Array], Array], stream: Array, start: Array) -> Array:
        config, residual, name = self.config, self.config.residual, sublayer.name
        order, norm = config.norm_order, NormLayer(config, name=f"{name}_norm")
        dropout = Dropout(config.dropout_rate, config.dropout_generator, self.deterministic, name=f"{name}_dropout")
        p = ResidualParameters(config, self.stack, name=f"{name}_residual")()
        x_BxTxD = residual.read(p, stream, start, sublayer)
        if order == "post":
            return norm(residual.write(p, stream, dropout(function(x_BxTxD)), sublayer))
        bare = order == "output" or (name == "self_attention" and not config.attention_norm)
        y_BxTxD = function(x_BxTxD if bare else norm(x_BxTxD))
        if order != "pre":
            last = norm if order == "output" else NormLayer(config, name=f"{name}_output_norm")
            y_BxTxD = last(y_BxTxD)
        return residual.write(p, stream, dropout(y_BxTxD), sublayer)
