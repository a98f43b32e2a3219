"""The cache of a decoder: for each layer streams of keys in slots or in a ring, or a state; and the tokens in the slots.

    {"layers": [{"slots" | "ring" | "state": {name: array}}], "positions": BxC, "segments": BxC,
     "rings": {window: {"positions": BxW, "segments": BxW}}, "slot": B, "next": B, "seen": BxTxC}

The batch axis is first in every leaf, so that beams can be reordered. A free slot has segment 0. In a full cache (`slots`) all
rows write to the same slot, and the first slot follows the last: a row may begin at any slot, and needs one slot for each of
its tokens. In a ring, a token's slot is its position modulo the window, separately for each row. `next` is the position of a
row's next token, which differs between rows.

In a shared cache (`share`), a row is a sentence with T beams. Each step feeds one token of each beam, and all T tokens have the
same position. `seen` tells which slots hold tokens of a beam. So beams that begin alike share the slots of what they have in
common, and no stream moves when beams are reordered. Other caches have no `seen`.

Streams are stored so that their products with queries and weights are fast, several times as fast on a CPU: a stream B x S x N
x K as B x N x S x K, and the one that is called `key` as B x N x K x S.

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


def store(streams: Streams) -> Streams:
    """Streams in the layout of the cache, whose slot axis is `slot_axis`."""
    return {name: jnp.moveaxis(each, 1, slot_axis(name, each)) for name, each in streams.items()}


def load(kept: Streams) -> Streams:
    """The inverse of `store`."""
    return {name: jnp.moveaxis(each, slot_axis(name, each), 1) for name, each in kept.items()}


def slot_axis(name: str, stream: Array) -> int:
    """The slot axis of a stream in the layout of the cache."""
    if stream.ndim != 4:
        return 1
    return 3 if name == "key" else 2


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
        for name, stream in store(new).items():
            old, added, axis = kept[name], stream.astype(kept[name].dtype), slot_axis(name, stream)
            if self.ring_slots is None:
                written[name] = visible[name] = jax.lax.dynamic_update_slice_in_dim(old, added, self.slot, axis=axis)
            else:
                written[name] = _scatter(old, added, self.ring_slots, axis)
                visible[name] = jnp.concatenate([old, added], axis=axis)
        return written, load(visible)


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


def share(cache: Cache, beams: int) -> Cache:
    """The cache with room for `beams` beams of each row, which all see what the row holds: see above.

    A cache with a state or a ring cannot be shared; then the result has `beams` rows for each row, one after the other.
    """
    if beams == 1:
        return cache
    layers = cache.get("layers", ())
    if "positions" not in cache or not layers or cache["rings"] or not all("slots" in each for each in layers):
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), cache)
    return cache | {"seen": jnp.ones((len(cache["next"]), beams, cache["positions"].shape[1]), bool)}


def slots_for(length: int, room: int, beams: int) -> int:
    """The number of slots of a shared cache for `length` tokens that all beams see and `room` tokens of each beam."""
    return -(-length // beams) * beams + beams * room  # a multiple of `beams`, so that no step goes past the last slot


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
    """Copies row `from_R[n]` of the cache to each row n. Rows that are copied to another row do not change themselves.

    Of a shared cache, R are the beams of all rows; each takes what another beam of its row sees.
    """
    if "seen" in cache:
        rows, beams, _ = cache["seen"].shape
        from_BxTx1 = (from_R % beams).reshape(rows, beams, 1)
        return cache | {"seen": jnp.take_along_axis(cache["seen"], from_BxTx1, axis=1)}
    if jax.default_backend() != "cpu":
        return jax.tree.map(lambda leaf: leaf[from_R], cache)

    # On a CPU the time is proportional to the copied bytes: copy only rows that change.
    def copy(number: Array, leaves: list[Array]) -> list[Array]:
        to, source = order_R[number], from_R[order_R[number]]
        return [jax.lax.dynamic_update_index_in_dim(leaf, leaf[source], to, 0) for leaf in leaves]

    changed_R = from_R != jnp.arange(len(from_R))
    order_R = jnp.argsort(~changed_R)
    leaves, structure = jax.tree.flatten(cache)
    large = [leaf for leaf in leaves if leaf[0].size >= LARGE]
    copied = iter(jax.lax.fori_loop(0, jnp.sum(changed_R), copy, large) if large else ())
    return jax.tree.unflatten(structure, [next(copied) if leaf[0].size >= LARGE else leaf[from_R] for leaf in leaves])


LARGE = 1024  # elements of a row, from which rows are copied one by one


def newest(leaf: Array, slot: Array | int, count: int, axis: int) -> Array:
    """The last `count` entries before `slot`, cyclically. If the axis has fewer, zeros are added at the beginning."""
    leaf, size = jnp.roll(leaf, -slot, axis), leaf.shape[axis]
    if count <= size:
        return jax.lax.slice_in_dim(leaf, size - count, size, axis=axis)
    return jnp.pad(leaf, [(count - size if n == axis else 0, 0) for n in range(leaf.ndim)])


def _map_slots(change: Callable[[Array, int], Array], cache: Cache) -> Cache:
    """Applies `change(leaf, axis)` to each leaf that has slots; `axis` is its slot axis."""

    def layer(each: dict[str, Any]) -> dict[str, Any]:
        streams = each.get("slots", {})
        return {"slots": {n: change(leaf, slot_axis(n, leaf)) for n, leaf in streams.items()}} if streams else each

    axes = {"tokens": 1, "positions": 1, "segments": 1, "seen": 2}
    changed = {name: change(cache[name], axis) for name, axis in axes.items() if name in cache}
    return cache | changed | ({"layers": [layer(each) for each in cache["layers"]]} if "layers" in cache else {})


@struct.dataclass
class Step:
    """The inputs of a step of T new tokens: the queries, and for each window (0: the whole cache) the keys and where to write.

    `new`: the new tokens as keys. Layers with a state see only these and the state. `allowed`: see `Pairs`.
    """

    query: Tokens
    new: Tokens
    keys: dict[int, Tokens]
    writes: dict[int, Write]
    allowed: Array | None = None


def advance(cache: Cache, valid_BxT: Array, prefix: bool = False) -> tuple[Cache, Step]:
    """Writes positions and segments of T new tokens into the cache, but no streams; returns it and the step's inputs.

    `valid_BxT` is False for padding. `prefix`: the tokens are a prefix, in which every token sees every token. In a shared
    cache, the tokens are those of a row's beams, without padding.
    """
    valid = valid_BxT.astype(jnp.int32)
    slot, seen = cache["slot"][0], cache.get("seen")
    if seen is None:
        positions_BxT = jnp.maximum(cache["next"][:, None] + jnp.cumsum(valid, axis=1) - 1, 0)
    else:
        positions_BxT = jnp.broadcast_to(cache["next"][:, None], valid.shape)
        own_BxTxT = jnp.broadcast_to(jnp.eye(valid.shape[1], dtype=bool), (*valid.shape, valid.shape[1]))
        seen = jax.lax.dynamic_update_slice_in_dim(seen, own_BxTxT, slot, axis=2)
        cache = cache | {"seen": seen}
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
    return cache, Step(Tokens(positions_BxT), new, keys, writes, seen)


def finish(cache: Cache, valid_BxT: Array) -> Cache:
    """The cache with its counters advanced by T tokens, which are one of each beam in a shared cache."""
    added = 1 if "seen" in cache else jnp.sum(valid_BxT.astype(jnp.int32), axis=1)
    slot = (cache["slot"] + valid_BxT.shape[1]) % cache["positions"].shape[1]
    return cache | {"slot": slot, "next": cache["next"] + added}
