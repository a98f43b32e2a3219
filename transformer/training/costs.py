"""The cost of a configuration: parameters and FLOPs by module, and bytes, counted from the programs; also as a table.

Nothing is run and no array is allocated. FLOPs are those of plain programs without dropout, remat and chunks, so the cost does
not depend on how a model is computed.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import PartitionSpec

from transformer import families, settings, sharding
from transformer.config import Config, DataInfo, Train
from transformer.errors import counted
from transformer.models import lora, program
from transformer.models.program import Work
from transformer.training.optimizer import apply_updates, freezing, make_optimizer, still

TYPICAL_ROW = 64  # tokens of a row where the configuration leaves it to the data
Leaves = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Costs:
    """The cost of a configuration."""

    given: str  # what was assumed: sizes of vocabularies, lengths
    parameters: dict[str, int]  # by module, all layers of a stack together
    forward: dict[str, Work]  # of one row of a batch, by module
    training: Work  # forward, backward and loss of that row
    update: Work  # of one update, once the gradients are computed
    tokens: int  # target tokens of the row
    bytes: dict[str, int]
    generating: dict[str, int]  # bytes kept for one sentence of that row during generation
    train: Train

    @property
    def size(self) -> int:
        return sum(self.parameters.values())

    @property
    def size_without_embeddings(self) -> int:
        """Parameters without the embedding tables of vocabularies, also where the output is tied to them."""
        return sum(count for name, count in self.parameters.items() if not name.endswith("embedding"))

    @property
    def forward_flops(self) -> float:
        """FLOPs of a forward pass per target token."""
        return sum(work.total for work in self.forward.values()) / self.tokens

    @property
    def training_flops(self) -> float:
        """FLOPs of training per target token: forward, backward, loss, and its share of an update."""
        return self.training.total / self.tokens + self.update.total / self.train.batch_tokens

    @property
    def total_flops(self) -> float:
        """FLOPs of the whole training."""
        return self.training_flops * self.train.batch_tokens * self.train.steps


def count(config: Config, data_info: DataInfo, lengths: Sequence[int] = ()) -> Costs:
    """Costs for a row with these numbers of source and target tokens, or for the only sequence.

    Without lengths: `config.data.row_length`; else, for a model of one sequence, its limit, and for pairs 64 or the limit,
    whichever is less.
    """
    source, target = (lengths[0], lengths[-1]) if lengths else _typical(config)
    tokens, plain = source if config.sequences == ("source",) else target, _plain(config)
    leaves = dict(_leaves(plain, data_info))
    params = traverse_util.unflatten_dict(leaves, sep="/")
    entries = (
        f"{data_info.source_size:,} source and {data_info.target_size:,} target"
        if _pairs(config)
        else f"{_size(config, data_info):,}"
    )
    rows = f"{source:,} source and {target:,} target" if _pairs(config) else f"{tokens:,}"
    return Costs(
        given=f"vocabulary of {entries} entries; rows of {rows} tokens",
        parameters=by_module(leaves),
        forward=dict(_forward(plain, data_info, source, target)),
        training=_training(plain, data_info, source, target, config.train.freeze),
        update=_update(_rule(config.train), tuple(leaves.items())),
        tokens=tokens,
        bytes=state_bytes(config.train, leaves, params, config.model.lora_rank is not None),
        generating=generating_bytes(config, data_info, source, target),
        train=config.train,
    )


@dataclasses.dataclass(frozen=True)
class Totals:
    """The parts of `Costs` in which a study compares its arms. `total_flops` is NaN if it cannot be counted."""

    size: int
    size_without_embeddings: int
    total_flops: float


def totals(config: Config, data_info: DataInfo) -> Totals:
    """The same numbers as `count`, tracing only what they need; equal programs are traced once."""
    source, target = _typical(config)
    tokens, plain, train = source if config.sequences == ("source",) else target, _plain(config), config.train
    leaves = _leaves(plain, data_info)
    sizes = by_module(dict(leaves))
    embeddings = sum(count for name, count in sizes.items() if name.endswith("embedding"))
    update = _update(_rule(train), leaves).total / train.batch_tokens
    try:
        of_row = _training(plain, data_info, source, target, train.freeze).total
    except program.Uncountable:
        of_row = math.nan
    flops = (of_row / tokens + update) * train.batch_tokens * train.steps
    return Totals(sum(sizes.values()), sum(sizes.values()) - embeddings, flops)


def _plain(config: Config) -> Config:
    """The settings that determine the program of one row. Dropout is not counted, so arms that differ in it share a program."""
    computed = {"remat": "none", "attention_backend": "plain", "unroll": 1, "dropout_rate": 0.0, "head_dropout_rate": 0.0}
    return Config(
        family=config.family,
        objective=config.objective,
        model=dataclasses.replace(config.model, **computed),
        train=Train(label_smoothing=config.train.label_smoothing, loss_chunk=settings.MOST, loss_backend="chunked"),
    )


def _rule(train: Train) -> Train:
    """The settings that determine the operations of an update."""
    names = ("optimizer", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm", "ema_decay", "freeze")
    return Train(**{name: getattr(train, name) for name in names})


@functools.lru_cache(maxsize=256)  # arms of a study often have the same model
def _leaves(plain: Config, data_info: DataInfo) -> tuple[tuple[str, jax.ShapeDtypeStruct], ...]:
    """The path and shape of each parameter."""
    return tuple(parameter_shapes(plain, data_info).items())


@functools.lru_cache(maxsize=256)
def _forward(plain: Config, data_info: DataInfo, source: int, target: int) -> Mapping[str, Work]:
    """Work of a forward pass over one row, by module."""
    model = families.FAMILIES[plain.family].model(plain, data_info)
    params, batch = traverse_util.unflatten_dict(dict(_leaves(plain, data_info)), sep="/"), _batch(plain, source, target)
    found = program.count(lambda params, batch: model.apply({"params": params}, batch), params, batch)
    return _by_module(found, type(model).__name__)


@functools.lru_cache(maxsize=256)
def _training(plain: Config, data_info: DataInfo, source: int, target: int, freeze: tuple[str, ...]) -> Work:
    """Work of forward pass, backward pass and loss for one row. Frozen parameters have no gradients."""
    model = families.FAMILIES[plain.family].model(plain, data_info)
    params, batch = traverse_util.unflatten_dict(dict(_leaves(plain, data_info)), sep="/"), _batch(plain, source, target)
    loss, frozen = (
        families.make_loss(model, plain, data_info),
        freezing(Train(freeze=freeze), plain.model.lora_rank is not None),
    )

    def summed(params: Any, batch: Any) -> Any:
        return loss(still(params, frozen), batch, None)["loss_sum"]

    return program.total(jax.grad(summed), params, batch)


def _pairs(config: Config) -> bool:
    return len(config.sequences) == 2


def _size(config: Config, data_info: DataInfo) -> int:
    return data_info.source_size if config.sequences == ("source",) else data_info.target_size


def _typical(config: Config) -> tuple[int, int]:
    data = config.data
    limits = data.max_source_length, data.max_target_length
    if _pairs(config):
        source, target = (data.row_length or min(TYPICAL_ROW, limit) for limit in limits)
        return source, target
    alone = data.row_length or limits["target" in config.sequences]
    return alone, alone


def _batch(config: Config, source: int, target: int) -> dict[str, Any]:
    """The shapes of a batch of one row."""
    length = source if config.sequences == ("source",) else target
    ids = ("source", "source_positions", "source_segments", "token_types")
    batch = {name: jax.ShapeDtypeStruct((1, source), jnp.int32) for name in ids}
    batch |= {name: jax.ShapeDtypeStruct((1, length), jnp.int32) for name in ("inputs", "positions", "segments", "targets")}
    batch["weights"] = jax.ShapeDtypeStruct((1, length), jnp.float32)
    one = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    if config.objective.kind in ("classify", "answer"):
        batch.pop("targets")
        batch |= {"label": one, "first": one, "last": one, "weights": jax.ShapeDtypeStruct((1, 1), jnp.float32)}
    if config.objective.next_sentence:
        batch |= {"related": one, "related_weights": jax.ShapeDtypeStruct((1, 1), jnp.float32)}
    return batch


def _by_module(found: Mapping[str, Work], model: str) -> dict[str, Work]:
    """Work by module of the model, all layers of a stack together; work outside of modules is named "rest"."""
    result: dict[str, Work] = {}
    for scope, work in found.items():
        parts = [part for part in scope.split("/") if not any(sign in part for sign in ".,(>")]
        parts = [
            part for part in parts if part not in (model, "layers") and not part.isdigit() and not part.startswith("rest_")
        ]
        name = "/".join(parts[:2]) or "rest"
        result[name] = result.get(name, Work()) + work
    return {name: work for name, work in result.items() if work.total}


@functools.lru_cache(maxsize=256)
def _update(train: Train, leaves: tuple[tuple[str, jax.ShapeDtypeStruct], ...]) -> Work:
    """The work of an update: division by the weight, reported norm, update rule, addition, moving average."""
    params = traverse_util.unflatten_dict(dict(leaves), sep="/")
    adapters = any(path.endswith((lora.A, lora.B)) for path, _ in leaves)
    rule = make_optimizer(train, adapters)

    def update(params: Any, state: Any, gradients: Any, weight: Any, average: Any) -> Any:
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, state = rule.update(gradients, state, params)
        params, state, average = apply_updates(train, params, updates, state, average, weight)  # a number for the learning rate
        return params, state, optax.tree.norm(gradients), average

    state, weight = jax.eval_shape(rule.init, params), jax.ShapeDtypeStruct((), jnp.float32)
    return program.total(update, params, state, params, weight, params if train.keeps_average else None)


# --- parameters and bytes ----------------------------------------------------------------------------------------------


def parameter_shapes(config: Config, data_info: DataInfo) -> dict[str, jax.ShapeDtypeStruct]:
    """Each parameter by its path, "encoder/layers/../kernel"."""
    model = families.FAMILIES[config.family].model(config, data_info)
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    batch = dict.fromkeys(("source", "inputs", "token_types"), tokens)
    params: dict[str, Any] = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    return dict(traverse_util.flatten_dict(params, sep="/"))  # type: ignore[arg-type]


def by_module(leaves: Leaves) -> dict[str, int]:
    """Number of parameters by module, all layers of a stack together."""
    counts: Counter[str] = Counter()
    for path, leaf in leaves.items():
        counts[path.rpartition("/")[0]] += leaf.size
    return dict(counts)


def state_bytes(train: Train, leaves: Leaves, params: Any, adapters: bool = False) -> dict[str, int]:
    """Bytes that training keeps: parameters, gradients, the optimizer's state without its counters, the average."""
    size = _bytes(leaves)
    state = jax.eval_shape(make_optimizer(train, adapters).init, params)
    moments = _bytes([leaf for leaf in jax.tree.leaves(state) if leaf.size > 1])
    gradients = _bytes(trained(train, params, adapters))
    result = {"parameters": size, "gradients": gradients, f"optimizer ({train.optimizer})": moments}
    return result | ({"average": size} if train.keeps_average else {})


