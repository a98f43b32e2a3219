"""Masks: small static rules that say which keys a query sees, from positions, segments and prefix flags. They compose with `&`.

    Causal() & Window(128) & SameSegment()

Rules hold no arrays. `Pairs` combines a rule with the queries and keys of an attention. It makes booleans only where they are
needed, one block at a time, so that no T x S array is stored.

Letters: B rows of a batch, T queries, S keys, H heads, D d_model, K width of a head's queries and keys, V of its values.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from transformer.registry import Component, restated
from transformer.settings import setting

Array = jax.Array
Stack = Literal["encoder", "decoder"]
Role = Literal["self", "cross"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of one layer's attention, its stack and its role: all that a component needs to know about the model."""

    d_model: int
    num_heads: int
    num_kv_heads: int
    d_k: int
    d_v: int
    d_ff: int
    stack: Stack = "decoder"
    role: Role = "self"
    logits_factor: float = 1.0  # multiplies the attention logits in addition to the scale; not 1 only with muP

    @property
    def bidirectional(self) -> bool:
        """Whether keys may come after the query."""
        return self.stack == "encoder"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """The queries or the keys of an attention.

    positions: int32, T (shared by the batch: fast) or BxT (packed rows, left-padded prompts).
    segments: int32 BxT or None. Tokens see only their own segment; segment 0 is padding, which no token sees.
    prefix: bool BxT or None. With the rule `Prefix`, every query sees the keys that are marked.
    gaps: whether segment 0 may also occur between tokens of one segment.
    """

    positions: Array
    segments: Array | None = None
    prefix: Array | None = None
    gaps: bool = dataclasses.field(default=False, metadata={"static": True})

    def replace(self, **changes: Any) -> "Tokens":
        """With other values of some fields."""
        return dataclasses.replace(self, **changes)

    def block(self, start: Array | int, size: int) -> "Tokens":
        """`size` tokens from `start` on, along the last axis."""
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size, axis=-1), self)

    def followed_by(self, other: "Tokens", rows: int) -> "Tokens":
        """These tokens followed by `other`, as arrays of rank 2 with `rows` rows. Both must have segments."""

        def whole(leaf: Array) -> Array:
            return jnp.broadcast_to(leaf, (rows, leaf.shape[-1]))

        assert self.segments is not None and other.segments is not None
        positions = jnp.concatenate([whole(self.positions), whole(other.positions)], axis=1)
        return Tokens(positions, jnp.concatenate([whole(self.segments), whole(other.segments)], axis=1))


@dataclasses.dataclass(frozen=True)
class Mask(Component):
    """A rule that says which keys a query sees. Rules compose with `&`.

    `span` is the greatest distance, in positions, that a query can see backwards and forwards; None means no limit. The blocks
    of the windowed computation and the size of a ring cache depend on it, so it must be correct. `band` says that the query
    sees all keys within its span, which fused kernels can compute. A class that replaces `seen` must also replace `band` to
    use these kernels.
    """

    # True: no query sees a later position, except in a prefix; keys can be cached only then.
    causal: ClassVar[bool] = False

    def seen(self, query: Tokens, key: Tokens) -> Array | None:
        """True where a query sees a key: [B or 1] x T x S; None if every query sees every key."""
        return None

    def span(self, prefix: bool) -> tuple[int | None, int | None]:
        """The greatest distance of a visible key, before and after the query. `prefix`: keys may be marked as a prefix."""
        return None, None

    def band(self, prefix: bool) -> bool:
        """Whether the query sees every key within `span`."""
        return False

    def during(self, training: bool) -> "Mask":
        """The rule to apply during training, or else during evaluation and generation."""
        return self

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, other)


@dataclasses.dataclass(frozen=True)
class All(Mask, name="all"):
    """Every token sees every token of its segment."""

    def band(self, prefix: bool) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Causal(Mask, name="causal"):
    """A query sees the keys at its own and at earlier positions (Vaswani et al. 2017, section 3.2.3), also within a prefix."""

    causal: ClassVar[bool] = True

    def seen(self, query: Tokens, key: Tokens) -> Array | None:
        return with_rows(key.positions[..., None, :] <= query.positions[..., :, None])

    def span(self, prefix: bool) -> tuple[int | None, int | None]:
        return None, 0

    def band(self, prefix: bool) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Prefix(Causal, name="prefix"):
    """Causal, but every token sees the keys of the prefix if the batch marks one (prefix LM; Raffel et al. 2020, 3.2.1)."""

    def seen(self, query: Tokens, key: Tokens) -> Array | None:
        seen = super().seen(query, key)
        return seen if key.prefix is None or seen is None else seen | key.prefix[:, None, :]

    def span(self, prefix: bool) -> tuple[int | None, int | None]:
        return None, None if prefix else 0

    def band(self, prefix: bool) -> bool:
        return not prefix


@dataclasses.dataclass(frozen=True)
class Window(Mask, name="window"):
    """A query sees the keys less than `size` positions away; with `Causal` these are `size` tokens, including its own."""

    size: int = setting(128, "a query sees the keys that are less than this number of positions away", at_least=1)

    def seen(self, query: Tokens, key: Tokens) -> Array | None:
        distance = key.positions[..., None, :] - query.positions[..., :, None]
        return with_rows(jnp.abs(distance) < self.size)

    def span(self, prefix: bool) -> tuple[int | None, int | None]:
        return self.size - 1, self.size - 1

    def band(self, prefix: bool) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class SameSegment(Mask, name="same_segment"):
    """Query and key are in the same segment, and the key is not padding. `Pairs` always applies this rule beside the mask.

    A query without segments sees every key that is not padding.
    """

    def seen(self, query: Tokens, key: Tokens) -> Array | None:
        if key.segments is None:
            return None
        seen = key.segments[:, None, :] != 0
        return seen if query.segments is None else seen & (query.segments[:, :, None] == key.segments[:, None, :])


