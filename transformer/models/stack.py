"""A stack of scanned layers, and logits. The models built from them are in transformer.py, the cache is in cache.py.

Layers may differ (`config.layer_pattern`): the body of the scan contains the layers of one period of the pattern. Remaining
layers, which do not fill a period, follow the scan one by one.

Letters: B rows (sentences), S source tokens, T target tokens, C slots of a cache, L layers, D d_model, H heads, N entries of
the target table.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from transformer.components.attention import MASKED
from transformer.components.masks import Pairs, Tokens
from transformer.components.parameters import Declared, Parameters, Streams
from transformer.components.positions import Bound
from transformer.config import Model
from transformer.models import cache as caches
from transformer.models.attention import nothing_below
from transformer.models.cache import Cache, Step
from transformer.models.declare import declare, rounded
from transformer.models.dropout import Dropout
from transformer.models.layers import (
    REMAT,
    Carried,
    Embedding,
    Layer,
    NormLayer,
    all_products,
    kernel_initializer,
    output_initializer,
    sublayers,
)

Array = jax.Array


@struct.dataclass
class Memory:
    """The source as the decoder sees it: its tokens and, for each layer of the pattern, streams with an axis of layers first.

    `unstacked`: there are separate streams for each layer of the decoder instead.
    """

    streams: tuple[Streams, ...]
    tokens: Tokens
    unstacked: bool = struct.field(pytree_node=False, default=False)

    def unstack(self, num_layers: int) -> "Memory":
        """The memory with separate arrays for each layer: see `unstack_layers`."""
        if self.unstacked:
            return self
        repeats = [unstack_layers(each) for each in self.streams]
        period = len(repeats)
        return Memory(tuple(repeats[n % period][n // period] for n in range(num_layers)), self.tokens, unstacked=True)

    def select(self, numbers_R: Array) -> "Memory":
        """The memory of the sources with these indices."""
        return self._map(lambda leaf: leaf[numbers_R])

    def put(self, numbers_R: Array, new: "Memory") -> "Memory":
        """Replaces the sources with these indices by the R sources of `new`, which must not be longer. An index past the last
        source is ignored."""
        new = new.resize(self.tokens.positions.shape[0])
        return self._map(lambda old, leaf: caches.put(old, numbers_R, leaf), new)

    def resize(self, length: int) -> "Memory":
        """The memory with space for `length` tokens in each source."""

        def fitted(kept: Streams) -> Streams:
            return caches.store({name: fit(stream, length, 1) for name, stream in caches.load(kept).items()})

        streams = tuple(map(fitted if self.unstacked else jax.vmap(fitted), self.streams))
        segments = None if self.tokens.segments is None else fit(self.tokens.segments, length, 1)
        tokens = self.tokens.replace(positions=jnp.arange(length), segments=segments)
        return dataclasses.replace(self, streams=streams, tokens=tokens)

    def _map(self, change: Callable[..., Array], *others: "Memory") -> "Memory":
        """Applies `change` to each array whose first axis is the source; positions are shared by all sources."""
        streams = jax.tree.map(change if self.unstacked else jax.vmap(change), self.streams, *(each.streams for each in others))
        segments = jax.tree.map(change, self.tokens.segments, *(each.tokens.segments for each in others))
        return dataclasses.replace(self, streams=streams, tokens=self.tokens.replace(segments=segments))

    def hide(self, hidden_BxS: Array) -> "Memory":
        """The memory in which attention does not see the tokens where `hidden_BxS` is true."""
        segments = jnp.ones(hidden_BxS.shape, jnp.int32) if self.tokens.segments is None else self.tokens.segments
        tokens = self.tokens.replace(segments=jnp.where(hidden_BxS, 0, segments), gaps=True)
        return dataclasses.replace(self, tokens=tokens)


def fit(x: Array, length: int, axis: int) -> Array:
    """The first `length` entries of an axis, padded with zeros if there are fewer."""
    x = jax.lax.slice_in_dim(x, 0, min(length, x.shape[axis]), axis=axis)
    return jnp.pad(x, [(0, length - x.shape[n] if n == axis else 0) for n in range(x.ndim)])


class Period(nn.Module):
    """The layers of one period of the pattern."""

    types: tuple[Model, ...]
    stack: Any
    cross: bool
    deterministic: bool

    @nn.compact
    def __call__(self, carried: Carried, per_layer: Sequence[Any], broadcast: dict[str, Any]) -> tuple[Carried, None]:
        for number, (config, own) in enumerate(zip(self.types, per_layer, strict=True)):
            layer = _rematerialized(config)(config, self.stack, self.cross, self.deterministic, name=str(number))
            carried, _ = layer(carried, own, broadcast)
        return carried, None


def _rematerialized(config: Model, scanned: bool = True) -> Any:
    """A layer. In a scan, XLA cannot merge what the backward pass computes again with the forward pass; elsewhere it must be
    kept from it."""
    return Layer if config.remat == "none" else nn.remat(Layer, policy=REMAT[config.remat], prevent_cse=not scanned)


class Stack(nn.Module):
    """Positions, dropout and `num_layers` scanned layers: parameters have a leading axis of layers, whatever the depth."""

    config: Model
    stack: Any
    cross: bool

    @nn.compact
    def __call__(
        self,
        x_BxTxD: Array,
        query: Tokens,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
        step: Step | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Cache | None]:
        """States BxTxD, and the updated cache if there is one; `step` is given together with `cache`."""
        config, layers = self.config.of_stack(self.stack), self.config.depth(self.stack)
        positions = config.positions
        declared = positions.parameters(config.sizes(self.stack), config.init_stddev) if positions.owner == "stack" else {}
        parameters = declare(self, declared, kernel_initializer(config), prefix="position_")
        x_BxTxD = positions.embed(parameters, x_BxTxD, query.positions)
        if config.embedding_norm:
            x_BxTxD = NormLayer(config, name="embedding_norm")(x_BxTxD)
        x_BxTxD = Dropout(config.dropout_rate, config.dropout_generator, deterministic, name="embedding_dropout")(x_BxTxD)

        broadcast: dict[str, Any] = {"query": query, "position_parameters": parameters}
        if memory is not None:
            broadcast |= {"cross_query": Tokens(query.positions, None if cache else query.segments), "memory": memory.tokens}
        types = config.layers_of_period(self.stack)
        counts = [len(sublayers(types[number % len(types)], self.cross)) for number in range(layers)]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        per_layer: dict[str, Any] = {"number": jnp.arange(layers), "first_sublayer": jnp.asarray(first[:-1])}
        broadcast["sublayers"] = jnp.asarray(first[-1])
        carried = config.residual.open(x_BxTxD), nothing_below(types, self.stack, x_BxTxD)
        if cache is not None:
            stream, cache = self._with_cache(types, carried, per_layer, memory, broadcast | {"step": step}, cache)
        else:
            stream = self._scanned(types, carried, per_layer, memory, broadcast, deterministic)
        x_BxTxD = config.residual.close(stream)
        if config.has_final_norm:
            x_BxTxD = NormLayer(config, name="final_norm")(x_BxTxD)
        return x_BxTxD, cache

    def _scanned(
        self,
        types: tuple[Model, ...],
        carried: Carried,
        per_layer: Any,
        memory: Memory | None,
        broadcast: Any,
        deterministic: bool,
    ) -> Array:
        """Scans one compiled body over all repeats of the pattern, then applies the remaining layers."""
        config, period = self.config, len(types)
        repeats, left = divmod(config.depth(self.stack), period)

        def own(number: int, part: Any, of_memory: Any) -> Any:
            mine = jax.tree.map(lambda leaf: leaf[part], per_layer)
            return (
                mine
                if memory is None
                else mine | {"memory": jax.tree.map(lambda leaf: leaf[of_memory], memory.streams[number])}
            )

        if repeats:
            body: Any = Period if period > 1 else _rematerialized(config)
            layers = nn.scan(
                body,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),  # type: ignore[arg-type]  (a tuple, as its docstring says)
                length=repeats,
                unroll=min(config.unroll, repeats),
            )
            each = [own(n, slice(n, repeats * period, period), slice(0, repeats)) for n in range(period)]
            what = types if period > 1 else types[0]
            carried, _ = layers(what, self.stack, self.cross, deterministic, name="layers")(
                carried, each if period > 1 else each[0], broadcast
            )
        for number in range(left):
            kind = _rematerialized(types[number], scanned=False)
            layer = kind(types[number], self.stack, self.cross, deterministic, name=f"rest_{number}")
            carried, _ = layer(carried, own(number, repeats * period + number, repeats), broadcast)
        return carried[0]

    def _with_cache(
        self, types: tuple[Model, ...], carried: Carried, per_layer: Any, memory: Memory | None, broadcast: Any, cache: Cache
    ) -> tuple[Array, Cache]:
        """Applies the layers one by one, so that each layer's streams are separate arrays, which are updated in place."""
        count, written = len(cache["layers"]), []
        parameters = layers_in_order(self.variables["params"], len(types), count)
        memories = None if memory is None else memory.unstack(count).streams
        for index, layer_cache in enumerate(cache["layers"]):
            own = jax.tree.map(lambda leaf, i=index: leaf[i], per_layer) | {"cache": layer_cache}
            own |= {} if memories is None else {"memory": memories[index]}
            layer = Layer(types[index % len(types)], self.stack, self.cross, True, parent=None)
            carried, layer_cache = layer.apply({"params": parameters[index]}, carried, own, broadcast)
            written.append(layer_cache)
        return carried[0], cache | {"layers": written}