def trained(train: Train, params: Any, adapters: bool) -> Any:
    """The tree without the frozen parameters, of which a step keeps no gradients."""
    mask = freezing(train, adapters)
    return params if mask is None else jax.tree.map(lambda leaf, fixed: None if fixed else leaf, params, mask(params))


def generating_bytes(config: Config, data_info: DataInfo, source: int, target: int) -> dict[str, int]:
    """Bytes that generation keeps: for a source of `source` tokens, and for the cache of `target` tokens."""
    model: Any = families.FAMILIES[config.family].model(config, data_info)
    if not hasattr(model, "start"):
        return {}
    params = traverse_util.unflatten_dict(dict(parameter_shapes(config, data_info)), sep="/")

    def kept(params: Any, source_BxS: Any) -> tuple[Any, Any]:
        encodes = families.FAMILIES[config.family].encodes
        memory = model.apply({"params": params}, source_BxS, method="encode") if encodes else None
        return memory, model.apply({"params": params}, memory, target, 1, method="start")

    memory, cache = jax.eval_shape(kept, params, jax.ShapeDtypeStruct((1, source), jnp.int32))
    of_source = {} if memory is None else {f"source of {source} tokens": _bytes(memory)}
    return of_source | {f"cache of {target} tokens": _bytes(cache)}


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(tree: Any, sizes: Mapping[str, int], axes: sharding.Axes = ()) -> int:
    """Bytes of arrays (or shapes) on one device of a mesh of these sizes, sharded as in `sharding`."""
    cuts = jax.tree.leaves(sharding.specs(tree, sizes, axes), is_leaf=lambda x: isinstance(x, PartitionSpec))
    parts = (math.prod(sizes[axis] for axis in cut if axis) for cut in cuts)
    return sum(leaf.size * leaf.dtype.itemsize // part for leaf, part in zip(jax.tree.leaves(tree), parts, strict=True))


def assumed_data_info(config: Config) -> DataInfo:
    """DataInfo before any data is read: vocabularies as large as the settings allow, two labels."""
    size = 260 if config.data.vocabulary == "bytes" else config.data.vocabulary_size  # 256, and four special entries
    return DataInfo(size, size, size, size, labels=("0", "1"))


def table(costs: Costs) -> str:
    """Costs as plain text."""
    wide = max(map(len, [*costs.parameters, *costs.forward])) + 4

    def line(name: str, *values: str) -> str:
        return f"{name:<{wide}}" + "".join(f"{value:>18}" for value in values)

    sizes = {"total": costs.size, "without embeddings": costs.size_without_embeddings}
    tokens, train = costs.tokens, costs.train
    lines = [
        costs.given,
        "\nparameters (all layers of a stack together)",
        *(line(f"  {name}", f"{value:,}") for name, value in costs.parameters.items()),
        *(line(f"  {name}", f"{value:,}", f"{value / 1e6:,.1f} M") for name, value in sizes.items()),
        "\n" + line("MFLOP per token"),
        *(line(f"  forward, {name}", f"{work.total / tokens / 1e6:,.3f}") for name, work in costs.forward.items()),
        line("  forward", f"{costs.forward_flops / 1e6:,.3f}"),
        line("  forward, backward and loss", f"{costs.training.total / tokens / 1e6:,.3f}"),
        line("  update", f"{costs.update.total / train.batch_tokens / 1e6:,.3f}"),
        line("  training", f"{costs.training_flops / 1e6:,.3f}"),
        f"\ntraining: {counted(train.steps, 'update')} of {counted(train.batch_tokens, 'target token')}, "
        f"{costs.total_flops:.3g} FLOP",
        "\n" + line("memory of one copy, without activations", "MB"),
        *(line(f"  {name}", f"{value / 1e6:,.1f}") for name, value in costs.bytes.items()),
        line("  total", f"{sum(costs.bytes.values()) / 1e6:,.1f}"),
    ]
    if costs.generating:
        lines.append("\n" + line("memory of a sentence that is generated", "kB"))
        lines += [line(f"  {name}", f"{value / 1e3:,.1f}") for name, value in costs.generating.items()]
    return "\n".join(lines)
