"""The Flax modules around the attention component: they own its parameters and pass them to its hooks.

The computation itself is in components/attention.py, and caches are in cache.py.

Letters: B rows of a batch, T queries, S keys, H heads, K width of a head's queries and keys, V of its values, D d_model.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components import fused
from transformer.components.attention import Attention, Backend, backend_without_kernel
from transformer.components.masks import Pairs, Role, Sizes, Stack, Tokens
from transformer.components.parameters import Parameters, Streams
from transformer.components.positions import Bound
from transformer.config import Model
from transformer.errors import UserError
from transformer.models import lora
from transformer.models.cache import Write, load, store
from transformer.models.declare import declare
from transformer.models.dropout import dropout

Array = jax.Array


def choose_backend(wanted: str, length: int, cached: bool = False) -> str:
    """The backend for `length` queries. "auto": fused if there are kernels and the queries fill a block of one, else the
    backend that `backend_without_kernel` chooses. With a cache there are few new tokens, and no kernel is used.
    """
    if wanted == "auto":
        wanted = "fused" if fused.available() and length >= fused.TILE else backend_without_kernel(length)
    return backend_without_kernel(length) if cached and wanted == "fused" else wanted


class Site(NamedTuple):
    """The arguments that an attention layer passes to the hooks."""

    attention: Attention
    p: Parameters
    q: Streams
    k: Streams
    pairs: Pairs
    positions: Bound

    def logits(self) -> Array:
        """BxHxTxS in fp32."""
        return self.attention.logits(self.p, self.q, self.k, self.pairs, self.positions)

    def weights(self) -> Array:
        """BxHxTxS in fp32."""
        return self.attention.weights(self.p, self.q, self.k, self.pairs, self.positions)


class AttentionLayer(nn.Module):
    """Self-attention, which projects keys and values itself, or cross-attention, which receives those of the source.

    With n beams, the keys of B sentences serve the queries of B x n rows; row b n + i belongs to sentence b.
    """

    config: Model
    stack: Stack
    role: Role
    kernel_init: Any
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x_BxTxD: Array,
        pairs: Pairs,
        *,
        memory: Streams | None = None,
        cache: dict[str, Array] | None = None,
        write: Write | None = None,
        position_parameters: Parameters | None = None,
        below: Streams | None = None,
    ) -> tuple[Array, dict[str, Array] | None, Streams]:
        """The output BxTxD, the cache with the streams of this call written (None without a cache), and what self-attention
        passes up.

        `memory`: streams of the source in the layout of `cache.store`. `below`: what the layer below passed up; None: nothing.
        """
        attention, sizes = self.config.attention, self.config.sizes(self.stack, self.role)
        own = self.role == "self"
        pairs = pairs.replace(sizes=sizes, training=not self.deterministic)
        declared = {**attention.parameters(sizes), **(attention.key_parameters(sizes) if own else {})}
        p = lora.adapted(self.config, declare(self, lora.declared(self.config, declared), self.kernel_init))
        if attention.random and not self.deterministic:
            p["random_key"] = self.make_rng("dropout")
        positions = self._positions(position_parameters or {}, sizes) if own else Bound()
        q = attention.queries(p, x_BxTxD, pairs.query, positions, sizes)
        backend = self._backend(pairs.query.positions.shape[-1], x_BxTxD.dtype, cache is not None)
        rows, beams, above = x_BxTxD.shape[0], 1, {}
        if own:
            below = nothing_below((self.config,), self.stack, x_BxTxD) if below is None else below
            k, new = attention.from_below(p, attention.keys(p, x_BxTxD, pairs.query, positions, sizes), below, pairs)
            above = below | {name: _declared(name, each, below) for name, each in new.items()}
        else:
            assert memory is not None
            k = load(memory)
            beams = rows // next(iter(k.values())).shape[0]
        if beams > 1:
            q = {name: stream.reshape(rows // beams, -1, *stream.shape[2:]) for name, stream in q.items()}
            length = beams * x_BxTxD.shape[1]
            pairs = pairs.replace(query=Tokens(jnp.zeros((length,), jnp.int32)))  # every query sees the whole source
        if cache is not None:
            assert write is not None
            heads_BxTxHxV, cache = attention.with_cache(p, q, k, pairs, positions, cache, write, backend)
        else:
            k = attention.expand(p, k, sizes)
            heads_BxTxHxV = attention.attend(p, q, k, pairs, positions, backend)
            if not self.is_initializing():
                heads_BxTxHxV = self.heads(heads_BxTxHxV, Site(attention, p, q, k, pairs, positions))
        if beams > 1:
            heads_BxTxHxV = heads_BxTxHxV.reshape(rows, -1, *heads_BxTxHxV.shape[2:])
        return attention.output(p, heads_BxTxHxV, x_BxTxD, sizes), cache, above

    def _positions(self, of_stack: Parameters, sizes: Sizes) -> Bound:
        positions = self.config.positions
        if positions.owner == "stack":
            return Bound(positions, of_stack)
        declared = positions.parameters(sizes, self.config.init_stddev)
        return Bound(positions, declare(self, declared, self.kernel_init, prefix="position_"))

    def _backend(self, length: int, dtype: Any, cached: bool) -> Backend:
        config, rate = self.config, self.config.attention.dropout_rate
        name: Any = choose_backend(config.attention_backend, length, cached)
        if rate == 0 or self.deterministic:
            return Backend(name, config.attention_chunk, None, dtype)
        key = self.make_rng("dropout")

        def drop(weights: Array, first: Array | int) -> Array:
            block = key if isinstance(first, int) and first == 0 else jax.random.fold_in(key, first)
            return dropout(weights, rate, block, config.dropout_generator)

        return Backend(name, config.attention_chunk, drop, dtype)

    def heads(self, heads_BxTxHxV: Array, site: Site) -> Array:
        """Returns the heads unchanged, and sows the weights if `intermediates` is mutable. Probes intercept this method."""
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", site.weights().astype(heads_BxTxHxV.dtype))
        return heads_BxTxHxV


def nothing_below(types: Iterable[Model], stack: Stack, x_BxTxD: Array) -> Streams:
    """Zeros for all that layers of these types pass up: what the first layer receives."""
    shapes: dict[str, tuple[int, ...]] = {}
    for each in types:
        shapes |= each.attention.passed_up(each.sizes(stack))
    return {name: jnp.zeros((*x_BxTxD.shape[:2], *shape), x_BxTxD.dtype) for name, shape in shapes.items()}


def _declared(name: str, passed: Array, below: Streams) -> Array:
    """What a layer passes up, in the type of what it receives. UserError: `passed_up` does not declare it so."""
    if name not in below:
        raise UserError(f"from_below passes up {name}, which passed_up does not declare")
    if passed.shape != below[name].shape:
        raise UserError(f"from_below passes up {name} of shape {passed.shape}; by passed_up its shape is {below[name].shape}")
    return passed.astype(below[name].dtype)


class MemoryProjection(nn.Module):
    """Projects the encoder's states to the streams of each decoder layer's cross-attention, in one product per kind of layer.

    They depend only on the source, so they are computed once for each source and shared by all beams and steps.
    """

    config: Model
    kernel_init: Callable[..., Any]

    @nn.compact
    def __call__(self, states_BxSxD: Array, tokens: Tokens) -> tuple[Streams, ...]:
        """For each layer of the pattern, its streams in the layout of `cache.store`, with the layers of that kind as first
        axis.
        """
        types, layers = self.config.layers_of_period("decoder"), self.config.num_decoder_layers
        counts = [len(range(number, layers, len(types))) for number in range(len(types))]
        return tuple(
            self._streams(config, count, f"{number}_" if len(types) > 1 else "", states_BxSxD, tokens)
            for number, (config, count) in enumerate(zip(types, counts, strict=True))
            if count
        )

    def _streams(self, config: Model, count: int, prefix: str, states_BxSxD: Array, tokens: Tokens) -> Streams:
        attention, sizes = config.attention, config.sizes("decoder", "cross")
        declared = lora.declared(config, attention.key_parameters(sizes))
        stacked = declare(self, declared, self.kernel_init, count, prefix)

        def of_layer(p: Parameters) -> Streams:
            return store(attention.keys(lora.adapted(config, p), states_BxSxD, tokens, Bound(), sizes))

        return jax.vmap(of_layer, axis_size=count)(stacked)
