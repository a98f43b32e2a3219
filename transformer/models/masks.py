"""Who may see whom: boolean rules over positions, segments and prefix flags.

A `Mask` is a small pytree: both sides of an attention and a static rule, turned into booleans only where they are
needed, a block at a time. Nothing of size T x S is stored.

Letters: B rows of a batch, T queries, S keys, H heads.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Side:
    """One side of an attention.

    positions: int32, T (shared by the batch: fast) or BxT (packed rows, left-padded prompts).
    segments: int32 BxT or None. Tokens see their own segment only; segment 0 is padding and is seen by nobody.
    prefix: bool BxT or None. Keys flagged are seen by later and earlier queries alike under the rule "prefix".
    """

    positions: Array
    segments: Array | None = None
    prefix: Array | None = None

    def block(self, start: Array | int, size: int) -> "Side":
        """`size` entries from `start` on, along the last axis."""
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size, axis=-1), self)


def causal(query: Side, key: Side) -> Array:
    """A query sees keys at its own and earlier positions: [B or 1] x T x S."""
    seen = key.positions[..., None, :] <= query.positions[..., :, None]
    return seen if seen.ndim == 3 else seen[None]


def prefix(query: Side, key: Side) -> Array:
    """Causal, but everybody sees the keys of the prefix (prefix LM; Raffel et al. 2020, section 3.2.1)."""
    if key.prefix is None:
        return causal(query, key)
    return causal(query, key) | key.prefix[:, None, :]


def same_segment(query: Side, key: Side) -> Array:
    """Both in one segment, and the key is no padding. A query without segments sees every key that is no padding."""
    assert key.segments is not None
    seen = key.segments[:, None, :] != 0
    if query.segments is None:
        return seen
    return seen & (query.segments[:, :, None] == key.segments[:, None, :])


RULES: dict[str, Callable[[Side, Side], Array] | None] = {"all": None, "causal": causal, "prefix": prefix}


@struct.dataclass
class Mask:
    """`rule` over both sides, within segments where the key side has them."""

    query: Side
    key: Side
    rule: str = struct.field(pytree_node=False, default="all")

    def booleans(self) -> Array | None:
        """True where a query sees a key: [B or 1] x 1 x [T or 1] x S, ready to broadcast over heads; None: all see all."""
        rule = RULES[self.rule]
        parts = [rule(self.query, self.key)] if rule else []
        if self.key.segments is not None:
            parts.append(same_segment(self.query, self.key))
        if not parts:
            return None
        seen = parts[0] if len(parts) == 1 else jnp.logical_and(*jnp.broadcast_arrays(*parts))
        return seen[:, None]

    def block(self, start: Array | int, size: int) -> "Mask":
        """The mask of `size` queries from `start` on."""
        return Mask(query=self.query.block(start, size), key=self.key, rule=self.rule)
