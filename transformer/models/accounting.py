"""Parameters, FLOPs and bytes of parts of a model, counted from its configuration: nothing is run, no array is made.

FLOPs are counted as XLA's cost analysis does: 2 m n k for a matrix product; one for each element of what an addition,
multiplication, division, comparison, maximum or selection gives, and for each that a sum or a maximum takes in; none for
exp, log, tanh, rsqrt, sin (XLA lists them apart) and for moving or converting data. Attention counts all pairs, as it is
computed, those that a mask hides included. Left out: dropout, what is computed once for all rows (sinusoids, biases by
distance), what a hard maximum adds to the softmax, and what remat and chunked attention compute again.

Whole models, sums of these parts, are `accounts.py`.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from jax.sharding import PartitionSpec

from transformer import sharding
from transformer.config import Model, Train
from transformer.errors import UserError
from transformer.models.layers import ACTIVATIONS

# Operations per element, forward.
NORM = {"layer": 6, "rms": 4}  # mean, mean of squares (2), centring, two factors; a bias is one more
# Maximum, difference, sum, quotient; two selections by the mask; comparing positions and segments, which fused code does
# again for each head.
SOFTMAX = 10
ACTIVATION = {"relu": 1, "gelu": 4, "gelu_tanh": 8, "silu": 4, "geglu": 5, "geglu_tanh": 9, "swiglu": 5}
ERFC = {"gelu": 60, "geglu": 60}  # polynomials that XLA makes of it; the backward pass has no counterpart

# Operations per logit of the loss, forward and backward, and what label smoothing adds.
LOSS, SMOOTHING = 4, 2
# Operations per parameter of an update: the division by the weight, the norm that is reported, the rule, the addition.
UPDATE = {"adam": 16, "adamw": 18, "adafactor": 22}
CLIPPING, AVERAGING = 4, 3
FACTORED_FROM = 128  # Adafactor keeps rows and columns of the two largest axes, if both have this many entries


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOPs of a forward pass. `once`: element by element too, but with no counterpart in the backward pass."""

    matmul: float = 0
    elementwise: float = 0
    once: float = 0

    @property
    def forward(self) -> float:
        return self.matmul + self.elementwise + self.once

    @property
    def training(self) -> float:
        """Forward and backward: a product's gradient is two products, one for each factor; likewise elsewhere."""
        return 3 * (self.matmul + self.elementwise) + self.once

    def __add__(self, other: "Work") -> "Work":
        return Work(self.matmul + other.matmul, self.elementwise + other.elementwise, self.once + other.once)

    def __mul__(self, times: float) -> "Work":
        return Work(self.matmul * times, self.elementwise * times, self.once * times)


# --- parts of a forward pass -------------------------------------------------------------------------------------------


def projection(tokens: int, inputs: int, outputs: int, bias: bool) -> Work:
    """x W + b."""
    return Work(2 * tokens * inputs * outputs, tokens * outputs * bias)


def norm(model: Model, elements: int) -> Work:
    """LayerNorm or RMSNorm."""
    return Work(0, elements * (NORM[model.norm_kind] + (model.norm_kind == "layer" and model.norm_bias)))


def heads(model: Model, tokens: int, width: int, normed: bool = False) -> Work:
    """A projection to queries, keys or values of `width`, normed where the configuration says so."""
    total = model.num_heads * width
    extra = Work(0, tokens * total * NORM["rms"] * (normed and model.qk_norm))
    return projection(tokens, model.d_model, total, model.attention_bias) + extra


def values(model: Model, tokens: int) -> Work:
    """The projection to values, if there is one."""
    return Work() if model.attention_values == "inputs" else heads(model, tokens, model.value_width)


def attention(model: Model, queries: int, keys: int, own: bool) -> Work:
    """Attention and its output projection; `own`: self-attention, to which relative positions add."""
    width, pairs = model.key_width + model.value_width, queries * keys
    head = Work(2 * pairs * width, SOFTMAX * pairs + queries * model.key_width) + relative(model, queries) * own
    summed = model.attention_heads == "summed"
    inputs = model.value_width * (1 if summed else model.num_heads)
    output = projection(queries, inputs, model.d_model, model.attention_bias)
    return head * model.num_heads + Work(0, summed * queries * model.num_heads * model.value_width) + output


def relative(model: Model, tokens: int) -> Work:
    """What positions add to a head of self-attention."""
    pairs, entries = tokens * tokens, 2 * model.shaw_clip + 1
    # Queries times the vectors of all distances; weights summed by distance, and these times vectors.
    shaw = 2 * tokens * entries * (model.key_width + tokens + model.value_width)
    found = {
        **dict.fromkeys(("none", "sinusoidal", "learned"), Work()),
        "rotary": Work(0, 3 * 2 * tokens * model.key_width),
        "alibi": Work(0, pairs),
        "t5": Work(0, pairs),
        "shaw": Work(shaw, pairs + tokens * model.value_width),
    }
    if model.positions not in found:
        raise UserError(f"config.model.positions {model.positions}: its FLOPs are not known; add them to {__name__}.relative")
    return found[model.positions]


