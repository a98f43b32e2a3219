"""Fused attention: products, mask and softmax in one kernel, which holds no T x S array in the forward or the backward pass.

A TPU has Pallas's splash attention; an NVIDIA GPU has the kernels of Tokamax (in the extra `accelerator`), or, where rows have
no segments, cuDNN's; a CPU has none, and XLA computes the same parts one after the other. The arguments of a kernel are
`Parts`, which components give: `Attention.fused`, `Mask.band`, `Positions.slopes`. If no kernel supports them, attention is
computed without one, and one line says why.

Letters: B rows of a batch, T queries, S keys, H heads, N key-value heads, K width of a head's queries and keys, V of its
values.
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import PartitionSpec, get_abstract_mesh

from transformer.errors import first_line, say
from transformer.sharding import ROWS

Array = jax.Array

TILE = 128  # blocks of splash attention are whole multiples of so many queries or keys
BLOCK = (
    512  # and no larger than this, which MaxText takes by default; each step of a grid of small ones costs as much as a large
)
SAVED = "attention"  # what checkpoint policies call the output of splash attention and its normalizer


@dataclasses.dataclass(frozen=True)
class Parts:
    """softmax(cap(Q K^T + bias)) V, of the keys from `before` slots before a query to `after` slots after it (None: all).

    Queries contain the factor on the logits. Tokens see those of their segment; segment 0 sees nothing and is seen by nothing.
    Each segment's keys follow one another, and where there is a band or a bias, queries and keys are the same tokens. `bias`
    gives [B or 1] x H x T x S; `slopes` of the heads, if they say the same: -slope * |distance|.
    """

    query_BxTxHxK: Array
    key_BxSxNxK: Array
    value_BxSxNxV: Array
    before: int | None = None
    after: int | None = None
    segments: tuple[Array, Array] | None = None  # BxT and BxS
    cap: float | None = None
    bias: Callable[[], Array] | None = None
    slopes: np.ndarray | None = None


class Kernel(NamedTuple):
    """`refuses(parts)`: why it does not take them. `compute(arrays, parts)`: BxTxHxV of the arrays by name, which are those of
    `parts`, cut over devices where there is a mesh.
    """

    name: str
    refuses: Callable[[Parts], str | None]
    arrays: Callable[[Parts], Mapping[str, Array]]
    compute: Callable[[Mapping[str, Array], Parts], Array]


# --- which one -----------------------------------------------------------------------------------------------------------

_CHOICES: ContextVar[dict[str, list[str]] | None] = ContextVar("choices", default=None)
_said: set[str] = set()


@contextlib.contextmanager
def choices() -> Iterator[dict[str, list[str]]]:
    """What is chosen while models are traced in this context: of each attention, and of the loss, the implementations, and why
    where there is none."""
    found: dict[str, list[str]] = {}
    token = _CHOICES.set(found)
    try:
        yield found
    finally:
        _CHOICES.reset(token)


def platform() -> str:
    """What is compiled for: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()


def available() -> bool:
    """Whether what is compiled for has kernels."""
    return platform() in ("gpu", "tpu")


def attend(parts: Parts | str, where: str, otherwise: str) -> Array | None:
    """BxTxHxV, zeros where a query sees nothing. None: no kernel supports the parts, or they are the reason why there are none.

    `where` and `otherwise` are for messages: which attention this is, and how it is computed without a kernel.
    """
    if isinstance(parts, str):
        why = parts
    else:
        reasons = []
        for kernel in KERNELS.get(platform(), ()):
            if (reason := kernel.refuses(parts)) is None:
                note(f"{where} attention", kernel.name)
                return _seen_only(parts, _on_devices(kernel, parts))
            reasons.append(f"{kernel.name}: {reason}")
        why = "; ".join(reasons) or f"there is none for {platform()}"
    fall_back(f"{where} attention", why, otherwise)
    return None


def fall_back(what: str, why: str, otherwise: str) -> None:
    """Says once why no kernel computes it, and keeps that for `choices`."""
    note(what, f"{otherwise} ({why})")
    text = f"{what}: no fused kernel, {why}; {otherwise} instead"
    if text not in _said:
        _said.add(text)
        say(text)


