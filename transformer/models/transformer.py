"""Stacks of layers, and the models made of them. All are pure: state goes in and comes out.

    encode(source) -> memory;  start(memory, max_length, beams) -> cache;  step(tokens, cache, memory) -> logits, cache

Letters: B rows (sentences), S source tokens, T target tokens, C slots of a cache, L layers, D d_model, H heads, K, V head
widths, N entries of the target table.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer.config import Facts, Model
from transformer.models import positions as positions_lib
from transformer.models.attention import MASKED, MemoryProjection
from transformer.models.dropout import Dropout
from transformer.models.layers import REMAT, Embedding, Layer, kernel_initializer, make_norm
from transformer.models.masks import Mask, Side

Array = jax.Array
Cache = dict[str, Any]


@struct.dataclass
class Memory:
    """What a decoder sees of a source: each layer's keys LxBxSxHxK and values LxBxSxHxV, and whose they are."""

    keys: Array
    values: Array
    side: Side


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
        """States BxTxD and the cache. `gates`: {"self": LxH, "cross": LxH}, factors on heads."""
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
        if memory is not None:
            shared["cross_mask"] = Mask(Side(mask.query.positions, None if cache else mask.query.segments), memory.side)
            own["memory"] = (memory.keys, memory.values)
        if cache is not None:
            x_BxTxD, cache = self._with_cache(
                x_BxTxD, own, shared, cache, Layer(config, positions, self.cross, True, parent=None)
            )
        else:
            layer = Layer
            if config.remat != "none":
                layer = nn.remat(Layer, policy=REMAT[config.remat], prevent_cse=False)
            layers = nn.scan(
                layer,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),  # type: ignore[arg-type]  (a tuple, as its docstring says)
                length=self.num_layers,
                unroll=min(config.unroll, self.num_layers),
            )
            x_BxTxD, _ = layers(config, positions, self.cross, deterministic, name="layers")(x_BxTxD, own, shared)
        if config.has_final_norm:
            x_BxTxD = make_norm(config, "final_norm")(x_BxTxD)
        return x_BxTxD, cache

    def _with_cache(self, x: Array, own: Any, shared: Any, cache: Cache, layer: Layer) -> tuple[Array, Cache]:
        """Layer by layer, so that each layer's keys and values stay apart and are updated in place."""
        stacked = self.variables["params"]["layers"]
        shared = shared | {"slot": cache["slot"][0]}
        written = []
        for index, layer_cache in enumerate(cache["layers"]):
            parameters, mine = jax.tree.map(lambda leaf, i=index: leaf[i], (stacked, own))
            x, layer_cache = layer.apply({"params": parameters}, x, mine | {"cache": layer_cache}, shared)
            written.append(layer_cache)
        return x, cache | {"layers": written}


def start_cache(config: Model, rows: int, max_length: int) -> Cache:
    """An empty cache of `max_length` slots for a decoder. Batch axis first in every leaf; a free slot has segment 0."""
    dtype = jnp.dtype(config.dtype)

    def empty(width: int) -> Array:
        return jnp.zeros((rows, max_length, config.num_heads, width), dtype)

    layers = [{"key": empty(config.key_width), "value": empty(config.value_width)} for _ in range(config.num_decoder_layers)]
    slots = jnp.zeros((rows, max_length), jnp.int32)
    zeros = jnp.zeros((rows,), jnp.int32)
    # All rows write the same slot; `next` is the position a row's next token has, which left-padding makes differ.
    return {"layers": layers, "positions": slots, "segments": slots, "slot": zeros, "next": zeros}


def advance_cache(cache: Cache, valid_BxT: Array) -> tuple[Cache, Mask]:
    """Positions and segments of T new tokens written into the cache (keys and values are not), and the mask they see."""
    valid = valid_BxT.astype(jnp.int32)
    positions_BxT = jnp.maximum(cache["next"][:, None] + jnp.cumsum(valid, axis=1) - 1, 0)
    slot = cache["slot"][0]
    key_positions = jax.lax.dynamic_update_slice_in_dim(cache["positions"], positions_BxT, slot, axis=1)
    key_segments = jax.lax.dynamic_update_slice_in_dim(cache["segments"], valid, slot, axis=1)
    cache = cache | {"positions": key_positions, "segments": key_segments}
    return cache, Mask(Side(positions_BxT), Side(key_positions, key_segments), "causal")


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
            kernel_DxN = self.param("kernel", initializer, (config.d_model, self.rows)).astype(states_BxTxD.dtype)
            logits = jnp.einsum("btd,dn->btn", states_BxTxD, kernel_DxN, preferred_element_type=jnp.float32)
        if config.logits_bias:
            logits = logits + self.param("bias", nn.initializers.zeros_init(), (self.rows,))[None, None]
        if self.rows == self.size:
            return logits
        return jnp.where((jnp.arange(self.rows) < self.size)[None, None], logits, MASKED)


