"""A new run's parameters taken from another run's, where both have them."""

from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from transformer.errors import UserError


def adopt(params: Any, other: Any, where: str) -> tuple[Any, list[str]]:
    """`params` with every leaf that `other` has by the same path replaced by it, and lines that say what was taken.

    UserError: a leaf of the same path has another shape. `where` names the other run.
    """
    own, theirs = (_leaves(tree) for tree in (params, other))
    shared = [path for path in own if path in theirs]
    for path in shared:
        if own[path].shape != theirs[path].shape:
            raise UserError(
                f"config.train.init_from {where}: {path} has the shape {theirs[path].shape} there and {own[path].shape} here; "
                "give both runs the same sizes, vocabulary and labels"
            )
    if not shared:
        raise UserError(f"config.train.init_from {where}: it has no parameter by a name of this model's")
    taken = {path: jnp.asarray(theirs[path], own[path].dtype) if path in theirs else own[path] for path in own}
    lines = [f"from {where}: {len(shared)} of {len(own)} arrays, {_modules(shared)}"]
    if fresh := [path for path in own if path not in theirs]:
        lines.append(f"  fresh: {_modules(fresh)}")
    if left := [path for path in theirs if path not in own]:
        lines.append(f"  left there: {_modules(left)}")
    return traverse_util.unflatten_dict(taken, sep="/"), lines


def _modules(paths: list[str]) -> str:
    return ", ".join(dict.fromkeys(path.split("/")[0] for path in paths))


def _leaves(tree: Any) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))
