"""The cache of a decoder: for each layer streams of keys in slots or in a ring, or a state; and the tokens in the slots.

    {"layers": [{"slots" | "ring" | "state": {name: array}}], "positions": BxC, "segments": BxC,
     "rings": {window: {"positions": BxW, "segments": BxW}}, "slot": B, "next": B}

The batch axis is first in every leaf, so that beams can be reordered. A free slot has segment 0. In a full cache (`slots`) all
rows write to the same slot, and the first slot follows the last: a row may begin at any slot, and needs one slot for each of
its tokens. In a ring, a token's slot is its position modulo the window, separately for each row. `next` is the position of a
row's
next token, which differs between rows.

A stream B x S x N x K is stored as B x N x S x K: the slots of a head are contiguous, which makes attention several times as
fast on a CPU.

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
    """A stream in the layout of the cache. The function is its own inverse."""
    return jnp.swapaxes(stream, 1, 2) if stream.ndim == 4 else stream


def slot_axis(kept: Array) -> int:
    """The slot axis of a stream in the layout of the cache."""
    return 2 if kept.ndim == 4 else 1


@struct.dataclass
class Write:
    """Writes T new tokens: to the slots from `slot` on, or in a ring to `ring_slots` BxT, where W means that it is not
    written.
    """

    slot: Array
    ring_slots: Array | None = None

    def __call__(self, kept: dict[str, Array], new: Streams) -> tuple[dict[str, Array], Streams]:
        """The updated cache entries, and all streams that the new tokens may see.

        For a ring, these are the old streams followed by the new ones, because a new token may overwrite the slot of a token
        that another new token still sees.
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
    """Positions and segments of an empty cache and of its rings."""

    def free(count: int) -> dict[str, Array]:
        return {"positions": jnp.zeros((rows, count), jnp.int32), "segments": jnp.zeros((rows, count), jnp.int32)}

    zeros = jnp.zeros((rows,), jnp.int32)
    return free(max_length) | {"rings": {window: free(window) for window in sorted(windows)}, "slot": zeros, "next": zeros}


def resize(cache: Cache, count: int) -> Cache:
    """The cache with `count` slots, which hold the newest tokens; the next token is written to the first slot.

    Rings, states and a recurrent model's cache do not change.
    """
    if "positions" not in cache:
        return cache
    slot = cache["slot"][0]
    return _map_slots(lambda leaf, axis: newest(leaf, slot, count, axis), cache) | {"slot": jnp.zeros_like(cache["slot"])}


def put_rows(cache: Cache, rows_R: Array, new: Cache) -> Cache:
    """Replaces the rows `rows_R` of the cache by the R rows of `new`. An index past the last row is ignored.

    All slots of `new` must be filled; they are aligned so that the next token follows the last of them.
    """
    if "positions" not in cache:
        return jax.tree.map(lambda old, leaf: put(old, rows_R, leaf), cache, new)
    slot, count, taken = cache["slot"][0], cache["positions"].shape[1], new["positions"].shape[1]
    new = _map_slots(lambda leaf, axis: jnp.roll(newest(leaf, 0, count, axis), slot, axis), new)
    written = jax.tree.map(lambda old, leaf: put(old, rows_R, leaf), cache, new) | {"slot": cache["slot"]}
    if not taken and "layers" in cache:  # free slots are masked, so their contents do not matter
        pairs = zip(cache["layers"], written["layers"], strict=True)
        written["layers"] = [old if "slots" in old else each for old, each in pairs]
    return written


def put(old: Array, rows_R: Array, new: Array) -> Array:
    """Replaces the rows `rows_R` of an array by the R rows of `new`. An index past the last row is ignored."""
    return old.at[rows_R].set(new.astype(old.dtype), mode="drop")


def copy_rows(cache: Cache, from_R: Array) -> Cache:
    """Copies row `from_R[n]` of the cache to each row n. Rows that are copied to another row do not change themselves."""
    if jax.default_backend() != "cpu":
        return jax.tree.map(lambda leaf: leaf[from_R], cache)
    # On a CPU the time is proportional to the copied bytes: copy only rows that change, and of slots only blocks with a token.
    changed_R, rest, slots = from_R != jnp.arange(len(from_R)), cache, []
    if "positions" in cache and "layers" in cache:
        slots = [each.get("slots", {}) for each in cache["layers"]]
        rest = cache | {"layers": [{name: kept for name, kept in each.items() if name != "slots"} for each in cache["layers"]]}
    copied = _copy_whole(rest, from_R, changed_R)
    if not any(slots):
        return copied
    new = _copy_blocks(slots, from_R, changed_R, cache["segments"])
    layers = [each | ({"slots": kept} if kept else {}) for each, kept in zip(copied["layers"], new, strict=True)]
    return copied | {"layers": layers}


