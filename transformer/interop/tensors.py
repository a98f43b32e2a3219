"""Tensors of a folder by name, from `model.safetensors` or its shards, and into them. What the names mean is names.py."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from transformer.errors import UserError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # of a file, where a model is larger
# What else weights are published in. Pickles are programs: to read one is to run it.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Stored(Mapping[str, np.ndarray]):
    """The tensors of files by name, as they are stored; each is read when it is asked for, and none is kept."""

    def __init__(self, places: Mapping[str, tuple[Any, str]]):
        self._places = places  # by name the open file, and the name there

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._places[name]
        return file.get_tensor(stored)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def renamed(self, name_of: Callable[[str], str]) -> "Stored":
        """The same tensors by other names."""
        return Stored({name_of(name): place for name, place in self._places.items()})


def read(folder: Path) -> Stored:
    """Every tensor of the folder. UserError: there are none, they are not safetensors, or damaged."""
    if (folder / FILE).is_file():  # first, as in Transformers: an index beside it is of weights saved there before
        return Stored(_places(folder / FILE))
    if (folder / INDEX).is_file():
        return Stored(_shards(folder))
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder}: its weights are in {pickles[0]}, a pickle file, which can run any program when it is read, so it is "
            f"refused; with PyTorch these two lines convert it, and run nothing: {conversion(folder, pickles)}"
        )
    raise UserError(f"{folder}: there is no {FILE} and no {INDEX}; weights are read from safetensors alone")


def conversion(folder: Path, pickles: Sequence[str]) -> str:
    """Two lines of Python that make the safetensors file of pickles. Tensors may share memory there, but not in the file."""
    files = [str(folder / name) for name in pickles if name.endswith(Path(pickles[0]).suffix)]
    load = "import torch, safetensors.torch; t = {}; "
    load += f'[t.update(torch.load(f, map_location="cpu", weights_only=True)) for f in {files}]'
    shown = f"{{n: x.clone().contiguous() for n, x in t.items()}}, {str(folder / FILE)!r}"
    return f"`{load}` and `safetensors.torch.save_file({shown}, metadata={{'format': 'pt'}})`"


def write(folder: Path, tensors: Mapping[str, np.ndarray], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes them into the folder, into several files with an index if they exceed `shard_bytes`."""
    shards: list[dict[str, np.ndarray]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = np.ascontiguousarray(tensor)
        held += tensor.nbytes
    names = [FILE] if len(shards) == 1 else [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        safetensors.numpy.save_file(shard, folder / name, metadata={"format": "pt"})  # or Transformers refuses it
    if len(shards) > 1:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _places(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        file = safetensors.safe_open(path, "numpy")
        types = {file.get_slice(name).get_dtype(): name for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        for name in types.values():
            file.get_slice(name)[:0]  # a type that NumPy does not have is reported before anything is read
        return {name: (file, name) for name in file.keys()}  # noqa: SIM118
    except AttributeError as error:  # NumPy has no such type
        raise UserError(
            f"{path}: it has numbers of a type that is not read here ({error}); wants float32 or half of it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({error}); fetch it again") from error


def _shards(folder: Path) -> dict[str, tuple[Any, str]]:
    path = folder / INDEX
    places: Any = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{path}: it has no weight_map of names to files; fetch it again")
    result: dict[str, tuple[Any, str]] = {}
    held = {path.name for path in folder.iterdir() if path.is_file()}  # so no name leads out of the folder
    for name in sorted(set(places.values())):
        if name not in held:
            raise UserError(f"{path}: it names the file {name}, which is not in the folder; fetch it")
        result |= _places(folder / name)
    if missing := [tensor for tensor in places if tensor not in result]:
        raise UserError(f"{path}: its files have no tensor {missing[0]}; fetch them again")
    return result


def read_json(path: Path) -> dict[str, Any]:
    """UserError: cannot be read, or is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: it is no JSON object")
    return value
