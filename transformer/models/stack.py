"""A stack of scanned layers, what it remembers while text is generated, and logits. Models made of them: transformer.py.

Letters: B rows (sentences), S source tokens, T target tokens, C slots of a cache, L layers, D d_model, H heads, K, V head
widths, N entries of the target table.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer.config import Model
from transformer.models import gates as head_gates
from transformer.models import positions as positions_lib
from transformer.models.attention import MASKED
from transformer.models.dropout import Dropout
from transformer.models.layers import REMAT, Embedding, Layer, all_products, kernel_initializer, make_norm
from transformer.models.masks import Mask, Side

Array = jax.Array
Cache = dict[str, Any]


@struct.dataclass
class Memory:
    """What a decoder sees of a source: keys LxBxHxSxK and values LxBxHxSxV, or a tuple of each layer's; and whose they are."""

    keys: Any
    values: Any
    side: Side

    def apart(self) -> "Memory":
        """The same, each layer's an array of its own: see `apart`."""
        return self.replace(keys=apart(self.keys), values=apart(self.values))  # type: ignore[attr-defined]

    def of(self, numbers_b: Array) -> "Memory":
        """Of the sources with these numbers alone; layers are not apart."""
        side = jax.tree.map(lambda leaf: leaf if leaf.ndim == 1 else leaf[numbers_b], self.side)
        return Memory(self.keys[:, numbers_b], self.values[:, numbers_b], side)

    def without(self, hidden_BxS: Array) -> "Memory":
        """The same source, of which attention does not see the tokens where `hidden_BxS` is true."""
        segments = jnp.ones(hidden_BxS.shape, jnp.int32) if self.side.segments is None else self.side.segments
        return self.replace(side=self.side.replace(segments=jnp.where(hidden_BxS, 0, segments)))  # type: ignore[attr-defined]


class Stack(nn.Module):
    """Positions, dropout and `num_layers` layers, scanned: one parameter layout whatever the depth, layers first."""

    config: Model
    num_layers: int
    cross: bool
    bidirectional: bool

    @nn.compact
    def __call__(
        self,
        x_BxTxD: Array,
        mask: Mask,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
        gates: Mapping[str, Array] | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Cache | None]:
        """States BxTxD and the cache. `gates`: {"self": LxH, "cross": LxH}, factors on heads, or LxBxH, each row its own."""
        config = self.config
        positions = positions_lib.make(config, self.bidirectional)
        parameters = {}
        if positions.owner == "stack":
            parameters = {n: self.param(f"position_{n}", *spec) for n, spec in positions.parameters().items()}
        x_BxTxD = positions.embed(parameters, x_BxTxD, mask.query.positions)
        if config.embedding_norm:
            x_BxTxD = make_norm(config, "embedding_norm")(x_BxTxD)
        dropout = Dropout(config.dropout_rate, config.dropout_generator, deterministic, name="embedding_dropout")
        x_BxTxD = dropout(x_BxTxD)

        shared: dict[str, Any] = {"mask": mask, "position_parameters": parameters}
        own: dict[str, Any] = {"gates": dict(gates or {})}
        stack = "encoder" if self.bidirectional else "decoder"
        kinds = [kind for kind in ("self", "cross")[: 1 + self.cross] if head_gates.has_gates(config, f"{stack}/{kind}")]
        for kind in kinds:
            of_heads = nn.initializers.constant(head_gates.OPEN)
            log_alpha_LxH = self.param(f"{kind}_gates", of_heads, (self.num_layers, config.num_heads))
            factor_LxH = head_gates.gate(log_alpha_LxH, None if deterministic else self.make_rng("dropout"))
            given = own["gates"].get(kind, jnp.ones(()))
            own["gates"][kind] = given * (factor_LxH if given.ndim < 3 else factor_LxH[:, None])
        if memory is not None:
            shared["cross_mask"] = Mask(Side(mask.query.positions, None if cache else mask.query.segments), memory.side)
        if cache is not None:
            layer = Layer(config, positions, self.cross, True, parent=None)
            x_BxTxD, cache = self._with_cache(x_BxTxD, own, memory, shared, cache, layer)
        else:
            if memory is not None:
                own["memory"] = (memory.keys, memory.values)
            layer = Layer
            if config.remat != "none":
                layer = nn.remat(Layer, policy=REMAT[config.remat], prevent_cse=False)
            layers = nn.scan(
                layer,
                variable_axes={"params": 0, "intermediates": 0, "measures": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),  # type: ignore[arg-type]  (a tuple, as its docstring says)
                length=self.num_layers,
                unroll=min(config.unroll, self.num_layers),
            )
            x_BxTxD, _ = layers(config, positions, self.cross, deterministic, name="layers")(x_BxTxD, own, shared)
        if config.has_final_norm:
            x_BxTxD = make_norm(config, "final_norm")(x_BxTxD)
        return x_BxTxD, cache

    def _with_cache(
        self, x: Array, own: Any, memory: Memory | None, shared: Any, cache: Cache, layer: Layer
    ) -> tuple[Array, Cache]:
        """Layer by layer, so that each layer's keys and values stay apart and are updated in place."""
        shared = shared | {"slot": cache["slot"][0]}
        parameters, each, written = apart(self.variables["params"]["layers"]), list(apart(own, self.num_layers)), []
        if memory is not None:
            pairs = zip(apart(memory.keys), apart(memory.values), strict=True)
            each = [mine | {"memory": pair} for mine, pair in zip(each, pairs, strict=True)]
        for index, layer_cache in enumerate(cache["layers"]):
            mine = each[index] | {"cache": layer_cache}
            x, layer_cache = layer.apply({"params": parameters[index]}, x, mine, shared)
            written.append(layer_cache)
        return x, cache | {"layers": written}


