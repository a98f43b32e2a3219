"""What a decoder remembers while it generates: streams of keys, slot by slot, in rings, or states; and whose slots they are.

    {"layers": [{"slots" | "ring" | "state": {name: array}}], "positions": BxC, "segments": BxC,
     "rings": {window: {"positions": BxW, "segments": BxW}}, "slot": B, "next": B}

The batch axis is first in every leaf, so that beams can be reordered; a free slot has segment 0. All rows write the same slot
of a full cache, and after the last slot the first one again: a row may begin at any slot, and needs as many slots as it has
tokens. In a ring a token's slot is its position modulo the window, row by row. `next` is the position of a row's next token,
which differs by row.

A stream B x S x N x K is kept as B x N x S x K: each head's slots lie together, which makes attending several times as fast on
a CPU.

Letters: B rows, T new tokens, C slots, W slots of a ring, S keys that are visible, N key-value heads.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from transformer.components.masks import Tokens
from transformer.components.parameters import Streams

Array = jax.Array
Cache = dict[str, Any]


def store(stream: Array) -> Array:
    """A stream as it is kept; its own inverse."""
    return jnp.swapaxes(stream, 1, 2) if stream.ndim == 4 else stream


def slot_axis(kept: Array) -> int:
    """The axis of the slots of a stream that is kept."""
    return 2 if kept.ndim == 4 else 1


@struct.dataclass
class Write:
    """Where T new tokens are written: from `slot` on; or, in a ring, at `ring_slots` BxT, where W stands for nowhere."""

    slot: Array
    ring_slots: Array | None = None

    def __call__(self, kept: dict[str, Array], new: Streams) -> tuple[dict[str, Array], Streams]:
        """The entries with new streams written, and all streams that the new tokens may see.

        In a ring these are the old ones and the new ones side by side: a new token may take the slot of one that is still seen.
        """
        written, visible = {}, {}
        for name, stream in new.items():
            old, added = kept[name], store(stream).astype(kept[name].dtype)
            axis = slot_axis(old)
            if self.ring_slots is None:
                written[name] = jax.lax.dynamic_update_slice_in_dim(old, added, self.slot, axis=axis)
                visible[name] = store(written[name])
            else:
                written[name] = _scatter(old, added, self.ring_slots, axis)
                visible[name] = store(jnp.concatenate([old, added], axis=axis))
        return written, visible


def _scatter(old: Array, new: Array, slots_BxT: Array, axis: int) -> Array:
    rows = jnp.arange(old.shape[0])[:, None]
    moved = jnp.moveaxis(old, axis, 1).at[rows, slots_BxT].set(jnp.moveaxis(new, axis, 1), mode="drop")
    return jnp.moveaxis(moved, 1, axis)


def start_tokens(rows: int, max_length: int, windows: set[int]) -> Cache:
    """Positions and segments of an empty cache, and of its rings."""

    def free(count: int) -> dict[str, Array]:
        return {"positions": jnp.zeros((rows, count), jnp.int32), "segments": jnp.zeros((rows, count), jnp.int32)}

    zeros = jnp.zeros((rows,), jnp.int32)
    return free(max_length) | {"rings": {window: free(window) for window in sorted(windows)}, "slot": zeros, "next": zeros}


def resize(cache: Cache, count: int) -> Cache:
    """The same cache with `count` slots, which hold the newest tokens; the next token's slot is the first one.

    Rings, states and a recurrent model's cache stay as they are.
    """
    if "positions" not in cache:
        return cache
    slot = cache["slot"][0]
    return _map_slots(lambda leaf, axis: newest(leaf, slot, count, axis), cache) | {"slot": jnp.zeros_like(cache["slot"])}


def put_rows(cache: Cache, rows_R: Array, new: Cache) -> Cache:
    """The cache with the R rows of `new` in the place of the rows with these numbers; of one past the last row, nothing.

    All slots of `new` are taken; their tokens end where the next one is written.
    """
    if "positions" not in cache:
        return jax.tree.map(lambda old, leaf: put(old, rows_R, leaf), cache, new)
    slot, count, taken = cache["slot"][0], cache["positions"].shape[1], new["positions"].shape[1]
    new = _map_slots(lambda leaf, axis: jnp.roll(newest(leaf, 0, count, axis), slot, axis), new)
    written = jax.tree.map(lambda old, leaf: put(old, rows_R, leaf), cache, new) | {"slot": cache["slot"]}
    if not taken and "layers" in cache:  # slots that are free now are not seen, whatever is in them
        pairs = zip(cache["layers"], written["layers"], strict=True)
        written["layers"] = [old if "slots" in old else each for old, each in pairs]
    return written


def put(old: Array, rows_R: Array, new: Array) -> Array:
    """R rows of an array in the place of those with these numbers; of one past the last row, nothing."""
    return old.at[rows_R].set(new.astype(old.dtype), mode="drop")


def newest(leaf: Array, slot: Array | int, count: int, axis: int) -> Array:
    """`count` entries, the last of which is the one before `slot`, around the end; of fewer, the first ones are 0."""
    leaf, size = jnp.roll(leaf, -slot, axis), leaf.shape[axis]
    if count <= size:
        return jax.lax.slice_in_dim(leaf, size - count, size, axis=axis)
    return jnp.pad(leaf, [(count - size if n == axis else 0, 0) for n in range(leaf.ndim)])


def _map_slots(change: Callable[[Array, int], Array], cache: Cache) -> Cache:
    """The cache with `change(leaf, axis)` for each leaf that has slots, along `axis`."""

    def layer(each: dict[str, Any]) -> dict[str, Any]:
        return {"slots": {n: change(leaf, slot_axis(leaf)) for n, leaf in each["slots"].items()}} if "slots" in each else each

    changed = {name: change(cache[name], 1) for name in ("tokens", "positions", "segments") if name in cache}
    return cache | changed | ({"layers": [layer(each) for each in cache["layers"]]} if "layers" in cache else {})


@struct.dataclass
class Step:
    """What a step of T new tokens reads and writes: their own tokens, and by window (0: the whole cache) keys and slots.

    `new`: the tokens as keys, which are all that layers with a state see beside it.
    """

    query: Tokens
    new: Tokens
    keys: dict[int, Tokens]
    writes: dict[int, Write]


def advance(cache: Cache, valid_BxT: Array, prefix: bool = False) -> tuple[Cache, Step]:
    """Positions and segments of T new tokens written into the cache (streams are not), and what the tokens see.

    `valid_BxT`: False: the token is padding. `prefix`: the tokens are a prefix, all of which see all of them.
    """
    valid = valid_BxT.astype(jnp.int32)
    positions_BxT = jnp.maximum(cache["next"][:, None] + jnp.cumsum(valid, axis=1) - 1, 0)
    slot = cache["slot"][0]
    key_positions = jax.lax.dynamic_update_slice_in_dim(cache["positions"], positions_BxT, slot, axis=1)
    key_segments = jax.lax.dynamic_update_slice_in_dim(cache["segments"], valid, slot, axis=1)
    flags = None
    if prefix:
        flags = jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(key_segments), valid, slot, axis=1) > 0
    keys, writes = {0: Tokens(key_positions, key_segments, flags)}, {0: Write(slot)}
    rings, last_Bx1 = {}, (cache["next"] + jnp.sum(valid, axis=1))[:, None]
    for window, ring in cache["rings"].items():
        # Padding is not written, nor a token whose slot a later one of the same call takes.
        written = (valid > 0) & (positions_BxT >= last_Bx1 - window)
        slots_BxT = jnp.where(written, positions_BxT % window, window)
        # A search feeds the last token of a prompt again: what stands at or after the next position is not seen twice.
        before = jnp.where(ring["positions"] < cache["next"][:, None], ring["segments"], 0)
        old, new = Tokens(ring["positions"], before), Tokens(positions_BxT, valid)
        keys[window] = old.followed_by(new, valid.shape[0])
        if prefix:
            marked = jnp.concatenate([jnp.zeros_like(ring["segments"]), valid], axis=1) > 0
            keys[window] = keys[window].replace(prefix=marked)
        writes[window] = Write(slot, slots_BxT)
        rings[window] = {
            "positions": _scatter(ring["positions"], positions_BxT, slots_BxT, 1),
            "segments": _scatter(ring["segments"], valid, slots_BxT, 1),
        }
    cache = cache | {"positions": key_positions, "segments": key_segments, "rings": rings}
    new = Tokens(positions_BxT, valid, valid > 0 if prefix else None)
    return cache, Step(Tokens(positions_BxT), new, keys, writes)


def finish(cache: Cache, valid_BxT: Array) -> Cache:
    """The cache with its counters moved past T tokens."""
    added = jnp.sum(valid_BxT.astype(jnp.int32), axis=1)
    slot = (cache["slot"] + valid_BxT.shape[1]) % cache["positions"].shape[1]
    return cache | {"slot": slot, "next": cache["next"] + added}
