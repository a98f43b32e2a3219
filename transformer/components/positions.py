"""Position encodings, one class for each, including `NoPositions`. Rotary position embeddings are in rotary.py.

A class holds its settings and has pure hooks, which do nothing by default. It does not hold parameters: `parameters` declares
their initializers, shapes and axes, and the module that owns them passes them to the hooks. `owner` is that module: the stack
(one set for all layers) or the layer. Positions are explicit integers of rank 1 (shared by the batch) or 2. Encodings that
depend on both query and key (`relative`) are used in self-attention only.

Letters: B rows, T queries, S keys, H heads, K width of a head's keys, V of its values, D d_model, N buckets, E 2 clip + 1.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer import registry
from transformer.components.masks import Mask, Pairs, Sizes, Tokens, with_rows
from transformer.components.parameters import Declared, Drawn, Parameters, Streams
from transformer.registry import Component
from transformer.settings import setting

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions(Component):
    """Base of position encodings. Every hook does nothing."""

    owner: ClassVar[Literal["stack", "layer"]] = "stack"
    relative: ClassVar[bool] = False
    of_content: ClassVar[bool] = False  # True: `bias` reads the queries, keys or scores of `Attention`
    of_distance: ClassVar[bool] = False  # True: `bias` depends only on the head and on the distance of key and query
    backward: ClassVar[bool] = False  # True: the encoding is undefined for a key after its query

    def check(self, sizes: Sizes) -> str | None:
        """The reason why the encoding cannot be used with these sizes, or None if it can."""
        return None

    def supports(self, mask: Mask, sizes: Sizes) -> str | None:
        """The reason why the encoding cannot be used with this mask, or None if it can."""
        if not self.backward or mask.causal:
            return None
        name = registry.reference(type(self))
        if sizes.stack == "encoder":
            return f"config.model.positions {name}: for decoders only; change config.model.layer_types.encoder.positions"
        return f"config.model.positions {name}: needs a causal config.model.mask"

    def longest(self) -> int | None:
        """The number of positions that it can encode, or None if there is no limit."""
        return None

    def parameters(self, sizes: Sizes, stddev: float) -> Declared:
        """Learned parameters, by name. `stddev` is the model's `init_stddev`."""
        return {}

    def embed(self, p: Parameters, x_BxTxD: Array, positions: Array) -> Array:
        """Applied once to the embeddings that enter a stack."""
        return x_BxTxD

    def rotate(self, p: Parameters, x_BxTxHxK: Array, positions: Array) -> Array:
        """Applied to the queries and the keys of every layer."""
        return x_BxTxHxK

    def query_streams(self, p: Parameters, x_BxTxD: Array, tokens: Tokens) -> Streams:
        """Additional arrays for each query, which `bias` reads."""
        return {}

    def key_streams(self, p: Parameters, x_BxSxD: Array, tokens: Tokens) -> Streams:
        """Additional arrays for each key, which `bias` reads; they are cached with the keys."""
        return {}

    def bias(self, p: Parameters, q: Streams, k: Streams, scores_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        """Added to the attention logits: [B or 1] x H x T x S.

        Queries are already scaled, and `scores` are their products with the keys.
        """
        return None

    def values(self, p: Parameters, weights_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        """Added to the weighted values: BxTxHxV."""
        return None

    def slopes(self, num_heads: int) -> np.ndarray | None:
        """The slope of each head if `bias` is -slope * |distance|, which some fused kernels need; else None."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoPositions(Positions, name="none"):
    """No position encoding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinusoidal(Positions, name="sinusoidal"):
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""

    layout: Literal["interleaved", "halves"] = setting(
        "interleaved", "sines and cosines alternate (paper), or all sines come before all cosines (Marian)"
    )

    spacing: Literal["paper", "tensor2tensor"] = setting(
        "paper", "wavelengths up to 10000^(1 - 2/D) times the shortest, or up to 10000 times (M2M-100)"
    )
    offset: int = setting(0, "added to positions (M2M-100: 2)", at_least=0)
    size: int | None = setting(
        None, "largest number of positions, if the sinusoids are stored in a table; none: no limit", at_least=1
    )

    def longest(self) -> int | None:
        return self.size

    def check(self, sizes: Sizes) -> str | None:
        if self.spacing == "tensor2tensor" and sizes.d_model < 4:
            return (
                f"config.model.d_model is {sizes.d_model}: spacing tensor2tensor needs two wavelengths, so it must be 4 or more"
            )
        wrong = f"config.model.d_model is {sizes.d_model}: sinusoids come in pairs, so it must be even"
        return wrong if sizes.d_model % 2 else None

    def embed(self, p: Parameters, x_BxTxD: Array, positions: Array) -> Array:
        return x_BxTxD + with_rows(self.encode(positions, x_BxTxD.shape[-1])).astype(x_BxTxD.dtype)

    def encode(self, positions: Array, width: int) -> Array:
        """positions (...) -> float32 (..., width)."""
        last = width if self.spacing == "paper" else width - 2
        rates = jnp.exp(jnp.arange(0, width, 2, dtype=jnp.float32) * (-math.log(10000.0) / last))
        angles = (positions[..., None] + self.offset).astype(jnp.float32) * rates.reshape((1,) * positions.ndim + (-1,))
        waves = jnp.sin(angles), jnp.cos(angles)
        if self.layout == "halves":
            return jnp.concatenate(waves, axis=-1)
        return jnp.stack(waves, axis=-1).reshape(*positions.shape, width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned(Positions, name="learned"):
    """A table of learned vectors, indexed by position + offset (Gehring et al. 2017; BERT, GPT-2, BART)."""

    size: int = setting(1024, "positions in the table", at_least=1)
    offset: int = setting(0, "added to positions to get the index in the table (BART: 2)", at_least=0)
    stddev: float | None = setting(None, "initial standard deviation of the table; none: model.init_stddev", above=0)

    def longest(self) -> int | None:
        return self.size

    def parameters(self, sizes: Sizes, stddev: float) -> Declared:
        init = jax.nn.initializers.normal(self.stddev or stddev)
        return {"table": Drawn((self.size + self.offset, sizes.d_model), (None, "model"), init)}

    def embed(self, p: Parameters, x_BxTxD: Array, positions: Array) -> Array:
        table_NxD = p["table"].astype(x_BxTxD.dtype)
        # Callers check lengths before a run. If a check is missing, NaN makes the error visible; clamping would hide it.
        return x_BxTxD + with_rows(table_NxD.at[positions + self.offset].get(mode="fill", fill_value=jnp.nan))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alibi(Positions, name="alibi"):
    """-slope_h |distance| added to the logits (Press et al. 2022, section 3)."""

    relative: ClassVar[bool] = True
    of_distance: ClassVar[bool] = True

    def slopes(self, num_heads: int) -> np.ndarray:
        """2^(-8h/n), h = 1..n, if n is a power of two; else the slopes of the next lower power, then every second one of the
        next higher.
        """
        power = 2 ** int(math.log2(num_heads))
        slopes = [2.0 ** (-8.0 * h / power) for h in range(1, power + 1)]
        between = [2.0 ** (-8.0 * h / (2 * power)) for h in range(1, 2 * power + 1, 2)]
        return np.asarray((slopes + between)[:num_heads], np.float32)

    def bias(self, p: Parameters, q: Streams, k: Streams, scores_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        distance = jnp.abs(pairs.distance()).astype(jnp.float32)
        return -jnp.asarray(self.slopes(scores_BxHxTxS.shape[1]))[None, :, None, None] * distance[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Buckets(Positions, name="t5"):
    """A learned scalar per head and bucket of distance, one table for the whole stack (Raffel et al. 2020, section 2.1)."""

    relative: ClassVar[bool] = True
    of_distance: ClassVar[bool] = True
    buckets: int = setting(32, "buckets of distance", at_least=4)
    max_distance: int = setting(128, "all distances from this one on share the last bucket", at_least=2)

    def supports(self, mask: Mask, sizes: Sizes) -> str | None:
        if sizes.bidirectional or mask.causal:
            return None
        return (
            f"config.model.mask {registry.reference(type(mask))}: in a decoder, config.model.positions t5 "
            "has buckets only for earlier tokens; choose another position encoding"
        )

    def check(self, sizes: Sizes) -> str | None:
        if self.max_distance <= self.buckets // 2:
            return (
                f"config.model.positions.max_distance {self.max_distance}: must be more than half of "
                f"config.model.positions.buckets {self.buckets}, because each short distance has its own bucket"
            )
        return None

    def parameters(self, sizes: Sizes, stddev: float) -> Declared:
        return {"table": Drawn((self.buckets, sizes.num_heads), (None, "heads"), jax.nn.initializers.normal(stddev))}

    def bucket(self, distance: Array, bidirectional: bool) -> Array:
        """The bucket of key position - query position: half of the buckets are exact, the others logarithmic up to
        max_distance.
        """
        buckets, offset = self.buckets, jnp.zeros_like(distance)
        if bidirectional:
            buckets //= 2
            offset = jnp.where(distance > 0, buckets, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = buckets // 2
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
        return offset + jnp.where(distance < exact, distance, far)

    def bias(self, p: Parameters, q: Streams, k: Streams, scores_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        assert pairs.sizes is not None
        table_NxH = p["table"].astype(jnp.float32)
        bias_BxTxSxH = jnp.take(table_NxH, self.bucket(pairs.distance(), pairs.sizes.bidirectional), axis=0)
        return jnp.moveaxis(bias_BxTxSxH, -1, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5LayerBuckets(T5Buckets, name="t5_layers"):
    """`T5Buckets` with a separate table in each layer (UMT5; Chung et al. 2023)."""

    owner: ClassVar[Literal["stack", "layer"]] = "layer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shaw(Positions, name="shaw"):
    """A learned vector for each clipped distance, added to keys and to values in each layer (Shaw et al. 2018, eq. 3-4)."""

    owner: ClassVar[Literal["stack", "layer"]] = "layer"
    relative: ClassVar[bool] = True
    of_content: ClassVar[bool] = True
    clip: int = setting(16, "largest distance; longer ones are clipped to it (k)", at_least=1)

    def parameters(self, sizes: Sizes, stddev: float) -> Declared:
        init, entries = jax.nn.initializers.xavier_uniform(), 2 * self.clip + 1
        return {"keys": Drawn((entries, sizes.d_k), (), init), "values": Drawn((entries, sizes.d_v), (), init)}

    def entry(self, pairs: Pairs) -> Array:
        """Row index in the tables: clipped distance + clip, [B or 1] x T x S."""
        return jnp.clip(pairs.distance(), -self.clip, self.clip) + self.clip

    def bias(self, p: Parameters, q: Streams, k: Streams, scores_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        # One product with all 2 clip + 1 vectors, then a lookup: this avoids a T x S x K array.
        query_BxTxHxK = q["query"]
        scores_BxHxTxE = jnp.einsum("bthk,ek->bhte", query_BxTxHxK, p["keys"].astype(query_BxTxHxK.dtype))
        entry = self.entry(pairs)[:, None]
        entry = jnp.broadcast_to(entry, scores_BxHxTxE.shape[:3] + entry.shape[-1:])
        return jnp.take_along_axis(scores_BxHxTxE, entry, axis=-1)

    def values(self, p: Parameters, weights_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        entry = self.entry(pairs)
        chosen = jax.nn.one_hot(entry, 2 * self.clip + 1, dtype=weights_BxHxTxS.dtype)
        chosen = jnp.broadcast_to(chosen, weights_BxHxTxS.shape[:1] + chosen.shape[1:])
        mass_BxHxTxE = jnp.einsum("bhts,btse->bhte", weights_BxHxTxS, chosen)
        return jnp.einsum("bhte,ev->bthv", mass_BxHxTxE, p["values"].astype(weights_BxHxTxS.dtype))


@dataclasses.dataclass(frozen=True)
class Bound:
    """A position encoding together with its parameters, as attention receives it."""

    positions: Positions = NoPositions()
    parameters: Parameters = dataclasses.field(default_factory=dict)

    def rotate(self, x_BxTxHxK: Array, positions: Array) -> Array:
        return self.positions.rotate(self.parameters, x_BxTxHxK, positions)

    def query_streams(self, x_BxTxD: Array, tokens: Tokens) -> Streams:
        return self.positions.query_streams(self.parameters, x_BxTxD, tokens)

    def key_streams(self, x_BxSxD: Array, tokens: Tokens) -> Streams:
        return self.positions.key_streams(self.parameters, x_BxSxD, tokens)

    def bias(self, q: Streams, k: Streams, scores_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        return self.positions.bias(self.parameters, q, k, scores_BxHxTxS, pairs)

    def values(self, weights_BxHxTxS: Array, pairs: Pairs) -> Array | None:
        return self.positions.values(self.parameters, weights_BxHxTxS, pairs)

    def overrides(self, *hooks: str) -> bool:
        """Whether the encoding overrides any of these hooks."""
        return any(getattr(type(self.positions), hook) is not getattr(Positions, hook) for hook in hooks)