def apart(stacked: Any, count: int | None = None) -> tuple[Any, ...]:
    """For each layer the tree of its own slices of `stacked`, whose leaves have layers first; a tuple is one already."""
    if isinstance(stacked, tuple):
        return stacked
    count = len(jax.tree.leaves(stacked)[0]) if count is None else count
    return tuple(jax.tree.map(lambda leaf, i=index: leaf[i], stacked) for index in range(count))


def for_steps(config: Model, params: Any, memory: Memory | None) -> tuple[Any, Memory | None]:
    """Parameters and memory as a loop of steps wants them, the decoder's layers apart: in a loop XLA would cut each out of the
    stack again at every step."""
    if not config.causal_evaluation:  # the whole stack reads again what has been said
        return params, memory
    decoder = {**params["decoder"], "layers": apart(params["decoder"]["layers"])}
    return {**params, "decoder": decoder}, None if memory is None else memory.apart()


def start_cache(config: Model, rows: int, max_length: int) -> Cache:
    """An empty cache of `max_length` slots for a decoder. Batch axis first in every leaf; a free slot has segment 0.

    It holds keys and values, BxHxC of each width: each head's slots lie together, which makes attending several times as
    fast on a CPU. Without a causal mask they change with every token that follows: then it holds the tokens.
    """
    dtype = jnp.dtype(config.dtype)

    def empty(width: int) -> Array:
        return jnp.zeros((rows, config.num_heads, max_length, width), dtype)

    slots = jnp.zeros((rows, max_length), jnp.int32)
    zeros = jnp.zeros((rows,), jnp.int32)
    if config.causal_evaluation:
        width = {"key": config.key_width, "value": config.value_width}
        kept: Cache = {"layers": [{n: empty(w) for n, w in width.items()} for _ in range(config.num_decoder_layers)]}
    else:
        kept = {"tokens": slots}
    # All rows write the same slot; `next` is the position a row's next token has, which left-padding makes differ.
    return kept | {"positions": slots, "segments": slots, "slot": zeros, "next": zeros}


