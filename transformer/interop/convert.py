"""Parameters of ours from tensors of theirs, and back, by a table of names.

What is read is float32, whatever it is stored as; what is written is what is there, to the bit.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import families
from transformer.components.positions import Sinusoidal
from transformer.config import Config, DataInfo
from transformer.errors import UserError
from transformer.interop.names import Names, Place
from transformer.interop.tensors import Stored

Tensors = Mapping[str, np.ndarray]
SHOWN = 3  # names in a message
# Tables of sinusoids are in old files, computed by NumPy in double precision.
SINUSOID_TOLERANCE = 1e-3


def shapes(config: Config, data_info: DataInfo) -> Any:
    """The tree of parameters of a model, as shapes."""
    model = families.FAMILIES[config.family].model(config, data_info)
    return families.param_shapes(model, dict.fromkeys(("source", "inputs"), np.int32))


@dataclasses.dataclass(frozen=True)
class Found:
    """A parameter of ours and its place in theirs. `shape`: of one layer. `layers`: the layer of each entry of its first axis,
    or the one that it is of (`single`); None: it is of no layer. `parts`: shapes of those that share the tensor, this one's
    being number `number`.
    """

    path: str
    place: Place
    shape: tuple[int, ...]
    layers: Sequence[int] | None = None
    single: bool = False
    parts: tuple[tuple[int, ...], ...] = ()
    number: int = 0

    def tensors(self) -> list[str]:
        """Names in theirs, one for each layer."""
        return [] if self.place.name is None else [self.place.name.format(layer) for layer in self.layers or [0]]


def places(names: Names, config: Config, tree: Any) -> Iterator[Found]:
    """Every parameter of the tree. UserError: theirs have no such parameter."""
    leaves = {path: leaf.shape for path, leaf in _by_path(tree)}
    for path, shape in leaves.items():
        plain, layers, single = _layers(path, shape, config)
        try:
            place = names.place(plain, config)
            beside = [path.removesuffix(_tail(plain)) + _tail(each) for each in place.fused]
            parts = tuple(leaves[each] if single or layers is None else leaves[each][1:] for each in beside)
        except KeyError:
            raise UserError(f"a model with the parameter {path} has no name in Transformers; it cannot be written") from None
        if place.name is None or "{}" not in place.name:
            layers, single = None, False
        shape = shape if layers is None or single else shape[1:]
        yield Found(path, place, shape, layers, single, parts, beside.index(path) if parts else 0)


def _tail(plain: str) -> str:
    """Of "decoder/layers/module/../leaf", what follows the layers."""
    return plain.partition("/layers/")[2]


def _layers(path: str, shape: tuple[int, ...], config: Config) -> tuple[str, Sequence[int] | None, bool]:
    """The path without its place in a pattern, the layers that the parameter is of, and whether it is of one alone."""
    if path.startswith("memory/"):
        return path, range(shape[0]), False
    found = re.match(r"(encoder|decoder)/(layers|rest_(\d+))/((\d+)/)?", path)
    if found is None:
        return path, None, False
    stack, _, rest, _, place = found.groups()
    plain, count = f"{stack}/layers/{path[found.end() :]}", config.model.depth(stack)
    period = len(config.model.layers_of_period(stack))
    if rest is not None:
        return plain, [count // period * period + int(rest)], True
    return plain, range(int(place or 0), int(place or 0) + shape[0] * period, period), False


def normalise(names: Names, tensors: Stored) -> Stored:
    """The tensors by the names that the table uses."""
    bare = not any(name.startswith(names.prefix) for name in tensors)
    return tensors.renamed(lambda name: names.normal(name, bare))


def to_params(
    names: Names, config: Config, data_info: DataInfo, tensors: Tensors, where: str, place: Callable[[Any], Any] | None = None
) -> Any:
    """The parameters that the model needs, from normalised tensors. UserError: one is missing, does not fit, or has no place.

    `place`: the tree of shapes -> that of shardings. Then each device is given its part of a parameter, and one tensor at a
    time is in memory; else parameters are whole, on the default device.
    """
    tree, made, used = shapes(config, data_info), {}, set()
    shardings = None if place is None else dict(_by_path(place(tree)))
    for found in places(names, config, tree):
        known: list[str | None] = []
        for wanted in found.tensors():
            name = _find(names, tensors, wanted, found.place)
            if name is None and not found.place.optional:
                raise UserError(f"{where}: it has no tensor {wanted} ({found.path})")
            known.append(name)
        used |= {name for name in known if name is not None}
        part = functools.partial(_part, tensors, found, known or [None], where)
        stacked = found.layers is not None and not found.single
        shape = (len(known), *found.shape) if stacked else found.shape
        if shardings is None:
            made[found.path] = jnp.asarray(part((slice(None),) * len(shape)))
        else:
            made[found.path] = _placed(shape, shardings[found.path], part)
    _check_others(names, tensors, used, where)
    return jax.tree.map_with_path(lambda keys, _: made["/".join(key.key for key in keys)], tree)


def _placed(shape: tuple[int, ...], sharding: jax.sharding.Sharding, part: Callable[[Any], np.ndarray]) -> jax.Array:
    """An array of parts, one device after another: what is read for one is given up before more is read."""
    indices = sharding.addressable_devices_indices_map(shape)
    pieces = [jax.block_until_ready(jax.device_put(part(index), device)) for device, index in indices.items()]
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _part(tensors: Tensors, found: Found, names: Sequence[str | None], where: str, index: tuple[slice, ...]) -> np.ndarray:
    """A part of a parameter of ours, from the tensors of its layers; where there is none it is zeros."""

    def of(name: str | None, index: tuple[slice, ...]) -> np.ndarray:
        return (np.zeros(found.shape, np.float32) if name is None else _to_ours(tensors[name], found, where, name))[index]

    if found.layers is None or found.single:
        return of(names[0], index)
    chosen = names[index[0]]
    first = of(chosen[0], index[1:])
    result = np.empty((len(chosen), *first.shape), np.float32)
    for row, name in enumerate(chosen):  # one by one: a part that is kept keeps all of its tensor
        result[row] = first if row == 0 else of(name, index[1:])
    return result


def _by_path(tree: Any) -> Iterator[tuple[str, Any]]:
    for keys, leaf in jax.tree.flatten_with_path(tree)[0]:
        yield "/".join(key.key for key in keys), leaf


def to_tensors(names: Names, config: Config, params: Any) -> dict[str, np.ndarray]:
    """Every tensor of theirs, by name. UserError: theirs have no such parameter."""
    params = jax.tree.map(np.asarray, params)
    values = dict(_by_path(params))
    pieces: dict[str, dict[int, tuple[Found, np.ndarray]]] = {}
    for found in places(names, config, params):
        value = values[found.path]
        if found.place.name is None:
            if np.any(value):
                raise UserError(f"{found.path} is not zero, and this model of Transformers has no such tensor; set it to zeros")
            continue
        each = [value] if found.layers is None or found.single else value
        for name, one in zip(found.tensors(), each, strict=True):
            pieces.setdefault(name, {})[found.number] = found, one
    return {
        name: np.ascontiguousarray(_to_theirs([parts[number] for number in sorted(parts)]))
        for name, parts in sorted(pieces.items())
    }


def _inputs(path: str) -> int:
    """How many axes of a kernel are its inputs: heads and their width, where attention ends; else d_model. A bias has none."""
    return 0 if not path.endswith("kernel") else 2 if path.endswith("attention/output/kernel") else 1


def _matrix(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Inputs and outputs of a kernel, outputs of a bias, each as one axis."""
    inputs = _inputs(path)
    return (*([math.prod(shape[:inputs])] if inputs else []), math.prod(shape[inputs:]))