def note(what: str, text: str) -> None:
    """Keeps for `choices` what computes it."""
    found = _CHOICES.get()
    if found is not None and text not in found.setdefault(what, []):
        found[what].append(text)


def _on_devices(kernel: Kernel, parts: Parts) -> Array:
    """On a mesh a kernel computes the rows and heads of each device: the compiler cannot divide it."""
    arrays, sizes = kernel.arrays(parts), get_abstract_mesh().shape
    if "data" not in sizes:
        return kernel.compute(arrays, parts)
    counts = parts.query_BxTxHxK.shape[2], parts.key_BxSxNxK.shape[2]
    heads = "tensor" if all(count % sizes["tensor"] == 0 for count in counts) else None
    specs = {
        "query": PartitionSpec(ROWS, None, heads),
        "key": PartitionSpec(ROWS, None, heads),
        "value": PartitionSpec(ROWS, None, heads),
        "slopes": PartitionSpec(heads),
    }

    def spec(name: str, array: Array) -> PartitionSpec:
        if name == "bias":
            return PartitionSpec(ROWS if array.shape[0] > 1 else None, heads)
        return specs.get(name, PartitionSpec(ROWS))

    return jax.shard_map(
        lambda cut: kernel.compute(cut, parts),
        in_specs=({name: spec(name, array) for name, array in arrays.items()},),
        out_specs=specs["query"],
        check_vma=False,
    )(arrays)


def _seen_only(parts: Parts, heads_BxTxHxV: Array) -> Array:
    """The heads, with zeros and zero gradients for queries that see nothing, where a kernel returns a mean of some values."""
    if parts.segments is None:
        return heads_BxTxHxV
    query_BxT, key_BxS = parts.segments
    if query_BxT is key_BxS:
        seen_BxT = query_BxT != 0
    else:
        first_BxT, end_BxT = _bounds(query_BxT, key_BxS)
        seen_BxT = (query_BxT != 0) & (first_BxT < end_BxT)
    return jnp.where(seen_BxT[..., None, None], heads_BxTxHxV, 0)


def _bounds(query_BxT: Array, key_BxS: Array) -> tuple[Array, Array]:
    """Of each query the first key of its segment, and the one behind the last; equal where there is none."""

    def of_row(query_T: Array, key_S: Array) -> tuple[Array, Array]:
        order_S = jnp.argsort(key_S, stable=True)
        left_T, right_T = (jnp.searchsorted(key_S[order_S], query_T, side, method="sort") for side in ("left", "right"))
        first_T = order_S[jnp.minimum(left_T, len(key_S) - 1)]
        return first_T, first_T + right_T - left_T

    return jax.vmap(of_row)(query_BxT, key_BxS)


def _arrays(parts: Parts, bias: bool = True) -> dict[str, Array]:
    """Those of all kernels."""
    found = {"query": parts.query_BxTxHxK, "key": parts.key_BxSxNxK, "value": parts.value_BxSxNxV}
    if parts.segments is not None:
        found |= dict(zip(("query_segments", "key_segments"), parts.segments, strict=True))
    if bias and parts.bias is not None:
        found["bias"] = parts.bias()
    return found


# --- TPU -----------------------------------------------------------------------------------------------------------------


def _splash_refuses(parts: Parts) -> str | None:
    if parts.bias is None:
        return None
    if parts.slopes is None:
        return "it adds no position biases to logits"
    if parts.after != 0:
        return "it takes biases that grow with distance in causal attention only"
    return "it takes no cap on logits with position biases" if parts.cap is not None else None


def _splash_arrays(parts: Parts) -> Mapping[str, Array]:
    slopes = {} if parts.slopes is None or parts.bias is None else {"slopes": jnp.asarray(_in_bfloat16(parts.slopes))}
    return _arrays(parts, bias=False) | slopes


def _in_bfloat16(values: np.ndarray) -> np.ndarray:
    """Three numbers for each, which bfloat16 holds, and whose sum it is: 24 bits."""
    rest, pieces = values.astype(np.float32), []
    for _ in range(3):
        pieces.append(rest.astype(jnp.bfloat16).astype(np.float32))
        rest = rest - pieces[-1]
    return np.stack(pieces, axis=-1)


