"""One class per way to tell positions; `NoPositions` is one of them.

A class is a frozen, hashable description with up to four pure hooks that default to doing nothing. Parameters stand
outside: `parameters()` names initialisers and shapes, and whoever owns them hands them to the hooks; `owner` says
who that is: the stack (one set for all layers) or the layer. Positions are explicit integers, of rank 1 (shared by the
batch) or 2. Kinds that act on pairs (`relative`) are for self-attention only.

Letters: B rows, T queries, S keys, H heads, K width of a head's keys, V of its values, D d_model, N buckets, E 2 clip + 1.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer.config import Model

Array = jax.Array
Parameters = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class NoPositions:
    """Nothing is told. Also the base: every hook does nothing."""

    owner: ClassVar[Literal["stack", "layer"]] = "stack"
    relative: ClassVar[bool] = False

    @classmethod
    def of(cls, model: Model, bidirectional: bool) -> "NoPositions":
        """The class's object for a model's settings; `bidirectional`: keys may lie ahead of the query."""
        return cls()

    def parameters(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Name -> (initialiser, shape) of what is learned."""
        return {}

    def embed(self, parameters: Parameters, x_BxTxD: Array, positions: Array) -> Array:
        """Applied once, to the embedded input of a stack."""
        return x_BxTxD

    def turn(self, x_BxTxHxK: Array, positions: Array) -> Array:
        """Applied to the queries and the keys of every layer."""
        return x_BxTxHxK

    def logits(
        self, parameters: Parameters, query_BxTxHxK: Array, query_positions: Array, key_positions: Array
    ) -> Array | None:
        """Added to the attention logits: [B or 1] x H x T x S. `query` comes scaled as the product of queries and keys is."""
        return None

    def values(
        self, parameters: Parameters, weights_BxHxTxS: Array, query_positions: Array, key_positions: Array
    ) -> Array | None:
        """Added to what attention returns: BxTxHxV."""
        return None


@dataclasses.dataclass(frozen=True)
class Sinusoidal(NoPositions):
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""

    halves: bool = False

    @classmethod
    def of(cls, model: Model, bidirectional: bool) -> "Sinusoidal":
        return cls(halves=model.sinusoid_layout == "halves")

    def embed(self, parameters: Parameters, x_BxTxD: Array, positions: Array) -> Array:
        return x_BxTxD + _rows(self.encode(positions, x_BxTxD.shape[-1])).astype(x_BxTxD.dtype)

    def encode(self, positions: Array, width: int) -> Array:
        """positions (...) -> float32 (..., width)."""
        rates = jnp.exp(jnp.arange(0, width, 2, dtype=jnp.float32) * (-math.log(10000.0) / width))
        angles = positions[..., None].astype(jnp.float32) * rates.reshape((1,) * positions.ndim + (-1,))
        waves = jnp.sin(angles), jnp.cos(angles)
        if self.halves:
            return jnp.concatenate(waves, axis=-1)
        return jnp.stack(waves, axis=-1).reshape(*positions.shape, width)