def unstack_layers(stacked: Any, count: int | None = None) -> tuple[Any, ...]:
    """A tree for each layer, from a tree `stacked` whose leaves have a leading axis of layers; a tuple is returned
    unchanged.
    """
    if isinstance(stacked, tuple):
        return stacked
    count = len(jax.tree.leaves(stacked)[0]) if count is None else count
    return tuple(jax.tree.map(lambda leaf, i=index: leaf[i], stacked) for index in range(count))


def layers_in_order(params: Mapping[str, Any], period: int, count: int) -> tuple[Any, ...]:
    """The parameters of each layer of a stack, in order; `layers` may already be such a tuple."""
    if isinstance(params.get("layers"), tuple):
        return params["layers"]
    repeats = unstack_layers(params["layers"]) if "layers" in params else ()
    scanned = [repeat if period == 1 else repeat[str(number)] for repeat in repeats for number in range(period)]
    return tuple(scanned + [params[f"rest_{number}"] for number in range(count - len(scanned))])


def layer_path(number: int, period: int, count: int) -> tuple[tuple[str, ...], int | None]:
    """The path of layer `number` (from 0) in a stack's parameters, and its index in the arrays if layers are stacked
    in them.
    """
    repeat, offset = divmod(number, period)
    if repeat == count // period:
        return (f"rest_{offset}",), None
    return ("layers",) if period == 1 else ("layers", str(offset)), repeat