def _with_slopes(arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """Queries and keys with six more entries, whose products are slope * key position, exactly even in bfloat16.

    In causal attention that is the bias -slope * (query position - key position), plus what is equal for all keys of a query
    and so changes nothing.
    """
    query, key, slopes_Hx3 = arrays["query"], arrays["key"], arrays["slopes"]
    more = jnp.repeat(slopes_Hx3, 2, axis=-1)[None, None].astype(query.dtype)
    slots = jnp.arange(key.shape[1])
    parts_Sx6 = jnp.tile(jnp.stack([slots // 256 * 256, slots % 256], axis=-1), (1, 3))[None, :, None].astype(key.dtype)
    return (
        jnp.concatenate([query, jnp.broadcast_to(more, (*query.shape[:3], 6))], axis=-1),
        jnp.concatenate([key, jnp.broadcast_to(parts_Sx6, (*key.shape[:3], 6))], axis=-1),
    )


def block(length: int) -> int:
    """Queries or keys of a block: rows are cut into as few blocks as may be, all alike, so that little is filled up."""
    count = -(-length // BLOCK)
    return -(-length // (count * TILE)) * TILE


def _splash(arrays: Mapping[str, Array], parts: Parts, interpret: bool = False) -> Array:
    """Pallas's splash attention, of rows that are padded to whole blocks by keys of segment 0."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    query, key = _with_slopes(arrays) if "slopes" in arrays else (arrays["query"], arrays["key"])
    rows, length, heads, _ = query.shape
    block_q, block_kv = block(length), block(key.shape[1])
    whole = -(-length // block_q) * block_q, -(-key.shape[1] // block_kv) * block_kv
    segments = None
    if "query_segments" in arrays:
        segments = arrays["query_segments"], arrays["key_segments"]
    elif whole != (length, key.shape[1]):
        segments = tuple(jnp.ones((rows, size), jnp.int32) for size in (length, key.shape[1]))

    def padded(x: Array, size: int) -> Array:
        return jnp.pad(x, [(0, size - x.shape[1] if axis == 1 else 0) for axis in range(x.ndim)])

    def heads_first(x: Array, size: int) -> Array:
        return jnp.swapaxes(padded(x, size), 1, 2)

    sizes = splash_attention.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
    )
    bare = parts.before is None and parts.after is None
    mask = splash_attention.FullMask(whole) if bare else splash_attention.LocalMask(whole, (parts.before, parts.after), 0)
    with jax.ensure_compile_time_eval():
        kernel = splash_attention.make_splash_mha(
            splash_attention.MultiHeadMask([mask] * heads),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=parts.cap,
            residual_checkpoint_name=SAVED,
            interpret=interpret,
        )
    ids = None
    if segments is not None:
        ids = splash_attention.SegmentIds(*(padded(each, size) for each, size in zip(segments, whole, strict=True)))
    result: Any = jax.vmap(kernel)(
        heads_first(query, whole[0]), heads_first(key, whole[1]), heads_first(arrays["value"], whole[1]), ids
    )
    return jnp.swapaxes(result, 1, 2)[:, :length]


# --- GPU -----------------------------------------------------------------------------------------------------------------


def _bounded(arrays: Mapping[str, Array], parts: Parts) -> tuple[Array | None, Array | None]:
    """Of each query the first key that it sees and the one behind the last, [B or 1] x T; None: the first or last of all.

    A query without keys has those of another, so that no kernel divides by 0.
    """
    first = end = None
    length = arrays["query"].shape[1]
    if "query_segments" in arrays:
        query, key = arrays["query_segments"], arrays["key_segments"]
        first, end = _bounds(query, key)
        end = jnp.maximum(end, first + 1)
    slots = jnp.arange(length)[None]
    if parts.before is not None:
        first = jnp.maximum(slots - parts.before, 0 if first is None else first)
    if parts.after is not None:
        end = slots + parts.after + 1 if end is None else jnp.minimum(slots + parts.after + 1, end)
    return first, end


def tokamax_settings() -> None:
    """Tokamax's settings are flags, which it would look for on the command line of any program."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _tokamax(name: str) -> Kernel:
    """An implementation of Tokamax, which is told which keys a query sees by two bounds."""

    def compute(arrays: Mapping[str, Array], parts: Parts) -> Array:
        from tokamax._src.ops.attention import api, base  # pyright: ignore[reportMissingImports]  (its front takes no bounds)

        tokamax_settings()
        first, end = _bounded(arrays, parts)
        causal = parts.after == 0  # tells the kernel which blocks to leave out; the end of a segment is then never reached
        bounds = {
            "k_start": None if first is None else first[:, None],
            "k_end": None if end is None or causal else end[:, None],
        }
        return api.IMPLEMENTATIONS[name](
            arrays["query"],
            arrays["key"],
            arrays["value"],
            bias=arrays.get("bias"),
            mask=base.Mask(is_causal=causal, **bounds),
            logits_scale=1.0,
            logits_soft_cap=parts.cap,
        )

    def refuses(parts: Parts) -> str | None:
        if importlib.util.find_spec("tokamax") is None:
            return "it is not installed (the extra accelerator)"
        return tried(lambda arrays: compute(arrays, parts), jax.eval_shape(lambda: dict(_arrays(parts))))

    return Kernel(f"tokamax {name}", refuses, _arrays, compute)


def _cudnn(arrays: Mapping[str, Array], parts: Parts) -> Array:
    window = None if parts.before is None else (parts.before, 0)
    return jax.nn.dot_product_attention(
        arrays["query"],
        arrays["key"],
        arrays["value"],
        arrays.get("bias"),
        scale=1.0,
        is_causal=parts.after == 0,
        local_window_size=window,
        implementation="cudnn",
    )


def _cudnn_refuses(parts: Parts) -> str | None:
    if parts.segments is not None:
        return "it takes no segments"
    if parts.cap is not None:
        return "it takes no cap on logits"
    if parts.after not in (None, 0) or (parts.before is not None and parts.after is None):
        return "it takes no window of attention in both directions"
    return tried(lambda arrays: _cudnn(arrays, parts), jax.eval_shape(lambda: dict(_arrays(parts))))


def tried(compute: Callable[[Any], Array], arrays: Any) -> str | None:
    """Why a kernel refuses to be traced with its gradient, of arrays or their shapes; None: it does not."""

    def total(arrays: Any) -> Array:
        return jnp.sum(compute(arrays).astype(jnp.float32))

    try:
        jax.eval_shape(jax.grad(total, allow_int=True), arrays)
    except Exception as error:  # each implementation refuses in a way of its own
        return first_line(error)
    return None


# --- CPU -----------------------------------------------------------------------------------------------------------------


def _xla(arrays: Mapping[str, Array], parts: Parts) -> Array:
    """The same parts with all T x S weights, so that what a component states can be tested anywhere."""
    query, key, value = arrays["query"], arrays["key"], arrays["value"]
    rows, length, heads, width = query.shape
    slots, shared = key.shape[1:3]
    grouped = query.reshape(rows, length, shared, heads // shared, width)
    logits = jnp.einsum("btngk,bsnk->bngts", grouped, key, preferred_element_type=jnp.float32)
    logits = logits.reshape(rows, heads, length, slots)
    if "bias" in arrays:
        logits = logits + arrays["bias"]
    if parts.cap is not None:
        logits = parts.cap * jnp.tanh(logits / parts.cap)
    first, end = _bounded(arrays, parts)
    keys = jnp.arange(slots)[None, None]
    seen = jnp.ones((1, 1, slots), bool)
    seen = seen if first is None else seen & (first[..., None] <= keys)
    seen = seen if end is None else seen & (keys < end[..., None])
    weights = jax.nn.softmax(jnp.where(seen[:, None], logits, jnp.finfo(jnp.float32).min), axis=-1).astype(value.dtype)
    weights = weights.reshape(rows, shared, heads // shared, length, slots)
    return jnp.einsum("bngts,bsnv->btngv", weights, value).reshape(rows, length, heads, -1)


KERNELS: Mapping[str, Sequence[Kernel]] = {
    "tpu": (Kernel("splash", _splash_refuses, _splash_arrays, _splash),),
    "gpu": (_tokamax("mosaic_gpu"), _tokamax("triton"), Kernel("cudnn", _cudnn_refuses, _arrays, _cudnn)),
    "cpu": (Kernel("xla", lambda parts: None, _arrays, _xla),),
}