LARGE = 1024  # elements of a row, from which rows are copied one by one
BLOCK = 8  # slots that are copied at once


def _copy_whole(tree: Any, from_R: Array, changed_R: Array) -> Any:
    def copy(number: Array, leaves: list[Array]) -> list[Array]:
        to, source = order_R[number], from_R[order_R[number]]
        return [jax.lax.dynamic_update_index_in_dim(leaf, leaf[source], to, 0) for leaf in leaves]

    order_R = jnp.argsort(~changed_R)
    leaves, structure = jax.tree.flatten(tree)
    large = [leaf for leaf in leaves if leaf[0].size >= LARGE]
    copied = iter(jax.lax.fori_loop(0, jnp.sum(changed_R), copy, large) if large else ())
    return jax.tree.unflatten(structure, [next(copied) if leaf[0].size >= LARGE else leaf[from_R] for leaf in leaves])


def _copy_blocks(tree: Any, from_R: Array, changed_R: Array, segments_RxC: Array) -> Any:
    """Of streams, BLOCK slots at once; the last block may overlap the one before."""
    count, size = segments_RxC.shape[1], min(BLOCK, segments_RxC.shape[1])
    starts = range(0, count, size)
    taken_RxC = segments_RxC[from_R] > 0
    needed_RxN = changed_R[:, None] & jnp.stack([taken_RxC[:, start : start + size].any(1) for start in starts], axis=1)
    order = jnp.argsort(~needed_RxN.reshape(-1))

    def copy(number: Array, leaves: list[Array]) -> list[Array]:
        row, block = jnp.divmod(order[number], len(starts))
        return [moved(leaf, row, block * size) for leaf in leaves]

    def moved(leaf: Array, row: Array, start: Array) -> Array:
        axis, shape = slot_axis(leaf), [1, *leaf.shape[1:]]
        shape[axis] = size
        to, source = ([start if n == axis else at if n == 0 else 0 for n in range(leaf.ndim)] for at in (row, from_R[row]))
        return jax.lax.dynamic_update_slice(leaf, jax.lax.dynamic_slice(leaf, source, shape), to)

    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, jax.lax.fori_loop(0, jnp.sum(needed_RxN), copy, leaves))


def newest(leaf: Array, slot: Array | int, count: int, axis: int) -> Array:
    """The last `count` entries before `slot`, cyclically. If the axis has fewer, zeros are added at the beginning."""
    leaf, size = jnp.roll(leaf, -slot, axis), leaf.shape[axis]
    if count <= size:
        return jax.lax.slice_in_dim(leaf, size - count, size, axis=axis)
    return jnp.pad(leaf, [(count - size if n == axis else 0, 0) for n in range(leaf.ndim)])


def _map_slots(change: Callable[[Array, int], Array], cache: Cache) -> Cache:
    """Applies `change(leaf, axis)` to each leaf that has slots; `axis` is its slot axis."""

    def layer(each: dict[str, Any]) -> dict[str, Any]:
        return {"slots": {n: change(leaf, slot_axis(leaf)) for n, leaf in each["slots"].items()}} if "slots" in each else each

    changed = {name: change(cache[name], 1) for name in ("tokens", "positions", "segments") if name in cache}
    return cache | changed | ({"layers": [layer(each) for each in cache["layers"]]} if "layers" in cache else {})


@struct.dataclass
class Step:
    """The inputs of a step of T new tokens: the queries, and for each window (0: the whole cache) the keys and where to write.

    `new`: the new tokens as keys. Layers with a state see only these and the state.
    """

    query: Tokens
    new: Tokens
    keys: dict[int, Tokens]
    writes: dict[int, Write]


def advance(cache: Cache, valid_BxT: Array, prefix: bool = False) -> tuple[Cache, Step]:
    """Writes positions and segments of T new tokens into the cache, but no streams; returns it and the step's inputs.

    `valid_BxT` is False for padding. `prefix`: the tokens are a prefix, in which every token sees every token.
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
        # Do not write padding, nor a token whose slot a later token of the same call overwrites.
        written = (valid > 0) & (positions_BxT >= last_Bx1 - window)
        slots_BxT = jnp.where(written, positions_BxT % window, window)
        # A search feeds the last token of a prompt again: hide slots at or after the next position, so it is not seen twice.
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
    """The cache with its counters advanced by T tokens."""
    added = jnp.sum(valid_BxT.astype(jnp.int32), axis=1)
    slot = (cache["slot"] + valid_BxT.shape[1]) % cache["positions"].shape[1]
    return cache | {"slot": slot, "next": cache["next"] + added}
