"""The small model that is checked: its parameters, its examples as batches, and its programs, each compiled once.

Letters: B rows of a batch, T slots of a row, N entries of the vocabulary, D d_model.
"""

import dataclasses
import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import families, registry, settings
from transformer.config import Config, DataInfo, Model
from transformer.data.objectives import Objective
from transformer.data.tokenizers.vocabulary import Bytes
from transformer.registry import Component
from transformer.validation import STACKS

Batch = Mapping[str, np.ndarray]
Outcome = float | str  # the measured error, or the reason why the property does not apply

ROWS, SLOTS = 6, 12
SOURCES, TARGETS = (12, 6, 5, 4, 8, 3), (12, 5, 6, 7, 4, 3)  # tokens of the examples
PACKED = ((0,), (1, 2), (3, 4), (5,), (), ())  # examples that share a row; two rows are empty
FIRST, ENTRIES = 8, 56  # the first ordinary token id; entries of the vocabulary: 48 ordinary ones, twice the slots of a row
DATA_INFO = DataInfo(ENTRIES, ENTRIES, ENTRIES, ENTRIES, begin=4, mask=5, sentinels=8, labels=("0", "1", "2"))


@dataclasses.dataclass(frozen=True)
class Example:
    """Token ids of a source and of a target; a model with only one of these texts reads that one."""

    source: np.ndarray
    target: np.ndarray


def examples(seed: int = 0) -> list[Example]:
    """One example for each length; no token occurs twice in an example."""
    result = []
    for number, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        ids = np.random.default_rng((seed, number)).permutation(np.arange(FIRST, ENTRIES)).astype(np.int32)
        result.append(Example(ids[:source], ids[-target:]))
    return result


def pack(given: Sequence[Example], rows: Sequence[Sequence[int]], slots: int = SLOTS, left: Sequence[int] = ()) -> Batch:
    """A batch with the examples of these indices in rows of `slots` slots, with the inputs of models of every family.

    `left`: the number of padding slots at the start of a row.
    """
    result: dict[str, np.ndarray] = {}
    for side, prefix in (("source", "source_"), ("target", "")):
        tokens, positions, segments = np.zeros((3, len(rows), slots), np.int32)
        for row, numbers in enumerate(rows):
            begin = left[row] if left else 0
            for segment, number in enumerate(numbers, 1):
                ids = getattr(given[number], side)
                place = slice(begin, begin := begin + len(ids))
                tokens[row, place], positions[row, place], segments[row, place] = ids, np.arange(len(ids)), segment
        name = "source" if side == "source" else "inputs"
        result |= {name: tokens, f"{prefix}positions": positions, f"{prefix}segments": segments}
    return result


def components_of(config: Config) -> list[Component]:
    """The components of all layer types."""
    models = [config.model, *(each for stack in ("encoder", "decoder") for each in config.model.layers_of_period(stack))]
    found = [getattr(model, f.name) for model in models for f in dataclasses.fields(model)]
    return list(dict.fromkeys(each for each in found if isinstance(each, Component)))