@dataclasses.dataclass(frozen=True)
class Both(Mask, name="both"):
    """A query sees a key if both rules allow it."""

    first: Mask = setting(All(), "one rule")
    second: Mask = setting(All(), "the other")

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return self.first.causal or self.second.causal

    def seen(self, query: Tokens, key: Tokens) -> Array | None:
        return both(self.first.seen(query, key), self.second.seen(query, key))

    def span(self, prefix: bool) -> tuple[int | None, int | None]:
        (before, after), (also_before, also_after) = self.first.span(prefix), self.second.span(prefix)
        return _nearest(before, also_before), _nearest(after, also_after)

    def band(self, prefix: bool) -> bool:
        return is_band(self.first, prefix) and is_band(self.second, prefix)

    def during(self, training: bool) -> Mask:
        return Both(self.first.during(training), self.second.during(training))


def _nearest(first: int | None, second: int | None) -> int | None:
    return min((limit for limit in (first, second) if limit is not None), default=None)


def is_band(mask: Mask, prefix: bool) -> bool:
    """Whether the mask lets a query see exactly the keys within its span."""
    return restated(type(mask), "band", "seen", "span") and mask.band(prefix)


def both(first: Array | None, second: Array | None) -> Array | None:
    """The logical AND of two arrays of booleans that broadcast to each other; None means True everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return jnp.logical_and(*jnp.broadcast_arrays(first, second))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """The queries and keys of an attention and the mask between them. If the keys have segments, attention stays within them.

    `layer` is the index of the layer in its stack, an int32 scalar that starts at 0. `sizes` and `mask` are static. `aligned`:
    queries and keys are the same tokens in the same order. `ordered`: the keys of a segment are in the order of their
    positions, which is always true except in a cache. `training`: dropout and other training-only steps are applied.
    """

    query: Tokens
    key: Tokens
    layer: Array | int = 0
    mask: Mask = dataclasses.field(default=All(), metadata={"static": True})
    sizes: Sizes | None = dataclasses.field(default=None, metadata={"static": True})
    aligned: bool = dataclasses.field(default=False, metadata={"static": True})
    ordered: bool = dataclasses.field(default=True, metadata={"static": True})
    training: bool = dataclasses.field(default=False, metadata={"static": True})
    allowed: Array | None = None  # booleans [B or 1] x T x S from the caller, combined with the mask

    def replace(self, **changes: Any) -> "Pairs":
        """With other values of some fields."""
        return dataclasses.replace(self, **changes)

    def seen(self) -> Array | None:
        """True where a query sees a key: [B or 1] x 1 x [T or 1] x S, to broadcast over heads; None if all queries see all
        keys.
        """
        seen = both((self.mask & SameSegment()).seen(self.query, self.key), self.allowed)
        return None if seen is None else seen[:, None]

    def band(self) -> tuple[int | None, int | None] | str:
        """How many slots before and after a query it sees all keys of its segment, or the reason why there is no such band."""
        prefix = self.key.prefix is not None
        if self.key.segments is not None and (self.query.segments is None or self.key.gaps):
            return "keys are hidden within a segment" if self.key.gaps else "keys have segments, and queries have none"
        if self.allowed is not None:
            return "a mask of booleans is given"
        if not is_band(self.mask, prefix):
            return "the mask depends on a prefix" if is_band(self.mask, False) else f"the mask {type(self.mask).__name__}"
        span = self.mask.span(prefix)
        return "queries and keys are different tokens" if span != (None, None) and not self.aligned else span

    def count(self) -> Array:
        """The number of keys that each query sees, at least 1: fp32, [B or 1] x 1 x [T or 1] x 1."""
        seen = self.seen()
        if seen is None:
            return jnp.full((1, 1, 1, 1), self.key.positions.shape[-1], jnp.float32)
        return jnp.maximum(jnp.sum(seen, axis=-1, keepdims=True, dtype=jnp.float32), 1.0)

    def distance(self) -> Array:
        """Key position minus query position: int32, [B or 1] x T x S."""
        return with_rows(self.key.positions[..., None, :] - self.query.positions[..., :, None])

    def sum_from(self, values_BxHxTxS: Array) -> Array:
        """For each query and key, the sum of the values of this key and of all later keys that the query sees: BxHxTxS.

        The query axis of `values` may have size 1. The result is undefined for keys that the query does not see.
        """
        seen = self.seen()
        if seen is not None:
            values_BxHxTxS = jnp.where(seen, values_BxHxTxS, 0)
        if self.ordered:
            return jax.lax.cumsum(values_BxHxTxS, axis=3, reverse=True)
        positions = self.key.positions
        order = jnp.argsort(positions, axis=-1).reshape(-1, 1, 1, positions.shape[-1])
        sums = jax.lax.cumsum(jnp.take_along_axis(values_BxHxTxS, order, axis=3), axis=3, reverse=True)
        return jnp.take_along_axis(sums, jnp.argsort(order, axis=-1), axis=3)

    def block(self, start: Array | int, size: int) -> "Pairs":
        """A block of `size` queries, beginning at index `start`, with all keys."""
        allowed = None if self.allowed is None else jax.lax.dynamic_slice_in_dim(self.allowed, start, size, axis=1)
        return self.replace(query=self.query.block(start, size), allowed=allowed, aligned=False)


def with_rows(x: Array) -> Array:
    """Adds the batch axis that is missing if positions have rank 1."""
    return x if x.ndim == 3 else x[None]
