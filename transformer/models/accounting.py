"""Parameters, FLOPs and bytes of a model, counted from its configuration: nothing is run, no array is made.

FLOPs are counted as XLA's cost analysis does: 2 m n k for a matrix product; one for each element of what an addition,
multiplication, division, comparison, maximum or selection gives, and for each that a sum or a maximum takes in; none for
exp, log, tanh, rsqrt, sin (XLA lists them apart) and for moving or converting data. Attention counts all pairs, as it is
computed, those that a mask hides included. Left out: dropout, what is computed once for all rows (sinusoids, biases by
distance), and what remat and chunked attention compute again.

A model's forward pass is a sum over components. Other models are other sums of the same parts (`stack`, `logits`, ..).
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from transformer.config import Config, Facts, Model, Train
from transformer.models.layers import ACTIVATIONS
from transformer.models.transformer import EncoderDecoder

TYPICAL_ROW = 64  # tokens of a row where the configuration leaves it to the data

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
UPDATE = {"adam": 18, "adamw": 20, "adafactor": 26}
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


def attention(model: Model, queries: int, keys: int, own: bool) -> Work:
    """Attention and its output projection; `own`: self-attention, to which relative positions add."""
    width, pairs = model.key_width + model.value_width, queries * keys
    head = Work(2 * pairs * width, SOFTMAX * pairs + queries * model.key_width) + relative(model, queries) * own
    output = projection(queries, model.num_heads * model.value_width, model.d_model, model.attention_bias)
    return head * model.num_heads + output


def relative(model: Model, tokens: int) -> Work:
    """What positions add to a head of self-attention."""
    pairs, entries = tokens * tokens, 2 * model.shaw_clip + 1
    # Queries times the vectors of all distances; weights summed by distance, and these times vectors.
    shaw = 2 * tokens * entries * (model.key_width + tokens + model.value_width)
    return {
        "rotary": Work(0, 3 * 2 * tokens * model.key_width),
        "alibi": Work(0, pairs),
        "t5": Work(0, pairs),
        "shaw": Work(shaw, pairs + tokens * model.value_width),
    }.get(model.positions, Work())


def feed_forward(model: Model, tokens: int) -> Work:
    """Two projections, three where it is gated, and the activation."""
    inner = projection(tokens, model.d_model, model.d_ff, model.ff_bias) * (1 + ACTIVATIONS[model.activation][1])
    activation = Work(0, ACTIVATION[model.activation], ERFC.get(model.activation, 0)) * (tokens * model.d_ff)
    return inner + activation + projection(tokens, model.d_ff, model.d_model, model.ff_bias)


def stack(model: Model, layers: int, tokens: int, memory: int | None = None) -> dict[str, Work]:
    """Layers by sub-layer, with norms and residuals; `memory`: tokens that cross-attention sees."""
    residual = norm(model, tokens * model.d_model) + Work(0, tokens * model.d_model)
    queries = heads(model, tokens, model.key_width, normed=True)
    projected = queries * 2 + heads(model, tokens, model.value_width)
    parts = {"self-attention": projected + attention(model, tokens, tokens, own=True) + residual}
    if memory is not None:
        parts["cross-attention"] = queries + attention(model, tokens, memory, own=False) + residual
    parts["feed-forward"] = feed_forward(model, tokens) + residual
    return {name: work * layers for name, work in parts.items()}


def memory_projection(model: Model, layers: int, tokens: int) -> Work:
    """Keys and values of all layers' cross-attention."""
    return (heads(model, tokens, model.key_width, normed=True) + heads(model, tokens, model.value_width)) * layers


def ends(model: Model, tokens: int) -> Work:
    """What a stack does once: embeddings times a factor, plus positions, and the norms around its layers."""
    elements = tokens * model.d_model
    added = (model.embedding_scale != "none") + (model.positions in ("sinusoidal", "learned"))
    return Work(0, added * elements) + norm(model, elements) * (model.embedding_norm + model.has_final_norm)


def logits(model: Model, tokens: int, rows: int, size: int) -> Work:
    """States times a table of `rows`; those above `size` are masked."""
    scale, masked = model.d_model * (model.logits_scale != "none"), rows * (rows != size)
    return projection(tokens, model.d_model, rows, model.logits_bias) + Work(0, tokens * (scale + masked))


def encoder_decoder_work(model: Model, facts: Facts, source: int, target: int) -> dict[str, Work]:
    """A forward pass of one row of `source` and `target` tokens, by component."""
    decoder = stack(model, model.num_decoder_layers, target, memory=source)
    return {
        "embeddings, positions, final norms": ends(model, source) + ends(model, target),
        **{f"encoder {name}": work for name, work in stack(model, model.num_encoder_layers, source).items()},
        "cross-attention's keys and values": memory_projection(model, model.num_decoder_layers, source),
        **{f"decoder {name}": work for name, work in decoder.items()},
        "logits": logits(model, target, facts.target_rows, facts.target_size),
    }