def unstack_for_decoding(config: Model, params: Any, memory: Memory | None) -> tuple[Any, Memory | None]:
    """Parameters and memory with the decoder's layers unstacked. Otherwise XLA would slice every layer out of the stacked
    arrays again at each step of a decoding loop."""
    if not config.remembers_keys:  # the whole stack recomputes the prefix
        return params, memory
    count = config.num_decoder_layers
    layers = layers_in_order(params["decoder"], len(config.layers_of_period("decoder")), count)
    decoder = {n: each for n, each in params["decoder"].items() if not n.startswith("rest_")} | {"layers": layers}
    return {**params, "decoder": decoder}, None if memory is None else memory.unstack(count)


def start_cache(config: Model, rows: int, max_length: int) -> Cache:
    """An empty cache of `max_length` slots for a decoder (see cache.py). Layers with a shorter window have rings.

    If the mask is not causal, keys change with every later token; then the cache holds the tokens instead.
    """
    if not config.remembers_keys:
        empty = caches.start_tokens(rows, max_length, set())
        return empty | {"tokens": jnp.zeros((rows, max_length), jnp.int32)}
    types = config.layers_of_period("decoder")
    layers = [_empty(types[index % len(types)], rows, max_length) for index in range(config.num_decoder_layers)]
    windows = {each.ring for each in types if each.ring is not None and each.ring < max_length}
    return caches.start_tokens(rows, max_length, windows) | {"layers": layers}


