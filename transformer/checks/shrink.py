"""Makes a configuration small enough to be checked in a minute, without changing the settings of its variant."""

from collections.abc import Mapping
from typing import Any

from transformer import effects, settings
from transformer.config import Config, Model, Parallel
from transformer.errors import UserError
from transformer.settings import Variations
from transformer.validation import validate

SIZES = {"d_model": 16, "d_ff": 24, "num_heads": 4, "d_k": 4, "d_v": 4}  # at most
WIDE = SIZES | {
    "d_model": 32,
    "d_ff": 48,
    "d_k": 16,
    "d_v": 16,
}  # used if those are too small, for example to rotate a quarter of a head
WINDOW = 3  # shorter than a chunk and than a row in the cached properties
LENGTH = 48  # the largest number of positions that the properties use
# Settings of how the program computes, which the properties vary themselves.
PLAIN = {
    "attention_backend": "plain",
    "attention_chunk": 512,
    "unroll": 1,
    "remat": "none",
    "dtype": "float32",
    "matmul_dtype": "float32",
}


def shrink(config: Config) -> tuple[Config, list[str]]:
    """The small configuration, and a line "name: old -> new" for each setting that was changed.

    UserError if the variant does not allow the small sizes.
    """
    try:
        return _shrunk(config, SIZES)
    except UserError as refused:
        try:
            return _shrunk(config, WIDE)
        except UserError:
            raise refused from None


def _shrunk(config: Config, sizes: Mapping[str, int]) -> tuple[Config, list[str]]:
    model = config.model
    values: dict[str, Any] = {name: min(getattr(model, name), most) for name, most in sizes.items() if getattr(model, name)}
    values["num_kv_heads"] = _kv_heads(model, values["num_heads"])
    values["window"] = model.window and min(model.window, WINDOW)
    values["layer_types"] = Variations(
        {name: _small(dict(each), sizes, values["num_heads"]) for name, each in model.layer_types}
    )
    if model.d_k is not None and model.d_v is not None and model.d_k != model.d_v:
        values["d_v"] = values["d_k"] + 2
    values["layer_pattern"] = pattern = tuple(dict.fromkeys(model.layer_pattern))
    period = max(len(pattern), 1)
    for stack in ("encoder", "decoder"):
        depth = getattr(model, f"num_{stack}_layers")
        # Two repeats of the pattern, which are scanned, and if there is a pattern, one layer after them.
        values[f"num_{stack}_layers"] = min(depth, 2 * period + (period > 1))
    small = settings.assign(config, {f"model.{name}": value for name, value in (values | PLAIN).items()})
    small = effects.without_idle(settings.replace(small, "parallel", Parallel()))
    changes = [line for line in settings.differences(config, small, free=True) if line.startswith("model.")]
    try:
        validate(small)
        longest = small.model.most_positions if config.family != "recurrent" else None
        if longest is not None and longest < LENGTH:
            raise UserError(f"config.model.positions.size {longest}: the check needs {LENGTH} positions; raise it")
    except UserError as error:
        raise UserError(f"--mode=check makes the model small ({'; '.join(changes)}), and then {error}") from error
    return small, changes


def _kv_heads(model: Model, heads: int) -> int | None:
    """Fewer than the heads if they were fewer, and still more than one if they were."""
    if model.num_kv_heads is None:
        return None
    if model.num_kv_heads == model.num_heads:
        return heads
    return 1 if model.num_kv_heads == 1 else max(heads // 2, 1)


def _small(changes: dict[str, str], sizes: Mapping[str, int], heads: int) -> dict[str, str]:
    """The changes of a layer type, with smaller sizes."""
    limits = {**sizes} | {"num_kv_heads": max(heads // 2, 1), "window": WINDOW}
    return {
        name: str(min(int(text), limits[name])) if name in limits and text.isdigit() else text for name, text in changes.items()
    }
