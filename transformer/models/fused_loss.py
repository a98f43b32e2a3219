"""Cross entropy in one kernel together with the product that gives the logits, which are never stored in memory.

On a TPU this is the kernel of Tokamax (in the extra `accelerator`). On a GPU there is none, and `losses.in_chunks` computes a
slice of the logits at a time. The kernel gives -log p of each target. Label smoothing and the z-loss need two more numbers for
each token: the logit of its target and the mean of its logits, which are the products of its state with one row of the table
and with the mean of all rows. The kernel does not return the largest logit, so token accuracy is not available.

Letters: B rows, T tokens of a row, M tokens, D width, N vocabulary entries.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, get_abstract_mesh

from transformer.components import fused
from transformer.models.losses import Sums
from transformer.models.stack import Factors
from transformer.sharding import ROWS, row_parts

Array = jax.Array
Arrays = tuple[Array, Array, Array]  # states MxD, targets M, table NxD

LARGE = 8192  # vocabulary size from which `auto` uses a kernel; below it, logits are small


class Kernel(NamedTuple):
    """`refuses(arrays)`: the reason why it does not support these shapes, or None. `compute(arrays)`: -log p of each target, M
    in fp32.
    """

    name: str
    refuses: Callable[[Arrays], str | None]
    compute: Callable[[Arrays], Array]


def wanted(backend: str, size: int) -> bool:
    """Whether `config.train.loss_backend` asks for a kernel for a vocabulary of `size` entries."""
    return backend == "fused" or (backend == "auto" and size >= LARGE and fused.available())


def cross_entropy(
    factors: Factors, targets_BxT: Array, weights_BxT: Array, label_smoothing: float, z_loss: float
) -> Sums | None:
    """`losses.cross_entropy` of the products of states and table, without `correct_sum`; None if no kernel supports them."""
    states_BxTxD, table_NxD, more = factors
    table_NxD = table_NxD.astype(states_BxTxD.dtype)
    kernel, why = KERNELS.get(fused.platform()), f"there is none for {fused.platform()}"
    if kernel is not None:
        why = f"logits have {more}" if more else _refuses(kernel, states_BxTxD, table_NxD)
    if kernel is None or why is not None:
        fused.fall_back("loss", str(why), "a slice of logits at a time")
        return None
    fused.note("loss", kernel.name)

    nll_BxT = _on_devices(kernel, states_BxTxD, targets_BxT, table_NxD)
    loss_BxT = nll_BxT
    if label_smoothing > 0 or z_loss > 0:
        right_BxT = _products(states_BxTxD, jnp.take(table_NxD, targets_BxT, axis=0))
        if label_smoothing > 0:  # log Z - (1 - e) z_y - e mean_k z_k
            mean_D = jnp.mean(table_NxD.astype(jnp.float32), axis=0)
            loss_BxT = loss_BxT + label_smoothing * (right_BxT - _products(states_BxTxD, mean_D[None, None]))
        if z_loss > 0:
            loss_BxT = loss_BxT + z_loss * jnp.square(nll_BxT + right_BxT)
    weights = weights_BxT.astype(jnp.float32)
    return {
        "loss_sum": jnp.sum(loss_BxT * weights),
        "nll_sum": jnp.sum(jax.lax.stop_gradient(nll_BxT) * weights),
        "weight_sum": jnp.sum(weights),
    }


def _products(a_BxTxD: Array, b_BxTxD: Array) -> Array:
    return jnp.sum(a_BxTxD.astype(jnp.float32) * b_BxTxD.astype(jnp.float32), axis=-1)


def _refuses(kernel: Kernel, states_BxTxD: Array, table_NxD: Array) -> str | None:
    if get_abstract_mesh().shape.get("tensor", 1) > 1:
        return "config.parallel.tensor divides the vocabulary"
    tokens = states_BxTxD.shape[0] // row_parts() * states_BxTxD.shape[1]
    return kernel.refuses(
        (
            jax.ShapeDtypeStruct((tokens, states_BxTxD.shape[2]), states_BxTxD.dtype),  # pyright: ignore[reportArgumentType]
            jax.ShapeDtypeStruct((tokens,), jnp.int32),
            jax.ShapeDtypeStruct(table_NxD.shape, table_NxD.dtype),
        )
    )


def _on_devices(kernel: Kernel, states_BxTxD: Array, targets_BxT: Array, table_NxD: Array) -> Array:
    """The losses BxT. On a mesh, each device computes its own rows with the whole table."""

    def of_rows(states_BxTxD: Array, targets_BxT: Array, table_NxD: Array) -> Array:
        states_MxD = states_BxTxD.reshape(-1, states_BxTxD.shape[-1])
        return kernel.compute((states_MxD, targets_BxT.reshape(-1), table_NxD)).reshape(targets_BxT.shape)

    if "data" not in get_abstract_mesh().shape:
        return of_rows(states_BxTxD, targets_BxT, table_NxD)
    rows = PartitionSpec(ROWS)
    return jax.shard_map(of_rows, in_specs=(rows, rows, PartitionSpec()), out_specs=rows, check_vma=False)(
        states_BxTxD, targets_BxT, table_NxD
    )


def _tokamax(name: str) -> Kernel:
    """An implementation of Tokamax. Its own gradient cannot be batched (`--vmap_seeds`), and is not of the factors' types."""

    def kernel() -> Any:
        from tokamax._src.ops.linear_softmax_cross_entropy_loss import api  # pyright: ignore[reportMissingImports]

        fused.tokamax_settings()
        return api.IMPLEMENTATIONS[name]

    @jax.custom_vjp
    def compute(arrays: Arrays) -> Array:
        return forward(arrays)[0]

    def forward(arrays: Arrays) -> tuple[Array, Any]:
        states_MxD, targets_M, table_NxD = arrays
        given = states_MxD, targets_M, table_NxD.T
        nll_M, kept = kernel()(*given, reduction="none", return_residuals=True)
        return nll_M, (kept, nll_M, given)

    def backward(residuals: Any, gradient_M: Array) -> Any:
        kept, nll_M, given = residuals
        states_MxD, _, table_DxN = kernel().vjp(kept, nll_M, gradient_M, *given, reduction="none")
        return ((states_MxD.astype(given[0].dtype), None, table_DxN.astype(given[2].dtype).T),)

    compute.defvjp(forward, backward)

    def refuses(arrays: Arrays) -> str | None:
        if importlib.util.find_spec("tokamax") is None:
            return "it is not installed (the extra accelerator)"
        if why := fused.tried(compute, arrays):
            return why
        # Tokamax 0.0.12 knows no losses of single tokens, and adds them up whatever it is asked for.
        return None if jax.eval_shape(compute, arrays).shape else "it gives no loss of each token before Tokamax 0.0.17"

    return Kernel(f"tokamax {name}", lambda arrays: (why := refuses(arrays)) and f"tokamax {name}: {why}", compute)


def _xla(arrays: Arrays) -> Array:
    """Computes all logits, so that the code around the kernel can be tested on any platform."""
    states_MxD, targets_M, table_NxD = arrays
    logits_MxN = jnp.einsum("md,nd->mn", states_MxD, table_NxD, preferred_element_type=jnp.float32)
    return jax.nn.logsumexp(logits_MxN, axis=-1) - jnp.take_along_axis(logits_MxN, targets_M[:, None], axis=-1)[:, 0]


KERNELS: Mapping[str, Kernel] = {"tpu": _tokamax("mosaic_tpu"), "cpu": Kernel("xla", lambda arrays: None, _xla)}