class Subject:
    """A small model of a configuration.

    Programs take parameters and batches of ROWS rows; equal shapes are compiled once. `model` and `params` can be replaced by
    those of a broken variant to test the properties themselves.
    """

    def __init__(self, config: Config, params: Any = None):
        self.config, self.data_info = config, DATA_INFO
        self.model: Any = families.FAMILIES[config.family].model(config, DATA_INFO)
        self.examples = examples()
        self.separate = pack(self.examples, [(number,) for number in range(ROWS)])
        self.packed = pack(self.examples, PACKED)
        self._params, self._programs = params, {}

    # --- the model --------------------------------------------------------------------------------------------------------

    @property
    def side(self) -> str:
        """The text of an example to which the outputs belong."""
        return "source" if self.config.sequences == ("source",) else "target"

    @property
    def reads(self) -> tuple[str, ...]:
        """The texts of an example that the model reads."""
        return tuple(self.config.sequences)

    @property
    def recurrent(self) -> bool:
        return self.config.family == "recurrent"

    def place(self, error: Exception) -> str:
        """The line of a component's file in which an exception was raised, in parentheses."""
        files = {str(file) for component in components_of(self.config) for file in registry.sources(type(component))}
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if frame.filename in files]
        return f" ({lines[-1]})" if lines else ""

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective of the configuration."""
        fields = families.text_fields(families.task_of(self.config))
        return families.make_objective(self.config, DATA_INFO, dict.fromkeys(fields, Bytes()))

    @functools.cached_property
    def initial(self) -> Any:
        """The parameters before training."""
        return families.init_params(self.model, self.objective, seed=0)

    @functools.cached_property
    def params(self) -> Any:
        """The initial parameters with noise, so that biases are not 0, norm factors are not 1, and attention is far from
        uniform.
        """
        if self._params is not None:
            return self._params
        draw = np.random.default_rng(0)
        return jax.tree.map(lambda leaf: leaf + jnp.asarray(draw.normal(scale=0.2, size=leaf.shape), leaf.dtype), self.initial)

    def variant(self, **model: Any) -> "Subject":
        """The same parameters with other settings of the model, which must not change the parameters."""
        return Subject(settings.replace(self.config, "model", dataclasses.replace(self.config.model, **model)), self.params)

    def layer_types(self) -> list[Model]:
        """The settings of all layer types."""
        return [each for stack in STACKS[self.config.family] for each in self.config.model.layers_of_period(stack)]

    # --- programs ---------------------------------------------------------------------------------------------------------

    def program(self, name: str, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """The compiled function with this name; `make` returns the function at the first call."""
        if name not in self._programs:
            self._programs[name] = jax.jit(make())
        return self._programs[name]

    def apply(self, params: Any, batch: Any) -> dict[str, Any]:
        """All outputs for a batch, without randomness: "states" or "logits" BxTx.., and the scores of a head."""
        outputs = self.model.apply({"params": params}, batch)
        return dict(outputs) if isinstance(outputs, Mapping) else {"logits": outputs}

    def outputs(self, batch: Batch, params: Any = None) -> np.ndarray:
        """The output at each token: logits BxTxN, or states BxTxD of a model that reads only a source."""
        outputs = self.program("apply", lambda: self.apply)(self.params if params is None else params, batch)
        return np.asarray(outputs["logits"] if self.side == "target" else outputs["states"], np.float32)

    def gradients(self, batch: Batch, params: Any = None) -> tuple[Any, Any]:
        """All outputs, and the gradients of a fixed random projection of them that leaves out padding."""
        segments = "segments" if self.side == "target" else "source_segments"

        def projection(params: Any, batch: Any) -> tuple[jax.Array, Any]:
            outputs = self.apply(params, batch)
            total = jnp.zeros(())
            for number, name in enumerate(sorted(outputs)):
                out = outputs[name].astype(jnp.float32)
                factors = jax.random.normal(jax.random.key(number), out.shape)
                if out.ndim == 3 and out.shape[1] == batch[segments].shape[1]:
                    factors = factors * (batch[segments] > 0)[..., None]
                total += jnp.sum(out * factors)
            return total, outputs

        both = self.program("gradients", lambda: jax.grad(projection, has_aux=True))
        gradients, outputs = both(self.params if params is None else params, batch)
        return jax.device_get(outputs), jax.device_get(gradients)

    def tokens(self, outputs: np.ndarray, rows: Sequence[Sequence[int]], left: Sequence[int] = ()) -> dict[int, np.ndarray]:
        """The outputs of each example, one for each token; `rows` are those that were passed to `pack`."""
        result = {}
        for row, numbers in enumerate(rows):
            begin = left[row] if left else 0
            for number in numbers:
                length = len(getattr(self.examples[number], self.side))
                result[number] = outputs[row, begin : begin + length]
                begin += length
        return result


def distance(found: Any, wanted: Any) -> float:
    """The largest difference of two arrays or trees, divided by the largest magnitude of `wanted`; inf if not finite."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    ]
    if not all(np.isfinite(a).all() and np.isfinite(b).all() for a, b in pairs):
        return float("inf")
    magnitude = max((np.abs(b).max(initial=0.0) for _, b in pairs), default=0.0)
    return max((np.abs(a - b).max(initial=0.0) for a, b in pairs), default=0.0) / max(magnitude, 1e-30)


def paths(tree: Any) -> dict[str, Any]:
    """The leaves by path, such as "decoder/layers/.."."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