@dataclasses.dataclass(frozen=True)
class Learned(NoPositions):
    """A table of vectors, read at position + offset (Gehring et al. 2017; BERT, GPT-2, BART)."""

    size: int
    width: int
    offset: int = 0
    stddev: float = 0.02

    @classmethod
    def of(cls, model: Model, bidirectional: bool) -> "Learned":
        return cls(model.max_positions, model.d_model, model.position_offset, model.init_stddev)

    def parameters(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        return {"table": (jax.nn.initializers.normal(self.stddev), (self.size + self.offset, self.width))}

    def embed(self, parameters: Parameters, x_BxTxD: Array, positions: Array) -> Array:
        table_NxD = parameters["table"].astype(x_BxTxD.dtype)
        # Callers check lengths before a run. Should one slip through, NaN shows it; a clamp would hide it.
        return x_BxTxD + _rows(table_NxD.at[positions + self.offset].get(mode="fill", fill_value=jnp.nan))


@dataclasses.dataclass(frozen=True)
class Rotary(NoPositions):
    """Pairs (i, i + K/2) of queries and keys turned by p / base^(2i/K) (Su et al. 2021, equation 34)."""

    relative: ClassVar[bool] = True
    base: float = 10000.0

    @classmethod
    def of(cls, model: Model, bidirectional: bool) -> "Rotary":
        return cls(model.rotary_base)

    def turn(self, x_BxTxHxK: Array, positions: Array) -> Array:
        half = x_BxTxHxK.shape[-1] // 2
        rates = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(self.base) / half))
        angles = positions[..., None].astype(jnp.float32) * rates.reshape((1,) * positions.ndim + (-1,))
        sin, cos = (_rows(wave(angles))[:, :, None, :] for wave in (jnp.sin, jnp.cos))
        first, second = jnp.split(x_BxTxHxK.astype(jnp.float32), 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.astype(x_BxTxHxK.dtype)


@dataclasses.dataclass(frozen=True)
class Alibi(NoPositions):
    """-slope_h |distance| added to the logits (Press et al. 2022, section 3)."""

    relative: ClassVar[bool] = True
    num_heads: int

    @classmethod
    def of(cls, model: Model, bidirectional: bool) -> "Alibi":
        return cls(model.num_heads)

    def slopes(self) -> np.ndarray:
        """2^(-8h/n), h = 1..n, for a power of two; else those of the power below, then every other one of the power above."""
        power = 2 ** int(math.log2(self.num_heads))
        slopes = [2.0 ** (-8.0 * h / power) for h in range(1, power + 1)]
        between = [2.0 ** (-8.0 * h / (2 * power)) for h in range(1, 2 * power + 1, 2)]
        return np.asarray((slopes + between)[: self.num_heads], np.float32)

    def logits(self, parameters: Parameters, query_BxTxHxK: Array, query_positions: Array, key_positions: Array) -> Array:
        distance = jnp.abs(_distance(query_positions, key_positions)).astype(jnp.float32)
        return -jnp.asarray(self.slopes())[None, :, None, None] * distance[:, None]


@dataclasses.dataclass(frozen=True)
class T5Buckets(NoPositions):
    """A learned scalar per head and bucket of distance, one table for the whole stack (Raffel et al. 2020, section 2.1)."""

    relative: ClassVar[bool] = True
    num_heads: int
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    stddev: float = 0.02

    @classmethod
    def of(cls, model: Model, bidirectional: bool) -> "T5Buckets":
        return cls(model.num_heads, model.t5_buckets, model.t5_max_distance, bidirectional, model.init_stddev)

    def parameters(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        return {"table": (jax.nn.initializers.normal(self.stddev), (self.buckets, self.num_heads))}

    def bucket(self, distance: Array) -> Array:
        """key position - query position -> bucket: half of them exact, the rest logarithmic up to max_distance."""
        buckets, offset = self.buckets, jnp.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            offset = jnp.where(distance > 0, buckets, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = buckets // 2
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
        return offset + jnp.where(distance < exact, distance, far)

    def logits(self, parameters: Parameters, query_BxTxHxK: Array, query_positions: Array, key_positions: Array) -> Array:
        table_NxH = parameters["table"].astype(jnp.float32)
        bias_BxTxSxH = jnp.take(table_NxH, self.bucket(_distance(query_positions, key_positions)), axis=0)
        return jnp.moveaxis(bias_BxTxSxH, -1, 1)


@dataclasses.dataclass(frozen=True)
class Shaw(NoPositions):
    """A learned vector per clipped distance, added to keys and to values, one set a layer (Shaw et al. 2018, equations 3-4)."""

    owner: ClassVar[Literal["stack", "layer"]] = "layer"
    relative: ClassVar[bool] = True
    key_width: int
    value_width: int
    clip: int = 16

    @classmethod
    def of(cls, model: Model, bidirectional: bool) -> "Shaw":
        return cls(model.key_width, model.value_width, model.shaw_clip)

    def parameters(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        initializer, entries = jax.nn.initializers.xavier_uniform(), 2 * self.clip + 1
        return {"keys": (initializer, (entries, self.key_width)), "values": (initializer, (entries, self.value_width))}

    def entry(self, query_positions: Array, key_positions: Array) -> Array:
        """Row of the tables: clipped distance + clip, [B or 1] x T x S."""
        return jnp.clip(_distance(query_positions, key_positions), -self.clip, self.clip) + self.clip

    def logits(self, parameters: Parameters, query_BxTxHxK: Array, query_positions: Array, key_positions: Array) -> Array:
        # One product with all 2 clip + 1 vectors, then a choice: no T x S x K array exists.
        scores_BxHxTxE = jnp.einsum("bthk,ek->bhte", query_BxTxHxK, parameters["keys"].astype(query_BxTxHxK.dtype))
        entry = self.entry(query_positions, key_positions)[:, None]
        entry = jnp.broadcast_to(entry, scores_BxHxTxE.shape[:3] + entry.shape[-1:])
        return jnp.take_along_axis(scores_BxHxTxE, entry, axis=-1)

    def values(self, parameters: Parameters, weights_BxHxTxS: Array, query_positions: Array, key_positions: Array) -> Array:
        entry = self.entry(query_positions, key_positions)
        chosen = jax.nn.one_hot(entry, 2 * self.clip + 1, dtype=weights_BxHxTxS.dtype)
        chosen = jnp.broadcast_to(chosen, weights_BxHxTxS.shape[:1] + chosen.shape[1:])
        mass_BxHxTxE = jnp.einsum("bhts,btse->bhte", weights_BxHxTxS, chosen)
        return jnp.einsum("bhte,ev->bthv", mass_BxHxTxE, parameters["values"].astype(weights_BxHxTxS.dtype))


KINDS: dict[str, type[NoPositions]] = {
    "none": NoPositions,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "rotary": Rotary,
    "alibi": Alibi,
    "t5": T5Buckets,
    "shaw": Shaw,
}


def make(model: Model, bidirectional: bool) -> NoPositions:
    """The position object that a model's settings name."""
    return KINDS[model.positions].of(model, bidirectional)


def _rows(x: Array) -> Array:
    """Adds the batch axis to what positions of rank 1 gave."""
    return x if x.ndim == 3 else x[None]


def _distance(query_positions: Array, key_positions: Array) -> Array:
    """key - query, [B or 1] x T x S."""
    distance = key_positions[..., None, :] - query_positions[..., :, None]
    return distance if distance.ndim == 3 else distance[None]