def loss_flops(train: Train, tokens: int, rows: int) -> float:
    """The cross entropy and its gradient."""
    return tokens * rows * (LOSS + SMOOTHING * (train.label_smoothing > 0))


def update_flops(train: Train, size: int) -> float:
    """One update of `size` parameters, after their gradients are there."""
    per_parameter = UPDATE[train.optimizer] + CLIPPING * (train.clip_norm is not None)
    return size * (per_parameter + AVERAGING * (train.ema_decay is not None))


def shapes(module: nn.Module, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Each parameter by its path, "encoder/layers/../kernel"; a stack's layers are one array. `batch`: arrays or shapes."""
    params: dict[str, Any] = jax.eval_shape(module.init, jax.random.key(0), batch)["params"]
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


# --- all of it for one configuration -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Account:
    """What a configuration costs."""

    given: str  # what was assumed: sizes of vocabularies, lengths
    parameters: dict[str, int]  # by module
    row: dict[str, Work]  # a forward pass of one row of a batch, by component
    tokens: int  # target tokens of that row
    loss: float  # FLOPs, of that row
    update: float  # FLOPs, of one update
    bytes: dict[str, int]
    train: Train

    @property
    def size(self) -> int:
        return sum(self.parameters.values())

    @property
    def size_without_embeddings(self) -> int:
        """Without the tables of vocabularies, a tied output among them."""
        return sum(count for name, count in self.parameters.items() if not name.endswith("embedding"))

    @property
    def forward_flops(self) -> float:
        """Per target token."""
        return sum(work.forward for work in self.row.values()) / self.tokens

    @property
    def training_flops(self) -> float:
        """Per target token: forward, backward, loss, and its share of an update."""
        row = sum(work.training for work in self.row.values()) + self.loss
        return row / self.tokens + self.update / self.train.batch_tokens

    @property
    def total_flops(self) -> float:
        """Of the whole training."""
        return self.training_flops * self.train.batch_tokens * self.train.steps


def encoder_decoder(config: Config, facts: Facts, source: int | None = None, target: int | None = None) -> Account:
    """The account of an encoder-decoder on rows of `source` and `target` tokens; none: `config.data.row_length`, else 64."""
    typical = config.data.row_length or TYPICAL_ROW
    source, target = source or typical, target or typical
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    leaves = shapes(EncoderDecoder(config.model, facts), {"source": tokens, "inputs": tokens})
    return Account(
        given=f"vocabulary of {facts.source_size:,} source and {facts.target_size:,} target entries; "
        f"rows of {source:,} source and {target:,} target tokens",
        parameters=parameters(leaves),
        row=encoder_decoder_work(config.model, facts, source, target),
        tokens=target,
        loss=loss_flops(config.train, target, facts.target_rows),
        update=update_flops(config.train, sum(leaf.size for leaf in leaves.values())),
        bytes=state_bytes(config.train, leaves),
        train=config.train,
    )


def assumed_facts(config: Config) -> Facts:
    """Facts before any data is read: vocabularies as large as the settings allow."""
    size = 260 if config.data.vocabulary == "bytes" else config.data.vocabulary_size  # 256, and four special entries
    return Facts(size, size, size, size)


def describe(config: Config, facts: Facts) -> str:
    """Parameters by module, FLOPs and bytes of a configuration, as a table."""
    return table(encoder_decoder(config, facts))


def table(account: Account) -> str:
    """An account as plain text."""
    wide = max(map(len, [*account.parameters, *account.row])) + 4

    def line(name: str, *values: str) -> str:
        return f"{name:<{wide}}" + "".join(f"{value:>18}" for value in values)

    def flops(name: str, *values: float) -> str:
        return line(f"  {name}", *(f"{value / 1e6:,.3f}" for value in values))

    sizes = {"total": account.size, "without embeddings": account.size_without_embeddings}
    tokens, train = account.tokens, account.train
    lines = [
        account.given,
        "\nparameters (all layers of a stack together)",
        *(line(f"  {name}", f"{value:,}") for name, value in account.parameters.items()),
        *(line(f"  {name}", f"{value:,}", f"{value / 1e6:,.1f} M") for name, value in sizes.items()),
        "\n" + line("per target token", "forward MFLOP", "training MFLOP"),
        *(flops(name, work.forward / tokens, work.training / tokens) for name, work in account.row.items()),
        flops("loss", 0, account.loss / tokens),
        flops("update", 0, account.update / train.batch_tokens),
        flops("total", account.forward_flops, account.training_flops),
        f"\ntraining: {train.steps:,} updates of {train.batch_tokens:,} target tokens, {account.total_flops:.3g} FLOP",
        "\n" + line("memory", "MB"),
        *(line(f"  {name}", f"{value / 1e6:,.1f}") for name, value in account.bytes.items()),
        line("  total", f"{sum(account.bytes.values()) / 1e6:,.1f}"),
    ]
    return "\n".join(lines)
