"""attend(), one pure function with several backends, and the module with the projections around it.

Vaswani et al. 2017, equation 1 and section 3.2.2. Masks come from masks.py, what positions add from positions.py.

Letters: B rows of a batch, T queries, S keys, H heads, K width of a head's queries and keys, V of its values, D d_model.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging

from transformer.config import Model
from transformer.models.dropout import dropout
from transformer.models.masks import Mask, Side
from transformer.models.measures import of_softmax
from transformer.models.positions import NoPositions
from transformer.models.variants import divided, hard_maximum, sliced

Array = jax.Array
# What positions add to logits or outputs: a function of (scaled queries or weights, query positions, key positions).
Extra = Callable[[Array, Array, Array], Array | None]

# Finite, so that a fully masked row gives no NaN; far below any logit, and -MASKED is still finite in fp32.
MASKED = -1e30


def attend(
    query_BxTxHxK: Array,
    key_BxSxHxK: Array,
    value_BxSxHxV: Array,
    mask: Mask,
    *,
    scale: Array | float,
    bias: Extra | None = None,
    extra_values: Extra | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    dropout_generator: str = "hash",
    hard: bool = False,
    backend: str = "plain",
    chunk: int = 512,
) -> Array:
    """softmax(scale Q K^T + bias) V over the keys that `mask` lets a query see: BxTxHxV.

    A row that sees nothing gives zeros, and zero gradients. The softmax is in fp32. `scale` is a number, or one per
    head. `bias` and `extra_values` are called with a block of scaled queries (of weights BxHxTxS) and both sides'
    positions. `hard`: variants.hard_maximum for the softmax. `backend`: "plain", "chunked" (blocks of `chunk` queries,
    each computed again in the backward pass: memory O(T)), or "library" (jax.nn.dot_product_attention, fused on some
    accelerators; no dropout, no `extra_values`, no V other than K, not `hard`: these fall back to plain, and the log says so).
    """
    scale = jnp.asarray(scale, query_BxTxHxK.dtype)
    query_BxTxHxK = query_BxTxHxK * scale.reshape((1, 1, -1, 1))
    own_width = value_BxSxHxV.shape[-1] != query_BxTxHxK.shape[-1]
    if backend == "library" and (extra_values is not None or dropout_key is not None or own_width or hard):
        message = "attention: the library's backend has no dropout, values by position, d_v but d_k, hard maximum; using plain"
        logging.log_first_n(logging.INFO, message, 1)
        backend = "plain"

    def block(query: Array, block_mask: Mask, key: Array | None) -> Array:
        weights = attention_weights(query, key_BxSxHxK, block_mask, bias, hard)
        if key is not None and dropout_rate > 0:
            weights = dropout(weights, dropout_rate, key, dropout_generator)
        return weighted_values(weights, value_BxSxHxV, block_mask, extra_values)

    length = query_BxTxHxK.shape[1]
    if backend == "library":
        return _library(query_BxTxHxK, key_BxSxHxK, value_BxSxHxV, mask, bias)
    if backend == "plain" or length <= chunk:
        return block(query_BxTxHxK, mask, dropout_key)

    # The last block is moved back to end at the last query, so that no query is padded; what overlaps is the same twice.
    starts = jnp.minimum(jnp.arange(0, length, chunk), length - chunk)

    @jax.checkpoint
    def one(start: Array) -> Array:
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, start)
        return block(jax.lax.dynamic_slice_in_dim(query_BxTxHxK, start, chunk, axis=1), mask.block(start, chunk), key)

    blocks = jax.lax.map(one, starts)
    whole = [jnp.moveaxis(blocks[:-1], 0, 1).reshape(blocks.shape[1], -1, *blocks.shape[3:])]
    overlap = len(starts) * chunk - length
    return jnp.concatenate([*whole, blocks[-1][:, overlap:]], axis=1)


def attention_weights(query_BxTxHxK: Array, key_BxSxHxK: Array, mask: Mask, bias: Extra | None, hard: bool) -> Array:
    """The softmax of equation 1, or its hard maximum, queries already scaled: BxHxTxS in the type of the queries."""
    logits, seen = attention_logits(query_BxTxHxK, key_BxSxHxK, mask, bias), mask.booleans()
    weights = jax.nn.softmax(logits, axis=-1) if seen is None else masked_softmax(logits, seen)
    return (hard_maximum(weights) if hard else weights).astype(query_BxTxHxK.dtype)


def attention_logits(query_BxTxHxK: Array, key_BxSxHxK: Array, mask: Mask, bias: Extra | None) -> Array:
    """What goes into the softmax, queries already scaled, masked keys too: BxHxTxS in fp32."""
    logits = jnp.einsum("bthk,bshk->bhts", query_BxTxHxK, key_BxSxHxK, preferred_element_type=jnp.float32)
    added = bias(query_BxTxHxK, mask.query.positions, mask.key.positions) if bias else None
    return logits if added is None else logits + added.astype(jnp.float32)


def masked_softmax(logits: Array, seen: Array) -> Array:
    """Of the last axis, in fp32; zeros, and zero gradients, where nothing is seen. `seen` broadcasts to `logits`."""
    logits = jnp.where(seen, logits.astype(jnp.float32), MASKED)
    highest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    powers = jnp.where(seen, jnp.exp(logits - highest), 0)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    # Not a maximum with something tiny: its gradient would pass through infinities, masked only at the end.
    return powers / jnp.where(total > 0, total, 1)


def weighted_values(weights_BxHxTxS: Array, value_BxSxHxV: Array, mask: Mask, extra_values: Extra | None) -> Array:
    """Weights times values, and what positions add to values: BxTxHxV."""
    result = jnp.einsum("bhts,bshv->bthv", weights_BxHxTxS, value_BxSxHxV)
    added = extra_values(weights_BxHxTxS, mask.query.positions, mask.key.positions) if extra_values else None
    return result if added is None else result + added


def _library(query: Array, key: Array, value: Array, mask: Mask, bias: Extra | None) -> Array:
    """jax.nn.dot_product_attention; it gives the mean of the values where nothing is seen, so its output is masked."""
    added = bias(query, mask.query.positions, mask.key.positions) if bias else None
    seen = mask.booleans()
    result = jax.nn.dot_product_attention(query, key, value, bias=added, mask=seen, scale=1.0)
    if seen is None:
        return result
    return jnp.where(jnp.moveaxis(jnp.any(seen, axis=-1, keepdims=True), 1, 2), result, 0)


def choose_backend(wanted: str, length: int) -> str:
    """What "auto" stands for: chunked from 1,024 queries on, where T x S weights outgrow everything else; else plain."""
    if wanted == "auto":
        return "chunked" if length >= 1024 else "plain"
    return wanted


SCALES: dict[str, Callable[[int], float]] = {
    "1/sqrt(d_k)": lambda d_k: d_k**-0.5,
    "none": lambda d_k: 1.0,
    "1/d_k": lambda d_k: 1.0 / d_k,
    "learned": lambda d_k: d_k**-0.5,  # where it starts
    "0": lambda d_k: 0.0,
}


class MultiHeadAttention(nn.Module):
    """Concat(head_1, .., head_h) W^O with head_i = attend(x W_i^Q, m W_i^K, m W_i^V) (section 3.2.2).

    Self-attention projects keys and values itself; cross-attention is handed them (`memory`, BxHxSxK and V), computed once
    for a source. `keys_of` a batch of B sentences serve queries of B x n rows, row b n + i being of sentence b (beams).
    """

    config: Model
    positions: NoPositions
    kernel_init: Any
    cross: bool = False
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x_BxTxD: Array,
        mask: Mask,
        *,
        memory: tuple[Array, Array] | None = None,
        cache: dict[str, Array] | None = None,
        slot: Array | None = None,
        position_parameters: Any = None,
        gates: Array | None = None,
    ) -> tuple[Array, dict[str, Array] | None]:
        """Output BxTxD, and the cache with this call's keys and values written from `slot` on (None without a cache).

        `gates`: factors on heads, H, or BxH, each row its own.
        """
        config, dtype = self.config, x_BxTxD.dtype
        query = self._project("query", config.key_width)(x_BxTxD)
        if config.qk_norm:
            query = HeadNorm(config.norm_epsilon, name="query_norm")(query)
        if self.cross:
            assert memory is not None
            key, value = (jnp.swapaxes(x_BxHxSxK, 1, 2) for x_BxHxSxK in memory)
            positions = NoPositions()
        else:
            if config.attention_keys == "queries":
                key = query
            else:
                key = self._project("key", config.key_width)(x_BxTxD)
                if config.qk_norm:
                    key = HeadNorm(config.norm_epsilon, name="key_norm")(key)
            if config.attention_values == "inputs":
                value = sliced(x_BxTxD, config.num_heads)
            else:
                value = self._project("value", config.value_width)(x_BxTxD)
            positions = self.positions
            if positions.owner == "layer":
                position_parameters = {n: self.param(f"position_{n}", *spec) for n, spec in positions.parameters().items()}
            query = positions.turn(query, mask.query.positions)
            key = positions.turn(key, mask.query.positions)
        if cache is not None:
            assert slot is not None
            new = {"key": key, "value": value}
            cache = {
                name: jax.lax.dynamic_update_slice_in_dim(held, jnp.swapaxes(new[name], 1, 2).astype(held.dtype), slot, axis=2)
                for name, held in cache.items()
            }
            key, value = jnp.swapaxes(cache["key"], 1, 2), jnp.swapaxes(cache["value"], 1, 2)

        scale: Array | float = SCALES[config.attention_scale](config.key_width)
        if config.attention_scale == "learned":
            scale = self.param("scale", nn.initializers.constant(scale), (config.num_heads,))

        def bias(queries: Array, query_positions: Array, key_positions: Array) -> Array | None:
            return positions.logits(position_parameters or {}, queries, query_positions, key_positions)

        def extra_values(weights: Array, query_positions: Array, key_positions: Array) -> Array | None:
            return positions.values(position_parameters or {}, weights, query_positions, key_positions)

        rows, length = query.shape[:2]
        beams = rows // key.shape[0]
        if beams > 1:
            query = query.reshape(key.shape[0], beams * length, *query.shape[2:])
            mask = Mask(Side(jnp.zeros((beams * length,), jnp.int32)), mask.key)  # beams see a source whole
        has_extra = type(positions).values is not NoPositions.values
        dropping, hard = config.attention_dropout_rate > 0 and not self.deterministic, config.attention_maximum == "hard"
        heads_BxTxHxV = attend(
            query,
            key.astype(dtype),
            value.astype(dtype),
            mask,
            scale=scale,
            bias=None if type(positions).logits is NoPositions.logits else bias,
            extra_values=extra_values if has_extra else None,
            dropout_rate=config.attention_dropout_rate,
            dropout_key=self.make_rng("dropout") if dropping else None,
            dropout_generator=config.dropout_generator,
            hard=hard,
            backend=choose_backend(config.attention_backend, query.shape[1]),
            chunk=config.attention_chunk,
        )
        if not self.is_initializing():
            self._observe(query * jnp.asarray(scale, dtype).reshape((1, 1, -1, 1)), key.astype(dtype), mask, bias, hard)
        if beams > 1:
            heads_BxTxHxV = heads_BxTxHxV.reshape(rows, length, *heads_BxTxHxV.shape[2:])
        if gates is not None:
            heads_BxTxHxV = heads_BxTxHxV * gates.astype(dtype).reshape((-1, 1, gates.shape[-1], 1))
        if config.attention_heads == "summed":
            return self._dense("summed_output", config.d_model, -1)(heads_BxTxHxV.sum(axis=2)), cache
        return self._dense("output", config.d_model, (-2, -1))(heads_BxTxHxV), cache

    def _observe(self, query: Array, key: Array, mask: Mask, bias: Extra, hard: bool) -> None:
        """Sows what the caller asks for by making its collection mutable: `weights`, and measures of the softmax."""
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(query, key, mask, bias, hard))
        if self.is_mutable_collection("measures"):
            logits, seen = attention_logits(query, key, mask, bias), mask.booleans()
            seen = jnp.broadcast_to(jnp.ones((1,) * 4, bool) if seen is None else seen, logits.shape)
            self.sow("measures", "softmax", of_softmax(logits, masked_softmax(logits, seen), seen))

    def _project(self, name: str, width: int) -> nn.DenseGeneral:
        init, divisor = self.kernel_init, math.sqrt(width)
        by_width = name == "query" and self.config.query_init == "initializer/sqrt(d_k)"
        return self._dense(name, (self.config.num_heads, width), -1, divided(init, divisor) if by_width else init)

    def _dense(self, name: str, outputs: Any, axis: Any, init: Any = None) -> nn.DenseGeneral:
        return nn.DenseGeneral(
            outputs,
            axis,
            use_bias=self.config.attention_bias,
            kernel_init=init or self.kernel_init,
            dtype=jnp.dtype(self.config.dtype),
            name=name,
        )


class HeadNorm(nn.Module):
    """RMSNorm of each head's queries or keys, one learned factor per width (QK-norm; Dehghani et al. 2023, section 2)."""

    epsilon: float
    shape: tuple[int, ...] = ()  # leading axes of the factor, e.g. (layers,)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """... x K -> the same."""
        factor = self.param("scale", nn.initializers.ones_init(), (*self.shape, x.shape[-1]))
        factor = factor.reshape(self.shape + (1,) * (x.ndim - len(self.shape) - 1) + (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * factor).astype(x.dtype)


class MemoryProjection(nn.Module):
    """Keys and values of every decoder layer's cross-attention, from the encoder's states, in one product each.

    They depend on the source alone, so they are computed once for a source, shared by all beams and steps.
    """

    config: Model
    num_layers: int
    kernel_init: Callable[..., Any]

    @nn.compact
    def __call__(self, states_BxSxD: Array) -> tuple[Array, Array]:
        """(LxBxHxSxK, LxBxHxSxV), L the decoder's layers."""
        keys = self._project("key", self.config.key_width, states_BxSxD)
        if self.config.qk_norm:
            keys = HeadNorm(self.config.norm_epsilon, (self.num_layers,), name="key_norm")(keys)
        if self.config.attention_values == "inputs":
            value_BxSxHxV = sliced(states_BxSxD, self.config.num_heads)
            value_BxHxSxV = jnp.swapaxes(value_BxSxHxV, 1, 2)
            return keys, jnp.broadcast_to(value_BxHxSxV[None], (self.num_layers, *value_BxHxSxV.shape))
        return keys, self._project("value", self.config.value_width, states_BxSxD)

    def _project(self, name: str, width: int, states_BxSxD: Array) -> Array:
        heads, d_model = self.config.num_heads, states_BxSxD.shape[-1]

        def stacked(key: Array, shape: tuple[int, ...]) -> Array:
            flat = jax.vmap(lambda k: self.kernel_init(k, (d_model, heads * width), jnp.float32))
            return flat(jax.random.split(key, shape[0])).reshape(shape)

        kernel_LxDxHxK = self.param(f"{name}_kernel", stacked, (self.num_layers, d_model, heads, width))
        result = jnp.einsum("bsd,ldhk->lbhsk", states_BxSxD, kernel_LxDxHxK.astype(states_BxSxD.dtype))
        if self.config.attention_bias:
            bias_LxHxK = self.param(f"{name}_bias", nn.initializers.zeros_init(), (self.num_layers, heads, width))
            result = result + bias_LxHxK[:, None, :, None].astype(result.dtype)
        return result