def _their_shape(found: Found) -> tuple[int, ...]:
    place, path = found.place, found.path
    if place.form in ("table", "row"):
        return found.shape if place.form == "table" else (1, math.prod(found.shape))
    shape = _matrix(path, found.shape)
    if found.parts:
        shape = (*shape[:-1], sum(_matrix(path, part)[-1] for part in found.parts))
    return shape[::-1] if place.form == "turned" else shape


def _to_ours(tensor: np.ndarray, found: Found, where: str, name: str) -> np.ndarray:
    place, wanted = found.place, _their_shape(found)
    if tensor.shape != wanted:
        raise UserError(f"{where}: {name} has the shape {tensor.shape}, and config.json says {wanted}")
    if tensor.dtype.name not in ("float32", "float16", "bfloat16", "float64"):
        raise UserError(f"{where}: {name} is of type {tensor.dtype}; wants float32, float16 or bfloat16")
    tensor = tensor.astype(np.float32)
    tensor = tensor.T if place.form == "turned" else tensor
    if found.parts:
        if place.by_head:
            tensor = tensor.reshape(*tensor.shape[:-1], found.shape[-2], -1)
        widths = [part[-1] if place.by_head else _matrix(found.path, part)[-1] for part in found.parts]
        tensor = np.split(tensor, np.cumsum(widths)[:-1], axis=-1)[found.number]
    return (tensor[..., ::-1] if place.flipped else tensor).reshape(found.shape)


def _to_theirs(parts: Sequence[tuple[Found, np.ndarray]]) -> np.ndarray:
    """One tensor of theirs of the parameters that it holds."""
    found, value = parts[0]
    if len(parts) > 1:
        inputs = _inputs(found.path)
        each = [part if found.place.by_head else part.reshape(_matrix(one.path, one.shape)) for one, part in parts]
        value = np.concatenate(each, axis=-1)
        value = value.reshape(math.prod(value.shape[:inputs]), -1) if inputs else value.reshape(-1)
    value = value[..., ::-1] if found.place.flipped else value
    shape = _their_shape(found)
    return value.reshape(shape[::-1]).T if found.place.form == "turned" else value.reshape(shape)


def _find(names: Names, tensors: Tensors, name: str, place: Place) -> str | None:
    """The tensor's name, or that of one that is the same. A kernel is no other's: it is one where nothing is shared."""
    others = next((group for group in names.same if name in group), ())
    if place.form in ("kernel", "turned"):
        others = ()
    return next((each for each in (name, *others) if each in tensors), None)


def _check_others(names: Names, tensors: Tensors, used: set[str], where: str) -> None:
    """UserError: a tensor is left that says something which the model would not know."""
    left = []
    for name in sorted(tensors.keys() - used):
        if any(re.fullmatch(pattern, name) for pattern in names.dropped):
            _check_sinusoids(name, tensors[name], where)
            continue
        twins = [twin for group in names.same if name in group for twin in group if twin in used]
        if not twins:
            left.append(name)
        elif not any(np.array_equal(tensors[name], tensors[twin]) for twin in twins):
            raise UserError(f"{where}: {name} differs from {twins[0]}, and config.json says that they are one")
    if left:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        raise UserError(f"{where}: this model has no place for {', '.join(left[:SHOWN])}{more}")


def _check_sinusoids(name: str, tensor: np.ndarray, where: str) -> None:
    if not name.endswith("embed_positions.weight"):
        return
    wanted = Sinusoidal(layout="halves").encode(jnp.arange(tensor.shape[0]), tensor.shape[1])
    if not np.allclose(tensor.astype(np.float32), wanted, atol=SINUSOID_TOLERANCE):
        raise UserError(f"{where}: {name} is no table of sinusoids, which Marian's positions are")