def activation(model: Model, elements: int) -> Work:
    """The feed-forward layer's function, and its gate."""
    return Work(0, ACTIVATION[model.activation], ERFC.get(model.activation, 0)) * elements


def feed_forward(model: Model, tokens: int) -> Work:
    """Two projections, three where it is gated, and the activation."""
    inner = projection(tokens, model.d_model, model.d_ff, model.ff_bias) * (1 + ACTIVATIONS[model.activation][1])
    return inner + activation(model, tokens * model.d_ff) + projection(tokens, model.d_ff, model.d_model, model.ff_bias)


def stack(model: Model, layers: int, tokens: int, memory: int | None = None) -> dict[str, Work]:
    """Layers by sub-layer, with norms and residuals; `memory`: tokens that cross-attention sees."""
    residual = norm(model, tokens * model.d_model) + Work(0, tokens * model.d_model)
    queries = heads(model, tokens, model.key_width, normed=True)
    projected = queries * (1 if model.attention_keys == "queries" else 2) + values(model, tokens)
    parts = {"self-attention": projected + attention(model, tokens, tokens, own=True) + residual}
    if memory is not None:
        parts["cross-attention"] = queries + attention(model, tokens, memory, own=False) + residual
    parts["feed-forward"] = feed_forward(model, tokens) + residual
    return {name: work * layers for name, work in parts.items()}


def memory_projection(model: Model, layers: int, tokens: int) -> Work:
    """Keys and values of all layers' cross-attention."""
    return (heads(model, tokens, model.key_width, normed=True) + values(model, tokens)) * layers


def ends(model: Model, tokens: int) -> Work:
    """What a stack does once: embeddings times a factor, plus positions, and the norms around its layers."""
    elements = tokens * model.d_model
    added = (model.embedding_scale != "none") + (model.positions in ("sinusoidal", "learned"))
    return Work(0, added * elements) + norm(model, elements) * (model.embedding_norm + model.has_final_norm)


def logits(model: Model, tokens: int, rows: int, size: int) -> Work:
    """States times a table of `rows`; those above `size` are masked."""
    scale, masked = model.d_model * (model.logits_scale != "none"), rows * (rows != size)
    return projection(tokens, model.d_model, rows, model.logits_bias) + Work(0, tokens * (scale + masked))


def loss_flops(train: Train, tokens: int, rows: int) -> float:
    """The cross entropy and its gradient."""
    return tokens * rows * (LOSS + SMOOTHING * (train.label_smoothing > 0))


def update_flops(train: Train, size: int) -> float:
    """One update of `size` parameters, after their gradients are there."""
    per_parameter = UPDATE[train.optimizer] + CLIPPING * (train.clip_norm is not None)
    return size * (per_parameter + AVERAGING * (train.ema_decay is not None))


def shapes(module: nn.Module, batch: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Each parameter by its path, "encoder/layers/../kernel"; a stack's layers are one array. `batch`: arrays or shapes."""
    return dict(_shapes(module, tuple((name, leaf.shape, leaf.dtype) for name, leaf in batch.items())))


@functools.lru_cache(maxsize=256)  # arms of a study often differ in how they are trained alone
def _shapes(module: nn.Module, batch: tuple[tuple[str, tuple[int, ...], Any], ...]) -> dict[str, jax.ShapeDtypeStruct]:
    inputs = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in batch}
    params: dict[str, Any] = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    return dict(traverse_util.flatten_dict(params, sep="/"))  # type: ignore[arg-type]


def parameters(leaves: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, int]:
    """Number of parameters by module, all layers of a stack together."""
    counts: Counter[str] = Counter()
    for path, leaf in leaves.items():
        counts[path.rpartition("/")[0]] += leaf.size
    return dict(counts)


def state_bytes(train: Train, leaves: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, int]:
    """Bytes of what training holds of the parameters `leaves`: themselves, gradients, the optimizer's state, the average."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
    factored = sum(_factored(leaf.shape) * leaf.dtype.itemsize for leaf in leaves.values())
    moments = factored if train.optimizer == "adafactor" else 2 * size
    result = {"parameters": size, "gradients": size, f"optimizer ({train.optimizer})": moments}
    return result | ({"moving average": size} if train.ema_decay is not None else {})


def _factored(shape: tuple[int, ...]) -> int:
    """Entries that Adafactor keeps (Shazeer and Stern 2018, section 3)."""
    size, (smaller, largest) = math.prod(shape), sorted((1, 1, *shape))[-2:]
    return size // smaller + size // largest if smaller >= FACTORED_FROM else size


def device_bytes(tree: Any, sizes: Mapping[str, int]) -> int:
    """Bytes that a device of a mesh of these sizes has of arrays (or shapes), which are cut as `sharding` says."""
    cuts = jax.tree.leaves(sharding.specs(tree, sizes), is_leaf=lambda x: isinstance(x, PartitionSpec))
    parts = (math.prod(sizes[axis] for axis in cut if axis) for cut in cuts)
    return sum(leaf.size * leaf.dtype.itemsize // part for leaf, part in zip(jax.tree.leaves(tree), parts, strict=True))
