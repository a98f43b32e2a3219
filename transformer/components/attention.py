"""Multi-head attention as a component: pure hooks, each of which a variant can replace (Vaswani et al. 2017, section 3.2).

Self-attention is computed as

    q = queries(x)                      streams of the queries
    k = expand(from_below(keys(x)))     streams of the keys; the cache holds what `expand` receives
    heads = mix(normalize(logits(q, k)), k)
    output(heads, x)

Cross-attention does the same with `keys` of the encoder's states, which are computed once for each source. A stream is an array
with the token axis second, so that any stream can be cut into blocks, cached and reordered. Hooks receive their parameters `p`
by name and hold no state. A variant inherits every hook that it does not replace, in every family, backend and search. Of
other layers it sees what the self-attention of the layer below passes up (`from_below`).

Letters: B rows of a batch, T queries, S keys, H heads, N key-value heads, G heads that share one of them, K width of a head's
queries and keys, V of its values, D d_model.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from transformer.components import fused
from transformer.components.masks import Mask, Pairs, Sizes, Tokens
from transformer.components.parameters import Constant, Declared, Kernel, Parameters, Streams
from transformer.components.positions import Bound, Positions
from transformer.components.products import product, wide_product
from transformer.registry import Component, restated
from transformer.settings import setting

Array = jax.Array
# Writes new streams into a layer's cache: (cache, new streams) -> (cache, all streams that the new tokens may see).
Write = Callable[[dict[str, Array], Streams], tuple[dict[str, Array], Streams]]

# Finite, so that a fully masked row gives no NaN; far below any logit, and -MASKED is still finite in fp32.
MASKED = -1e30


class Backend(NamedTuple):
    """How `attend` computes: `plain`, `chunked` (blocks of `chunk` queries, recomputed in the backward pass: O(T) memory), or
    `fused` (fused.py; if no kernel supports the case, the backend that `backend_without_kernel` chooses).

    `dropout` is applied to the weights of a block and receives the index of the block's first query; None means no dropout.
    `dtype` is the type of the weights when they are multiplied with the values.
    """

    name: Literal["plain", "chunked", "fused"] = "plain"
    chunk: int = 512
    dropout: Callable[[Array, Array | int], Array] | None = None
    dtype: Any = jnp.float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention(Component, name="multi_head"):
    """softmax(Q K^T / sqrt(d_k)) V for each head; grouped-query attention if there are fewer key-value heads than query heads
    (Ainslie et al. 2023).
    """

    has_own_norm: ClassVar[bool] = False  # True: a norm other than that of `qk_norm` reads `norm_epsilon`
    # Whether the weights are a softmax of the logits; else statistics of a softmax do not apply. A class that replaces
    # `normalize` or `weights` must say so again if they are.
    softmax: ClassVar[bool] = True
    # True: during training, hooks find a random key in p["random_key"]; those for keys and values of cross-attention do not,
    # because these are computed once for a source. All blocks of queries get the same key.
    random: ClassVar[bool] = False
    scale: Literal["1/sqrt(d_k)", "none", "1/d_k", "learned"] = setting(
        "1/sqrt(d_k)", "factor on the logits; learned: one for each head"
    )
    scale_width: int | None = setting(
        None, "scale 1/sqrt(d_k): the width to use instead of d_k (Gemma 2); none: d_k", at_least=1
    )
    logit_cap: float | None = setting(
        None, "soft cap on the logits, including position biases: cap * tanh(logits / cap) (Gemma 2); none: no cap", above=0
    )
    qk_norm: bool = setting(False, "RMSNorm of queries and keys before their product (Dehghani et al. 2023)")
    qk_norm_over: Literal["head", "all_heads"] = setting(
        "head", "qk_norm: normalize the queries and keys of each head separately, or those of all heads as one vector (OLMo 2)"
    )
    qk_norm_plus_one: bool = setting(False, "qk_norm: the factor is 1 + scale, and scale is initialized to 0 (Gemma 3)")
    norm_epsilon: float = setting(1e-6, "norm of queries and keys: added to the mean square", above=0)
    bias: bool = setting(True, "biases in the projections")
    output_bias: bool | None = setting(None, "a bias in the output projection; none: the same as `bias`")
    dropout_rate: float = setting(0.0, "dropout on the attention weights", at_least=0, below=1)
    query_init: Literal["initializer", "initializer/sqrt(d_k)"] = setting(
        "initializer", "initializer of the query kernels; T5 uses the second, because its logits are not scaled"
    )

    @property
    def is_softmax(self) -> bool:
        """Whether `softmax` says so, and applies to this class."""
        return self.softmax and restated(type(self), "softmax", "normalize", "weights")

    # --- parameters and limits -------------------------------------------------------------------------------------------

    def check(self, sizes: Sizes) -> str | None:
        """The reason why the attention cannot have these sizes, or None if it can."""
        return None

    def supports(self, mask: Mask, positions: Positions, sizes: Sizes) -> str | None:
        """The reason why the attention cannot use this mask or position encoding, or None if it can."""
        return None

    def parameters(self, sizes: Sizes) -> Declared:
        """Parameters of queries, logits and output, by name.

        Those of `key_parameters` are separate, because in cross-attention they belong to the source.
        """
        heads = sizes.num_heads, sizes.d_k
        divisor = math.sqrt(sizes.d_k) if self.query_init == "initializer/sqrt(d_k)" else 1.0
        declared: dict[str, Any] = {"query/kernel": Kernel((sizes.d_model, *heads), ("model", "heads", "width"), 1, divisor)}
        if self.bias:
            declared["query/bias"] = Constant(heads, ("heads", "width"))
        declared |= self.norm_parameters("query", sizes.num_heads, sizes.d_k)
        declared |= self.output_parameters(sizes)
        if self.scale == "learned":
            declared["scale"] = Constant((sizes.num_heads,), (), sizes.d_k**-0.5)
        return declared

    def output_parameters(self, sizes: Sizes) -> Declared:
        """Parameters of `output`, by name."""
        declared: dict[str, Any] = {
            "output/kernel": Kernel((sizes.num_heads, sizes.d_v, sizes.d_model), ("heads", "width", "model"), 2)
        }
        return declared | ({"output/bias": Constant((sizes.d_model,))} if self.has_output_bias else {})

    @property
    def has_output_bias(self) -> bool:
        """Whether the output projection has a bias: `output_bias`, or else `bias`."""
        return self.bias if self.output_bias is None else self.output_bias

    def norm_parameters(self, name: str, heads: int, width: int) -> dict[str, Any]:
        """Parameters of `normed`, by name."""
        if not self.qk_norm:
            return {}
        first = 0.0 if self.qk_norm_plus_one else 1.0
        whole = self.qk_norm_over == "all_heads"
        scale = Constant((heads, width), ("heads", "width"), first) if whole else Constant((width,), (), first)
        return {f"{name}_norm/scale": scale}

    def key_parameters(self, sizes: Sizes) -> Declared:
        """Parameters that `keys` reads."""
        declared: dict[str, Any] = {}
        for name, width in (("key", sizes.d_k), ("value", sizes.d_v)):
            shape, axes = (sizes.num_kv_heads, width), ("heads", "width")
            declared[f"{name}/kernel"] = Kernel((sizes.d_model, *shape), ("model", *axes))
            if self.bias:
                declared[f"{name}/bias"] = Constant(shape, axes)
            if name == "key":
                declared |= self.norm_parameters("key", *shape)
        return declared

    # --- the steps -------------------------------------------------------------------------------------------------------

    def queries(self, p: Parameters, x_BxTxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Streams:
        """Streams of the queries, already multiplied by the factor on the logits; they are never cached."""
        query_BxTxHxK = self.query(p, x_BxTxD, tokens, positions, sizes)
        root = (self.scale_width or sizes.d_k) ** -0.5 * sizes.logits_factor
        factor = {"1/sqrt(d_k)": root, "none": 1.0, "1/d_k": 1.0 / sizes.d_k}.get(self.scale)
        scale = jnp.asarray(p["scale"] if factor is None else factor, query_BxTxHxK.dtype)
        return {"query": query_BxTxHxK * scale.reshape((1, 1, -1, 1))} | positions.query_streams(x_BxTxD, tokens)

    def query(self, p: Parameters, x_BxTxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Array:
        """The queries BxTxHxK before the factor on the logits."""
        query_BxTxHxK = self.normed(p, "query", project(p, "query", x_BxTxD))
        return positions.rotate(query_BxTxHxK, tokens.positions)

    def keys(self, p: Parameters, x_BxSxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Streams:
        """Streams of the keys, in the form in which they are cached."""
        streams = {"key": self.key(p, x_BxSxD, tokens, positions, sizes), "value": self.value(p, x_BxSxD, sizes)}
        return streams | positions.key_streams(x_BxSxD, tokens)

    def key(self, p: Parameters, x_BxSxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Array:
        """The keys BxSxNxK."""
        key_BxSxNxK = self.normed(p, "key", project(p, "key", x_BxSxD))
        return positions.rotate(key_BxSxNxK, tokens.positions)

    def normed(self, p: Parameters, name: str, x_BxTxHxK: Array) -> Array:
        """Queries or keys, normalized if `qk_norm` is set, with the parameters `{name}_norm`."""
        if not self.qk_norm:
            return x_BxTxHxK
        scale, axes = p[f"{name}_norm/scale"], (-2, -1) if self.qk_norm_over == "all_heads" else (-1,)
        return rms_norm(x_BxTxHxK, scale + 1.0 if self.qk_norm_plus_one else scale, self.norm_epsilon, axes)

    def value(self, p: Parameters, x_BxSxD: Array, sizes: Sizes) -> Array:
        """The values BxSxNxV."""
        return project(p, "value", x_BxSxD)

    def passed_up(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """The arrays that self-attention passes to that of the layer above: name -> the shape of each after its axes B x T."""
        return {}

    def from_below(self, p: Parameters, k: Streams, below: Streams, pairs: Pairs) -> tuple[Streams, Streams]:
        """The streams of the tokens' keys, changed by what the layer below passed up, and what this layer passes up.

        An array is 0 until a layer passes it up; one that is not in the second result goes through unchanged. Only
        self-attention has this step. With a cache, the tokens are the new ones, and the changed streams are cached.
        """
        return k, {}

    def expand(self, p: Parameters, k: Streams, sizes: Sizes) -> Streams:
        """Streams of the keys, computed from the cached ones; for example keys and values from a shared latent."""
        return k

    def scores(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs) -> Array:
        """Products of queries and keys: BxHxTxS in fp32."""
        query_BxTxHxK, key_BxSxNxK = q["query"], k["key"]
        rows, length, heads, width = query_BxTxHxK.shape
        if heads == (shared := key_BxSxNxK.shape[2]):
            return wide_product("bthk,bshk->bhts", query_BxTxHxK, key_BxSxNxK)
        query_BxTxNxGxK = query_BxTxHxK.reshape(rows, length, shared, heads // shared, width)
        scores = wide_product("btngk,bsnk->bngts", query_BxTxNxGxK, key_BxSxNxK)
        return scores.reshape(rows, heads, length, -1)

    def logits(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound) -> Array:
        """The input of `normalize`: scores plus the position bias, also for masked keys: BxHxTxS in fp32."""
        scores_BxHxTxS = self.scores(p, q, k, pairs)
        added = positions.bias(q, k, scores_BxHxTxS, pairs)
        return self.capped(scores_BxHxTxS if added is None else scores_BxHxTxS + added.astype(jnp.float32))

    def capped(self, logits_BxHxTxS: Array) -> Array:
        """The logits, capped if `logit_cap` is set."""
        return logits_BxHxTxS if self.logit_cap is None else self.logit_cap * jnp.tanh(logits_BxHxTxS / self.logit_cap)

    def normalize(self, p: Parameters, logits_BxHxTxS: Array, pairs: Pairs) -> Array:
        """Weights BxHxTxS in fp32: 0 for keys that the query does not see, and a row of zeros if it sees none."""
        seen = pairs.seen()
        return jax.nn.softmax(logits_BxHxTxS, axis=-1) if seen is None else masked_softmax(logits_BxHxTxS, seen)

    def mix(self, p: Parameters, weights_BxHxTxS: Array, k: Streams, pairs: Pairs, positions: Bound) -> Array:
        """Weights times values, plus the position encoding's term for values: BxTxHxV."""
        value_BxSxNxV = k["value"]
        rows, heads, length, slots = weights_BxHxTxS.shape
        if heads == (shared := value_BxSxNxV.shape[2]):
            result_BxHxTxV = product("bhts,bshv->bhtv", weights_BxHxTxS, value_BxSxNxV)
        else:
            weights_BxNxGxTxS = weights_BxHxTxS.reshape(rows, shared, heads // shared, length, slots)
            result_BxNxGxTxV = product("bngts,bsnv->bngtv", weights_BxNxGxTxS, value_BxSxNxV)
            result_BxHxTxV = result_BxNxGxTxV.reshape(rows, heads, length, -1)
        if jax.default_backend() == "cpu":  # XLA would write the product with T before H, up to ten times as slowly
            result_BxHxTxV = jax.lax.optimization_barrier(result_BxHxTxV)
        result = jnp.swapaxes(result_BxHxTxV, 1, 2)
        added = positions.values(weights_BxHxTxS, pairs)
        return result if added is None else result + added

    def output(self, p: Parameters, heads_BxTxHxV: Array, x_BxTxD: Array, sizes: Sizes) -> Array:
        """Concat(heads) W^O: BxTxD. `x` is the input from which the queries were computed."""
        result = product("bthv,hvd->btd", heads_BxTxHxV, p["output/kernel"])
        return result + p["output/bias"].astype(result.dtype)[None, None] if "output/bias" in p else result

    # --- all steps together ----------------------------------------------------------------------------------------------

    def weights(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound) -> Array:
        """The weights of equation 1: BxHxTxS in fp32."""
        return self.normalize(p, self.logits(p, q, k, pairs, positions), pairs)

    def attend(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound, backend: Backend) -> Array:
        """Weighted values of every head BxTxHxV; zeros, with zero gradients, for a query that sees no key."""
        if backend.name == "fused":
            parts = "dropout on the attention weights" if backend.dropout is not None else self.fused(p, q, k, pairs, positions)
            otherwise = backend_without_kernel(pairs.query.positions.shape[-1])
            if (heads := fused.attend(parts, describe(pairs), otherwise)) is not None:
                return heads
            backend = backend._replace(name=otherwise)
        if (span := block_span(pairs)) is not None:
            return self._in_window(p, q, k, pairs, positions, backend, span)
        if backend.name == "chunked" and pairs.query.positions.shape[-1] > backend.chunk:
            return self._in_chunks(p, q, k, pairs, positions, backend)
        return self._block(p, q, k, pairs, positions, backend, 0)

    def with_cache(
        self,
        p: Parameters,
        q: Streams,
        k: Streams,
        pairs: Pairs,
        positions: Bound,
        cache: dict[str, Array],
        write: Write,
        backend: Backend,
    ) -> tuple[Array, dict[str, Array]]:
        """`attend` for new tokens, which also see the cached streams of earlier tokens. Also returns the updated cache.

        If `state` gives the cache, `pairs.key` contains only the new tokens, and `write` is not used.
        """
        assert pairs.sizes is not None
        cache, k = write(cache, k)
        return self.attend(p, q, self.expand(p, k, pairs.sizes), pairs, positions, backend), cache

    def state(self, sizes: Sizes, rows: int) -> dict[str, Array] | None:
        """An empty cache of constant size, batch axis first, if `with_cache` keeps a state instead of keys; else None."""
        return None

    def penalty(self, p: Parameters, training: bool) -> tuple[Array, Mapping[str, Array]]:
        """Scalars of one layer: the penalty added to the loss of every token, and values to report, by name."""
        return jnp.zeros(()), {}

    def _block(
        self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound, backend: Backend, first: Array | int
    ) -> Array:
        """One block of queries without chunking; `first` is the index of its first query."""
        weights = self.weights(p, q, k, pairs, positions).astype(backend.dtype)
        if backend.dropout is not None:
            weights = backend.dropout(weights, first)
        return self.mix(p, weights, k, pairs, positions)

    def fused(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound) -> fused.Parts | str:
        """The arguments of a fused kernel for this attention, or the reason why no kernel can compute it.

        A variant that replaces a step from `scores` to `mix` is computed by a kernel only if it also replaces this method.
        """
        kind, name = positions.positions, type(positions.positions).__name__
        if not restated(type(self), "fused", "scores", "logits", "capped", "normalize", "mix", "weights"):
            return f"{type(self).__name__} replaces steps of attention"
        if isinstance(band := pairs.band(), str):
            return band
        if kind.of_content or positions.overrides("values"):
            return f"the position encoding {name} depends on the content of tokens"
        bias = slopes = None
        if positions.overrides("bias"):
            heads, sides = q["query"].shape[2], (q["query"].shape[1], k["key"].shape[1])
            slots = pairs
            if pairs.aligned and kind.of_distance and restated(type(kind), "of_distance", "bias"):
                # Within a segment, the distance of two tokens equals the distance of their slots: one bias serves all rows.
                slots = pairs.replace(query=Tokens(jnp.arange(sides[0])), key=Tokens(jnp.arange(sides[1])))
                slopes = kind.slopes(heads) if restated(type(kind), "slopes", "bias") else None

            def added_bias() -> Array:
                none = jnp.broadcast_to(jnp.float32(0), (1, heads, *sides))
                added = positions.bias(q, k, none, slots)
                return none if added is None else added

            bias = added_bias

        segments = None
        if pairs.key.segments is not None and pairs.query.segments is not None:
            segments = pairs.query.segments, pairs.key.segments
        return fused.Parts(q["query"], k["key"], k["value"], *band, segments, self.logit_cap, bias, slopes)

    def _in_chunks(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound, backend: Backend) -> Array:
        length, chunk = pairs.query.positions.shape[-1], backend.chunk
        # The last block is moved back so that it ends at the last query: no padding is needed; the overlap is computed twice.
        starts = jnp.minimum(jnp.arange(0, length, chunk), length - chunk)

        @jax.checkpoint
        def one(start: Array) -> Array:
            part = {name: jax.lax.dynamic_slice_in_dim(stream, start, chunk, axis=1) for name, stream in q.items()}
            return self._block(p, part, k, pairs.block(start, chunk), positions, backend, start)

        blocks = jax.lax.map(one, starts)
        whole = [jnp.moveaxis(blocks[:-1], 0, 1).reshape(blocks.shape[1], -1, *blocks.shape[3:])]
        overlap = len(starts) * chunk - length
        return jnp.concatenate([*whole, blocks[-1][:, overlap:]], axis=1)

    def _in_window(
        self, p: Parameters, q: Streams, k: Streams, pairs: Pairs, positions: Bound, backend: Backend, span: tuple[int, int]
    ) -> Array:
        """Reshapes blocks of queries into separate rows, each with the keys that it can see: O(T) work and memory.

        Queries and keys must be the same tokens in the same order, and positions within a segment must be consecutive.
        """
        length, (before, after) = pairs.query.positions.shape[-1], span
        size = max(before, after, 1)
        count = -(-length // size)
        rows = jax.tree.leaves(q)[0].shape[0]
        left, right = -(-before // size), -(-after // size)  # number of neighbouring blocks whose keys are seen

        def padded(leaf: Array, axis: int) -> Array:
            return jnp.pad(leaf, [(0, count * size - length if n == axis else 0) for n in range(leaf.ndim)])

        def blocks(stream: Array) -> Array:
            stream = padded(stream, 1)
            return stream.reshape(rows, count, size, *stream.shape[2:])

        def folded(stream: Array) -> Array:
            return blocks(stream).reshape(rows * count, size, *stream.shape[2:])

        def neighbours(stream: Array) -> Array:
            each = blocks(stream)
            around = jnp.pad(each, [(0, 0), (left, right), *[(0, 0)] * (each.ndim - 2)])
            parts = [around[:, n : n + count] for n in range(left + right + 1)]
            return jnp.concatenate(parts, axis=2).reshape(rows * count, -1, *stream.shape[2:])

        def whole(leaf: Array) -> Array:
            return jnp.broadcast_to(leaf, (rows, length))

        def tokens(side: Tokens, move: Callable[[Array], Array]) -> Tokens:
            segments = jnp.ones((rows, length), jnp.int32) if side.segments is None else whole(side.segments)
            prefix = None if side.prefix is None else move(whole(side.prefix))
            return Tokens(move(whole(side.positions)), move(segments), prefix)  # padding has segment 0

        query, key = tokens(pairs.query, folded), tokens(pairs.key, neighbours)
        cut = pairs.replace(query=query, key=key, aligned=False)
        q, k = {n: folded(stream) for n, stream in q.items()}, {n: neighbours(stream) for n, stream in k.items()}
        heads = self._block(p, q, k, cut, positions, backend, 0)
        return heads.reshape(rows, count * size, *heads.shape[2:])[:, :length]


MULTI_HEAD, NO_POSITIONS = Attention(), Bound()


def attend(
    query_BxTxHxK: Array,
    key_BxSxNxK: Array,
    value_BxSxNxV: Array,
    mask: Pairs | Array | None = None,
    *,
    scale: Array | float | None = None,
    attention: Attention = MULTI_HEAD,
    p: Parameters | None = None,
    positions: Bound = NO_POSITIONS,
    backend: Backend | None = None,
) -> Array:
    """softmax(scale Q K^T + bias) V over the keys that `mask` lets a query see: BxTxHxV (Vaswani et al. 2017, equation 1).

    `mask`: `Pairs`, booleans T x S or [B or 1] x T x S, or None, with which every query sees every key. `scale`: a number, or
    one per head; None means 1 / sqrt(K). `p`: the parameters that the hooks of `attention` read. The result is zero, with zero
    gradients, for a query that sees no key. The softmax is computed in fp32. ValueError if the shapes do not match.
    """
    rows, length, heads, width = query_BxTxHxK.shape
    slots, shared = key_BxSxNxK.shape[1:3]
    if key_BxSxNxK.shape != (rows, slots, shared, width) or value_BxSxNxV.shape[:3] != (rows, slots, shared) or heads % shared:
        shapes = ", ".join(str(each.shape) for each in (query_BxTxHxK, key_BxSxNxK, value_BxSxNxV))
        raise ValueError(
            f"queries BxTxHxK, keys BxSxNxK and values BxSxNxV must match, and N must divide H; the shapes are {shapes}"
        )
    if not isinstance(mask, Pairs):
        if mask is not None and (mask.dtype != bool or mask.shape[-2:] != (length, slots) or mask.ndim not in (2, 3)):
            raise ValueError(
                f"a mask must be booleans of shape {(length, slots)}, perhaps with a batch axis, not {mask.dtype}{mask.shape}"
            )
        allowed = mask if mask is None or mask.ndim == 3 else mask[None]
        mask = Pairs(Tokens(jnp.arange(length)), Tokens(jnp.arange(slots)), allowed=allowed)
    pairs: Any = mask
    if pairs.sizes is None:
        sizes = Sizes(heads * width, heads, shared, width, value_BxSxNxV.shape[-1], 0)
        pairs = pairs.replace(sizes=sizes)
    factor = jnp.asarray(width**-0.5 if scale is None else scale, query_BxTxHxK.dtype).reshape((1, 1, -1, 1))
    q, k = {"query": query_BxTxHxK * factor}, {"key": key_BxSxNxK, "value": value_BxSxNxV}
    return attention.attend(p or {}, q, k, pairs, positions, backend or Backend(dtype=query_BxTxHxK.dtype))


def backend_without_kernel(length: int) -> Literal["plain", "chunked"]:
    """The backend without a kernel for this number of queries: chunks from 1,024 on, where weights take the most memory."""
    return "chunked" if length >= 1024 else "plain"


def describe(pairs: Pairs) -> str:
    """The name of an attention within the model, such as "decoder cross"."""
    return "" if pairs.sizes is None else f"{pairs.sizes.stack} {pairs.sizes.role}"


def block_span(pairs: Pairs) -> tuple[int, int] | None:
    """How many keys a query sees before and after it, if computing in blocks saves work; else None.

    It does in self-attention with a window that is short relative to the sequence.
    """
    before, after = pairs.mask.span(pairs.key.prefix is not None)
    length = pairs.query.positions.shape[-1]
    if before is None or after is None or not pairs.aligned:
        return None
    return (before, after) if 2 * (before + after) < length else None


def project(p: Parameters, name: str, x_BxTxD: Array) -> Array:
    """x W + b with the parameters `{name}/kernel` (D x heads x width) and `{name}/bias`, if it exists."""
    result = product("btd,dhk->bthk", x_BxTxD, p[f"{name}/kernel"])
    return result + p[f"{name}/bias"].astype(result.dtype)[None, None] if f"{name}/bias" in p else result


def rms_norm(x: Array, factor: Array, epsilon: float, axes: tuple[int, ...] = (-1,)) -> Array:
    """RMSNorm over `axes` in fp32, times a learned factor for each entry (QK-norm; Dehghani et al. 2023, section 2)."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=axes, keepdims=True) + epsilon)
    return (y * factor.astype(jnp.float32).reshape((1,) * (x.ndim - factor.ndim) + factor.shape)).astype(x.dtype)


def masked_softmax(logits: Array, seen: Array) -> Array:
    """Softmax over the last axis in fp32; rows without a True in `seen` give zeros, with zero gradients.

    `seen` broadcasts to `logits`.
    """
    logits = jnp.where(seen, logits.astype(jnp.float32), MASKED)
    highest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    powers = jnp.where(seen, jnp.exp(logits - highest), 0)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    # Not max(total, tiny): its gradient would pass through infinities, which are masked only at the end.
    return powers / jnp.where(total > 0, total, 1)
