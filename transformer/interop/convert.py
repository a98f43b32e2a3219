"""Parameters of ours from tensors of theirs, and back, by a table of names.

What is read is float32, whatever it is stored as; what is written is what is there, to the bit.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import families
from transformer.components.positions import Sinusoidal
from transformer.config import Config, DataInfo
from transformer.errors import UserError
from transformer.interop.names import Names, Place

Tensors = Mapping[str, np.ndarray]
SHOWN = 3  # names in a message
# Tables of sinusoids are in old files, computed by NumPy in double precision.
SINUSOID_TOLERANCE = 1e-3


def shapes(config: Config, data_info: DataInfo) -> Any:
    """The tree of parameters of a model, as shapes."""
    model = families.FAMILIES[config.family].model(config, data_info)
    return families.param_shapes(model, dict.fromkeys(("source", "inputs"), np.int32))


def places(names: Names, config: Config, tree: Any) -> Iterator[tuple[str, Place, tuple[int, ...]]]:
    """Every parameter of the tree: its path, its place in theirs, its shape. UserError: theirs have no such parameter."""
    for keys, leaf in jax.tree.flatten_with_path(tree)[0]:
        path = "/".join(key.key for key in keys)
        try:
            yield path, names.place(path, config), leaf.shape
        except KeyError:
            raise UserError(f"a model with the parameter {path} has no name in Transformers; it cannot be written") from None


def normalise(names: Names, tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors by the names that the table uses."""
    bare = not any(name.startswith(names.prefix) for name in tensors)
    return {names.normal(name, bare): tensor for name, tensor in tensors.items()}


def to_params(names: Names, config: Config, data_info: DataInfo, tensors: Tensors, where: str) -> Any:
    """The parameters that the model needs, from normalised tensors. UserError: one lacks, does not fit, or has no place."""
    tree, found, used = shapes(config, data_info), {}, set()
    for path, place, shape in places(names, config, tree):
        layers = range(shape[0]) if "{}" in place.name else [None]
        parts = []
        for layer in layers:
            name = _find(names, tensors, place.name.format(layer), place)
            wanted = shape if layer is None else shape[1:]
            if name is not None:
                used.add(name)
                parts.append(_to_ours(tensors[name], place, path, wanted, where, name))
            elif place.optional:
                parts.append(np.zeros(wanted, np.float32))
            else:
                raise UserError(f"{where}: it has no tensor {place.name.format(layer)} ({path})")
        found[path] = parts[0] if layers == [None] else np.stack(parts)
    _check_others(names, tensors, used, where)
    return jax.tree.map_with_path(lambda keys, _: jnp.asarray(found["/".join(key.key for key in keys)]), tree)


def to_tensors(names: Names, config: Config, params: Any) -> dict[str, np.ndarray]:
    """Every tensor of theirs, by name. UserError: theirs have no such parameter."""
    params = jax.tree.map(np.asarray, params)
    values = {"/".join(key.key for key in keys): leaf for keys, leaf in jax.tree.flatten_with_path(params)[0]}
    pieces: dict[str, dict[int, np.ndarray]] = {}
    for path, place, shape in places(names, config, params):
        layered = "{}" in place.name
        for layer in range(shape[0]) if layered else [None]:
            value = values[path] if layer is None else values[path][layer]
            pieces.setdefault(place.name.format(layer), {})[place.part[0]] = _to_theirs(value, place, path)
    return {
        name: np.ascontiguousarray(np.concatenate([parts[n] for n in sorted(parts)], axis=-1) if len(parts) > 1 else parts[0])
        for name, parts in sorted(pieces.items())
    }


def _inputs(path: str) -> int:
    """How many axes of a kernel are its inputs: heads and their width, where attention ends; else d_model."""
    return 2 if path.endswith("attention/output/kernel") else 1


def _their_shape(place: Place, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the part that is ours."""
    size = math.prod(shape)
    matrix = (math.prod(shape[: _inputs(path)]), math.prod(shape[_inputs(path) :]))
    return {"table": shape, "vector": (size,), "row": (1, size), "kernel": matrix, "turned": matrix[::-1]}[place.form]


def _to_ours(tensor: np.ndarray, place: Place, path: str, shape: tuple[int, ...], where: str, name: str) -> np.ndarray:
    wanted = _their_shape(place, path, shape)
    whole = (*wanted[:-1], wanted[-1] * place.part[1])
    if tensor.shape != whole:
        raise UserError(f"{where}: {name} has the shape {tensor.shape}, and config.json says {whole}")
    if tensor.dtype.name not in ("float32", "float16", "bfloat16", "float64"):
        raise UserError(f"{where}: {name} is of type {tensor.dtype}; wants float32, float16 or bfloat16")
    tensor = np.split(tensor, place.part[1], axis=-1)[place.part[0]].astype(np.float32)
    tensor = tensor.T if place.form == "turned" else tensor
    return (tensor[..., ::-1] if place.flipped else tensor).reshape(shape)


def _to_theirs(value: np.ndarray, place: Place, path: str) -> np.ndarray:
    value = value[..., ::-1] if place.flipped else value
    shape = _their_shape(place, path, value.shape)
    return value.reshape(shape[::-1]).T if place.form == "turned" else value.reshape(shape)


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