def _empty(config: Model, rows: int, max_length: int) -> dict[str, Any]:
    """The empty cache of a layer; names, shapes and types of its streams are those of the output of `from_below`."""
    attention, sizes = config.attention, config.sizes("decoder")
    if (state := attention.state(sizes, rows)) is not None:
        return {"state": state}
    kind, slots = ("slots", max_length) if config.ring is None or config.ring >= max_length else ("ring", config.ring)

    def shapes(declared: Declared) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: jax.ShapeDtypeStruct(each.shape, jnp.float32) for name, each in declared.items()}

    def keys(p: Parameters, of_positions: Parameters, x_BxSxD: Array) -> Streams:
        positions, tokens = Bound(config.positions, of_positions), Tokens(jnp.arange(slots))
        own, below = attention.keys(p, x_BxSxD, tokens, positions, sizes), nothing_below((config,), "decoder", x_BxSxD)
        return caches.store(attention.from_below(p, own, below, Pairs(tokens, tokens, sizes=sizes))[0])

    p = shapes({**attention.key_parameters(sizes), **attention.parameters(sizes)})
    x = jax.ShapeDtypeStruct((rows, slots, config.d_model), jnp.dtype(config.dtype))
    kept = jax.eval_shape(keys, p, shapes(config.positions.parameters(sizes, config.init_stddev)), x)
    return {kind: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kept)}


def recompute_prefix(
    decoder: Stack, embedding: Embedding, tokens_BxT: Array, cache: Cache, memory: Memory | None, valid_BxT: Array
) -> tuple[Array, Cache]:
    """Without a cache of keys, recomputes the whole prefix. Returns states BxTxD of the T new tokens and the updated cache."""
    slot = cache["slot"][0]
    cache, _ = caches.advance(cache, valid_BxT)
    tokens_BxC = jax.lax.dynamic_update_slice_in_dim(cache["tokens"], tokens_BxT, slot, axis=1)
    # Rotate into the order of the text: the new tokens come last.
    read, positions, segments = (
        jnp.roll(each, -(slot + tokens_BxT.shape[1]), axis=1) for each in (tokens_BxC, cache["positions"], cache["segments"])
    )
    states_BxCxD, _ = decoder(embedding(read), Tokens(positions, segments), memory=memory)
    return states_BxCxD[:, -tokens_BxT.shape[1] :], cache | {"tokens": tokens_BxC}


class Factors(NamedTuple):
    """States and a table whose products are a model's logits; `more` names further operations on them, such as a bias."""

    states_BxTxD: Array
    table_NxD: Array
    more: str | None


class Logits(nn.Module):
    """Maps states to fp32 logits BxTxN, with a tied table or a separate one. Entries outside of the vocabulary are masked.

    With `factors`, returns the factors of the logits instead, without entries outside of the vocabulary.
    """

    config: Model
    rows: int
    size: int

    @nn.compact
    def __call__(self, states_BxTxD: Array, tied: Embedding | None, factors: bool = False) -> Any:
        config = self.config
        if config.logits_scale == "1/sqrt(d_model)":
            states_BxTxD = states_BxTxD * config.embedding_width**-0.5
        own: Any = None
        if not tied:
            own = rounded(config, self.param("kernel", output_initializer(config), (config.d_model, self.rows)).T)
        if factors:
            states_BxTxD, table_NxD = tied.factors(states_BxTxD) if tied else (states_BxTxD, own)
            more = ["a bias"] * config.logits_bias + ["a cap"] * (config.logits_cap is not None)
            return Factors(states_BxTxD, table_NxD[: self.size], " and ".join(more) or None)
        logits = tied.logits(states_BxTxD) if tied else all_products(states_BxTxD, own)
        if config.logits_bias:
            logits = logits + self.param("bias", nn.initializers.zeros_init(), (self.rows,))[None, None]
        if config.logits_cap is not None:
            logits = config.logits_cap * jnp.tanh(logits / config.logits_cap)
        if self.rows == self.size:
            return logits
        return jnp.where((jnp.arange(self.rows) < self.size)[None, None], logits, MASKED)
