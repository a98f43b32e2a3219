"""Takes initial parameters of a run from another run, where both have them."""

import re
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from transformer.errors import UserError, counted


def load_pretrained(params: Any, other: Any, where: str) -> tuple[Any, list[str]]:
    """`params` with the leaves of `other` where both have the same path, and lines that list what was taken.

    If this model has fewer key-value heads, those of the other run are averaged in groups.

    UserError: a leaf of the same path has another shape. `where` names the other run.
    """
    own, theirs = (_leaves(tree) for tree in (params, other))
    shared = [path for path in own if path in theirs]
    pooled = [path for path in shared if _has_fewer_heads(path, own[path].shape, theirs[path].shape)]
    theirs |= {path: _pool_heads(theirs[path], own[path].shape) for path in pooled}
    for path in shared:
        if own[path].shape != theirs[path].shape:
            raise UserError(
                f"config.train.init_from {where}: {path} has the shape {theirs[path].shape} there and {own[path].shape} here; "
                "give both runs the same sizes, vocabulary and labels"
            )
    if not shared:
        raise UserError(f"config.train.init_from {where}: it has no parameter in common with this model")
    taken = {path: jnp.asarray(theirs[path], own[path].dtype) if path in theirs else own[path] for path in own}
    lines = [f"from {where}: {len(shared)} of {len(own)} arrays, {_modules(shared)}"]
    if pooled:
        lines.append(f"  key-value heads averaged in groups: {counted(len(pooled), 'array')}")
    if fresh := [path for path in own if path not in theirs]:
        lines.append(f"  fresh: {_modules(fresh)}")
    if left := [path for path in theirs if path not in own]:
        lines.append(f"  left there: {_modules(left)}")
    return traverse_util.unflatten_dict(taken, sep="/"), lines


def _has_fewer_heads(path: str, own: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Whether a key or value parameter has fewer heads here, whose number divides that of the other run."""
    if own == theirs or len(own) != len(theirs) or len(own) < 2 or not re.search(r"(key|value)/(kernel|bias)$", path):
        return False
    return own[:-2] == theirs[:-2] and own[-1] == theirs[-1] and theirs[-2] % own[-2] == 0


def _pool_heads(theirs: Any, own: tuple[int, ...]) -> Any:
    """The mean of each group of heads, the axis before the last (Ainslie et al. 2023, section 2.1)."""
    theirs = jnp.asarray(theirs)
    return jnp.mean(theirs.reshape(*own[:-1], theirs.shape[-2] // own[-2], own[-1]), axis=-2)


def _modules(paths: list[str]) -> str:
    return ", ".join(dict.fromkeys(path.split("/")[0] for path in paths))


def _leaves(tree: Any) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))
