"""Linear attention: a product of features instead of a softmax, so that the past is summarized in a state of constant size.

Katharopoulos et al. 2020, with the features phi(x) = elu(x) + 1:

    out_t = phi(q_t) S_t / (phi(q_t) z_t),   S_t = S_(t-1) + phi(k_t) v_t^T,   z_t = z_(t-1) + phi(k_t)

Causal self-attention takes O(T) time, in blocks of `attention_chunk` tokens. The cache is S and z: K x V + K numbers per head
in fp32, whatever the length of the text. In encoders, with a prefix, and in cross-attention all T x S weights are computed. The
tokens of a segment must be contiguous in a row, as in packed rows. Not supported: positions that are not added to the
embeddings; windows and masks that hide earlier tokens (a state cannot forget); dropout on weights; another scale (it cancels);
a cap on logits; translation by a decoder-only model (the search removes the last token of a prefix, and a state cannot).

Letters: B rows, T queries, S keys, H heads, N key-value heads, K, V head widths, C tokens of a block.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from transformer import registry
from transformer.components.attention import Attention, Backend, Write
from transformer.components.masks import Mask, Pairs, Sizes, Tokens, is_band
from transformer.components.parameters import Parameters, Streams
from transformer.components.positions import Bound, Positions

Array = jax.Array
State = dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Attention):
    """Weights are products of features, divided by their sum."""

    softmax: ClassVar[bool] = False

    def check(self, sizes: Sizes) -> str | None:
        if self.dropout_rate:
            return "config.model.attention.dropout_rate: linear attention has no weights to drop; set it to 0"
        if self.scale != "1/sqrt(d_k)":
            return "config.model.attention.scale: a factor cancels in linear attention; leave it at 1/sqrt(d_k)"
        for name in ("scale_width", "logit_cap"):
            if getattr(self, name) is not None:
                return f"config.model.attention.{name}: linear attention has no logits; set it to none"
        return None

    def supports(self, mask: Mask, positions: Positions, sizes: Sizes) -> str | None:
        if positions.relative:
            name = registry.reference(type(positions))
            return f"config.model.positions {name}: linear attention has no logits; choose sinusoidal, learned or none"
        if mask.span(prefix=True)[0] is not None:
            return "config.model.window: linear attention cannot forget what it has read; set it to none"
        if not is_band(mask, prefix=False):
            name = registry.reference(type(mask))
            return (
                f"config.model.mask {name}: the state of linear attention contains all earlier tokens; choose causal or prefix"
            )
        return None

    def query(self, p: Parameters, x_BxTxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Array:
        return jax.nn.elu(super().query(p, x_BxTxD, tokens, positions, sizes)) + 1

    def key(self, p: Parameters, x_BxSxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Array:
        return jax.nn.elu(super().key(p, x_BxSxD, tokens, positions, sizes)) + 1

    def normalize(self, p: Parameters, logits_BxHxTxS: Array, pairs: Pairs) -> Array:
        products = _masked(logits_BxHxTxS, pairs)
        total = jnp.sum(products, axis=-1, keepdims=True)
        return products / jnp.where(total > 0, total, 1)

    def attend(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound, backend: Backend) -> Array:
        length, size = pairs.query.positions.shape[-1], backend.chunk
        causal = pairs.aligned and pairs.mask.span(pairs.key.prefix is not None) == (None, 0) and pairs.allowed is None
        if not causal or length <= size:
            return super().attend(p, q, k, pairs, positions, backend)
        assert pairs.sizes is not None
        rows, count = q["query"].shape[0], -(-length // size)

        def blocks(leaf: Array) -> Array:
            """An array with the axis of blocks before that of rows; the padding of the last block has segment 0."""
            leaf = jnp.broadcast_to(leaf, (rows, *leaf.shape[1:]))
            padded = jnp.pad(leaf, [(0, 0), (0, count * size - length), *[(0, 0)] * (leaf.ndim - 2)])
            return jnp.moveaxis(padded.reshape(rows, count, size, *leaf.shape[2:]), 1, 0)

        segments = jnp.ones((rows, length), jnp.int32) if pairs.key.segments is None else pairs.key.segments
        places = pairs.key.positions.reshape(-1, length)

        @jax.checkpoint
        def step(carry: tuple[State, Array], block: Any) -> tuple[Any, Array]:
            (state, segment_Bx1), (q, k, positions_BxC, segments_BxC) = carry, block
            tokens = Tokens(positions_BxC, segments_BxC)
            inside = pairs.replace(query=tokens, key=tokens, aligned=False)
            heads = self._read(p, q, k, inside, state, (segments_BxC == segment_Bx1) & (segments_BxC > 0))
            place_Bx1 = jnp.max(jnp.where(segments_BxC > 0, jnp.arange(size)[None], -1), axis=1, keepdims=True)
            last_Bx1 = jnp.take_along_axis(segments_BxC, jnp.maximum(place_Bx1, 0), axis=1)
            last_Bx1 = jnp.where(place_Bx1 < 0, segment_Bx1, last_Bx1)
            kept = {n: jnp.where(_like(last_Bx1 == segment_Bx1, leaf), leaf, 0) for n, leaf in state.items()}
            return (_written(kept, k, segments_BxC == last_Bx1), last_Bx1), heads

        before = self.state(pairs.sizes, rows), jnp.zeros((rows, 1), jnp.int32)
        inputs = jax.tree.map(blocks, (q, k, places, segments))
        heads = jnp.moveaxis(jax.lax.scan(step, before, inputs)[1], 0, 1)
        return heads.reshape(rows, count * size, *heads.shape[3:])[:, :length]

    def state(self, sizes: Sizes, rows: int) -> State:
        shape = rows, sizes.num_kv_heads, sizes.d_k
        return {"sums": jnp.zeros((*shape, sizes.d_v), jnp.float32), "normalizer": jnp.zeros(shape, jnp.float32)}

    def with_cache(
        self,
        p: Parameters,
        q: Streams,
        k: Streams,
        pairs: Pairs,
        positions: Bound,
        cache: State,
        write: Write,
        backend: Backend,
    ) -> tuple[Array, State]:
        assert pairs.key.segments is not None
        valid_BxT = pairs.key.segments > 0
        return self._read(p, q, k, pairs, cache, jnp.ones_like(valid_BxT)), _written(cache, k, valid_BxT)

    def _read(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, state: State, reads_BxT: Array) -> Array:
        """Heads BxTxHxV of queries that see these keys and, where `reads_BxT` is True, the state."""
        products = _masked(self.scores(p, q, k, pairs), pairs)
        group = products.shape[1] // state["sums"].shape[1]
        sums, normalizer = (jnp.repeat(state[name], group, axis=1) for name in ("sums", "normalizer"))
        query = jnp.where(reads_BxT[..., None, None], q["query"].astype(jnp.float32), 0)
        exact = k | {"value": k["value"].astype(jnp.float32)}
        found = super().mix(p, products, exact, pairs, Bound()) + jnp.einsum("bthk,bhkv->bthv", query, sums)
        total = jnp.moveaxis(jnp.sum(products, axis=-1), 1, 2) + jnp.einsum("bthk,bhk->bth", query, normalizer)
        return (found / jnp.where(total > 0, total, 1)[..., None]).astype(q["query"].dtype)


def _masked(products_BxHxTxS: Array, pairs: Pairs) -> Array:
    return products_BxHxTxS if (seen := pairs.seen()) is None else jnp.where(seen, products_BxHxTxS, 0)


def _written(state: State, k: Streams, valid_BxS: Array) -> State:
    """The state after adding the valid keys."""
    key, value = (k[name].astype(jnp.float32) for name in ("key", "value"))
    key = jnp.where(valid_BxS[..., None, None], key, 0)
    added = {"sums": jnp.einsum("bsnk,bsnv->bnkv", key, value), "normalizer": jnp.sum(key, axis=1)}
    return {name: state[name] + added[name] for name in state}


def _like(flags_Bx1: Array, leaf: Array) -> Array:
    return flags_Bx1.reshape(-1, *[1] * (leaf.ndim - 1))
