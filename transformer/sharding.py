"""Sharding of parameters and rows over a mesh: a table of axis names, and a table from axis names to axes of the mesh.

Names are found by the end of a parameter's path, so optimizer state and averages, whose paths have the same end, are sharded
like parameters. Sharding does not change the numbers, only their placement and the communication.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec, get_abstract_mesh

MESH = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # axes over which a batch's rows are sharded

# Name of an axis -> the axis of the mesh over which it is sharded, if its length allows; other axes are replicated.
RULES: Mapping[str, str] = {"model": "fsdp", "vocabulary": "tensor", "heads": "tensor", "hidden": "tensor"}

# Pattern of the end of a path -> names of the last axes. Components declare their own (models/axes.py); these are for the
# modules around them.
Axes = tuple[tuple[str, tuple[str | None, ...]], ...]
NAMES: Axes = (
    (r"embedding/table", ("vocabulary", "model")),
    (r"logits/kernel", ("model", "vocabulary")),
)


def names(path: str, rank: int, axes: Axes = ()) -> tuple[str | None, ...]:
    """The name of each axis of the parameter at `path`, such as `encoder/layers/feed_forward/inner/kernel`.

    They are those of the first pattern that matches and has no more names than the parameter has axes; axes without a name are
    replicated.
    """
    found = next((each for end, each in (*axes, *NAMES) if re.search(f"(^|/|_){end}$", path) and len(each) <= rank), ())
    return (None,) * (rank - len(found)) + found


def spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int], axes: Axes = ()) -> PartitionSpec:
    """The partition spec of a parameter on a mesh of these sizes."""
    cut = [RULES.get(name or "") for name in names(path, len(shape), axes)]
    return PartitionSpec(
        *(axis if axis and length % sizes[axis] == 0 else None for axis, length in zip(cut, shape, strict=True))
    )


def specs(tree: Any, sizes: Mapping[str, int], axes: Axes = ()) -> Any:
    """A tree of specs for a tree of arrays, or of their shapes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: spec(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, sizes, axes), tree
    )


def row_parts() -> int:
    """Into how many parts the mesh divides the rows of a batch; 1 without a mesh."""
    sizes = get_abstract_mesh().shape
    return math.prod(sizes.get(axis, 1) for axis in ROWS)


def by_rows(x: jax.Array, axis: int = 0) -> jax.Array:
    """Constrains an activation to be sharded only over rows (`axis`); without a mesh it does nothing.

    The compiler finds layouts by itself, but it needs this constraint for arrays that go through a loop (`scan`): JAX 0.10.2
    sharded such arrays over several axes and then gave wrong gradients (tests/runtime/test_mesh.py). The parameters of
    recurrent cells, which are read in a loop over time, are replicated for the same reason.
    """
    if "data" not in get_abstract_mesh().axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, ROWS))


def rows_whole(table_NxD: jax.Array) -> jax.Array:
    """Constrains a table for look-ups so that its rows are not divided over devices; without a mesh it does nothing.

    Otherwise the result is sharded by columns, and XLA copies all of it to every device before it can shard it by rows.
    """
    sizes = get_abstract_mesh().shape
    if "data" not in sizes:
        return table_NxD
    return jax.lax.with_sharding_constraint(table_NxD, PartitionSpec(spec("embedding/table", table_NxD.shape, sizes)[0], None))