def with_slots(cache: Cache, count: int) -> Cache:
    """The same cache with `count` slots, the new ones free. What has no slots (a recurrent model's) is as it was."""

    def more(leaf: Array, axis: int) -> Array:
        return jnp.pad(leaf, [(0, count - leaf.shape[n] if n == axis else 0) for n in range(leaf.ndim)])

    slots = {name: more(leaf, 1) for name, leaf in cache.items() if name in ("tokens", "positions", "segments")}
    if not slots:
        return cache
    layers = {"layers": jax.tree.map(lambda leaf: more(leaf, 2), cache["layers"])} if "layers" in cache else {}
    return cache | slots | layers


def advance_cache(cache: Cache, valid_BxT: Array, whole: bool = False) -> tuple[Cache, Mask]:
    """Positions and segments of T new tokens written into the cache (keys and values are not), and the mask they see.

    `whole`: the T tokens are a prefix, all of which each of them sees (prefix LM).
    """
    valid = valid_BxT.astype(jnp.int32)
    positions_BxT = jnp.maximum(cache["next"][:, None] + jnp.cumsum(valid, axis=1) - 1, 0)
    slot = cache["slot"][0]
    key_positions = jax.lax.dynamic_update_slice_in_dim(cache["positions"], positions_BxT, slot, axis=1)
    key_segments = jax.lax.dynamic_update_slice_in_dim(cache["segments"], valid, slot, axis=1)
    cache = cache | {"positions": key_positions, "segments": key_segments}
    query = Side(positions_BxT)
    if not whole:
        return cache, Mask(query, Side(key_positions, key_segments), "causal")
    prefix = jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(key_segments), valid, slot, axis=1)
    return cache, Mask(query, Side(key_positions, key_segments, prefix > 0), "prefix")


def causal_rule(config: Model, deterministic: bool) -> str:
    """The rule of a decoder's mask. All but training is deterministic."""
    return "causal" if (config.causal_evaluation if deterministic else config.causal_training) else "all"


def read_again(
    decoder: Stack, embedding: Embedding, tokens_BxT: Array, cache: Cache, memory: Memory | None, valid_BxT: Array
) -> tuple[Array, Cache]:
    """States BxTxD of T new tokens, all tokens so far being read, each of which sees all; and the cache with the new ones."""
    slot = cache["slot"][0]
    cache, _ = advance_cache(cache, valid_BxT)
    tokens_BxC = jax.lax.dynamic_update_slice_in_dim(cache["tokens"], tokens_BxT, slot, axis=1)
    mask = Mask(Side(cache["positions"]), Side(cache["positions"], cache["segments"]))
    states_BxCxD, _ = decoder(embedding(tokens_BxC), mask, memory=memory)
    new_BxTxD = jax.lax.dynamic_slice_in_dim(states_BxCxD, slot, tokens_BxT.shape[1], axis=1)
    return new_BxTxD, cache | {"tokens": tokens_BxC}


def finish_step(cache: Cache, valid_BxT: Array) -> Cache:
    """The cache with its counters moved past T tokens."""
    added = jnp.sum(valid_BxT.astype(jnp.int32), axis=1)
    return cache | {"slot": cache["slot"] + valid_BxT.shape[1], "next": cache["next"] + added}


class Logits(nn.Module):
    """States to fp32 logits BxTxN, with a tied table or its own; entries that the vocabulary lacks are masked."""

    config: Model
    rows: int
    size: int

    @nn.compact
    def __call__(self, states_BxTxD: Array, tied: Embedding | None) -> Array:
        config = self.config
        if config.logits_scale == "1/sqrt(d_model)":
            states_BxTxD = states_BxTxD * config.d_model**-0.5
        if tied is not None:
            logits = tied.logits(states_BxTxD)
        else:
            initializer = kernel_initializer(config)
            logits = all_products(states_BxTxD, self.param("kernel", initializer, (config.d_model, self.rows)).T)
        if config.logits_bias:
            logits = logits + self.param("bias", nn.initializers.zeros_init(), (self.rows,))[None, None]
        if self.rows == self.size:
            return logits
        return jnp.where((jnp.arange(self.rows) < self.size)[None, None], logits, MASKED)