class EncoderDecoder(nn.Module):
    """The Transformer (Vaswani et al. 2017, figure 1)."""

    config: Model
    facts: Facts
    logits_modules: ClassVar[tuple[str, ...]] = ("target_embedding", "logits")  # whose parameters `logits` reads

    def setup(self) -> None:
        config, facts = self.config, self.facts
        self.target_embedding = Embedding(facts.target_rows, config, name="target_embedding")
        if config.tying == "three_way":
            self.source_embedding = self.target_embedding
        else:
            self.source_embedding = Embedding(facts.source_rows, config, name="source_embedding")
        self.encoder = Stack(config, config.num_encoder_layers, cross=False, bidirectional=True, name="encoder")
        self.memory_projection = MemoryProjection(config, config.num_decoder_layers, kernel_initializer(config), name="memory")
        self.decoder = Stack(config, config.num_decoder_layers, cross=True, bidirectional=False, name="decoder")
        self.logits_layer = Logits(config, facts.target_rows, facts.target_size, name="logits")

    def __call__(self, batch: Mapping[str, Array], deterministic: bool = True, gates: Mapping[str, Any] | None = None) -> Array:
        """Logits BxTxN of a batch: `source` BxS and `inputs` BxT, and optionally positions and segments of each."""
        return self.logits(self.states(batch, deterministic, gates))

    def states(self, batch: Mapping[str, Array], deterministic: bool = True, gates: Mapping[str, Any] | None = None) -> Array:
        """The decoder's last states BxTxD; `logits` makes logits of them."""
        gates = gates or {}
        memory = self.encode(
            batch["source"], batch.get("source_positions"), batch.get("source_segments"), deterministic, gates.get("encoder")
        )
        inputs = batch["inputs"]
        side = Side(_positions(batch.get("positions"), inputs), batch.get("segments"))
        x_BxTxD = self.target_embedding(inputs)
        decoder_gates = gates.get("decoder")
        states, _ = self.decoder(
            x_BxTxD, Mask(side, side, "causal"), memory=memory, gates=decoder_gates, deterministic=deterministic
        )
        return states

    def logits(self, states_BxTxD: Array) -> Array:
        """States to logits BxTxN."""
        return self.logits_layer(states_BxTxD, None if self.config.tying == "none" else self.target_embedding)

    def encode(
        self,
        source_BxS: Array,
        positions: Array | None = None,
        segments_BxS: Array | None = None,
        deterministic: bool = True,
        gates: Mapping[str, Array] | None = None,
    ) -> Memory:
        """The source as decoder layers see it. Positions default to 0..S-1; segments: 0 where there is padding."""
        side = Side(_positions(positions, source_BxS), segments_BxS)
        x_BxSxD = self.source_embedding(source_BxS)
        states, _ = self.encoder(x_BxSxD, Mask(side, side), gates=gates, deterministic=deterministic)
        keys, values = self.memory_projection(states)
        return Memory(keys, values, side)

    def start(self, memory: Memory, max_length: int, beams: int = 1) -> Cache:
        """An empty cache for B x beams rows and `max_length` tokens."""
        return start_cache(self.config, memory.keys.shape[1] * beams, max_length)

    def step(self, tokens_BxT: Array, cache: Cache, memory: Memory, valid_BxT: Array | None = None) -> tuple[Array, Cache]:
        """Logits BxTxN after each of T >= 1 tokens, which follow those in the cache. `valid_BxT`: False: a token is padding."""
        valid = jnp.ones(tokens_BxT.shape, bool) if valid_BxT is None else valid_BxT
        cache, mask = advance_cache(cache, valid)
        states, new_cache = self.decoder(self.target_embedding(tokens_BxT), mask, memory=memory, cache=cache)
        assert new_cache is not None
        return self.logits(states), finish_step(new_cache, valid)


def _positions(positions: Array | None, tokens_BxT: Array) -> Array:
    return jnp.arange(tokens_BxT.shape[1]) if positions is None else positions
