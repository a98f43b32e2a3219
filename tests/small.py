"""A very small model with its settings and batches, which several test files use."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import families
from transformer.config import Checkpoint, Config, Data, DataInfo, Model, Train
from transformer.settings import assign
from transformer.training import loop
from transformer.training import trainer as trainers

DATA_INFO = DataInfo(source_size=17, target_size=17, source_rows=20, target_rows=20)
SMALL = Config(
    model=Model(num_encoder_layers=1, num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2, dropout_rate=0.0),
    data=Data(max_source_length=12, max_target_length=12),
    train=Train(seed=3, steps=40, learning_rate=0.02, warmup_steps=4, loss_chunk=16),
    checkpoint=Checkpoint(),
)


def config(**settings) -> Config:
    """`SMALL` with other settings; two underscores mean a dot."""
    return assign(SMALL, {name.replace("__", "."): value for name, value in settings.items()})


def model(base: Model | None = None, **values) -> Model:
    """A model's settings; two underscores mean a dot, and a component may be given by name."""
    return assign(base or Model(), {name.replace("__", "."): value for name, value in values.items()})


def callbacks(**functions: Any) -> loop.Callbacks:
    """Callbacks of a training loop that do nothing, except for the given ones."""
    nothing = {"count": lambda batch: dict.fromkeys(("examples", "tokens", "filled", "slots"), 1), "keep_batch": lambda *_: ""}
    made = loop.Callbacks()
    for name, function in (nothing | functions).items():
        setattr(made, name, function)
    return made


def batch(seed: int, rows: int) -> dict[str, np.ndarray]:
    """Packed rows, two sentences per row: about a third of the rows are empty, the others are filled to different degrees."""
    draw = np.random.default_rng(seed)
    result = {}
    filled = draw.random(rows) < 0.7
    for side, slots, names in (("source", 9, ("source",)), ("target", 7, ("inputs", "targets"))):
        first = draw.integers(1, slots - 1, rows)
        ends = first + draw.integers(0, slots - first + 1)
        place = np.arange(slots)[None]
        segments = np.where(place < first[:, None], 1, 2) * (place < ends[:, None]) * filled[:, None]
        positions = np.where(segments == 2, place - first[:, None], place) * (segments > 0)
        prefix = "source_" if side == "source" else ""
        result |= {name: (draw.integers(3, 17, (rows, slots)) * (segments > 0)).astype(np.int32) for name in names}
        result |= {prefix + "segments": segments.astype(np.int32), prefix + "positions": positions.astype(np.int32)}
    return result | {"weights": (result["segments"] > 0).astype(np.float32)}


def params(config: Config):
    """Parameters that are drawn and not initialized."""
    model = families.FAMILIES[config.family].model(config, DATA_INFO)
    return filled(model, families.make_objective(config, DATA_INFO, {}))


def filled(model, objective):
    """A model's parameters, drawn and not initialized: nothing is compiled, and no bias is zero."""
    return jax.tree.map(jnp.asarray, _drawn(shapes(model, objective), 0.3))


def shapes(model, objective):
    """The shapes of a model's parameters."""
    return families.param_shapes(model, families.features(objective))


def untrained(config: Config, data_info: DataInfo):
    """A model of any family, and its parameters, drawn as NumPy arrays with more variance than those of `filled`."""
    model = families.FAMILIES[config.family].model(config, data_info)
    sides = {"encoder_only": ("source",), "decoder_only": ("inputs",)}.get(config.family, ("source", "inputs"))
    shapes = jax.eval_shape(model.init, jax.random.key(0), {side: np.zeros((1, 8), np.int32) for side in sides})["params"]
    return model, _drawn(shapes, 0.4)


def _drawn(shapes, scale: float):
    draw = np.random.default_rng(1)

    def values(path, leaf):
        near = 1.0 if path[-1].key == "scale" else 0.0
        return (near + draw.normal(scale=scale, size=leaf.shape)).astype(leaf.dtype)

    return jax.tree.map_with_path(values, shapes)


def some(values, *chosen, others=pytest.mark.slow):
    """Parameters of a test: the chosen ones always run, the others only if their mark is requested.

    A value is one parameter, or a tuple of several."""
    values = list(values)
    assert all(value in values for value in chosen)
    given = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*each, marks=() if value in chosen else others) for value, each in zip(values, given, strict=True)]


def drawn(module, *arguments):
    """A module's variables, drawn and not initialized: nothing is compiled."""
    return _drawn(jax.eval_shape(module.init, jax.random.key(0), *arguments), 0.3)


def apply(module, variables, *arguments, method: str | None = None):
    """`module.apply`, compiled as a whole for each method, which is much faster than running each operation. Numbers are
    static.

    Contexts that change a model while it is traced, such as `scaled_heads`, have no effect, because the program may already be
    compiled."""
    numbers = tuple(n for n, argument in enumerate(arguments, 1) if isinstance(argument, int))
    return _applied(module, method, numbers)(variables, *arguments)


@functools.lru_cache(maxsize=64)
def _applied(module, method, numbers):
    return jax.jit(functools.partial(module.apply, method=method), static_argnums=numbers)


def trainer(config: Config):
    """An initial state, the train step and the loss. Equal settings share functions, so they are compiled once."""
    loss, train_step, begin = _made(config)
    return begin(params(config)), train_step, loss


@functools.lru_cache(maxsize=64)
def _made(config):
    return trainers.make(config, DATA_INFO, families.FAMILIES[config.family].model(config, DATA_INFO))
