"""How a mesh of devices shares parameters and rows: a table of the names of axes, and a table of what is cut over what.

Names are found by the end of a parameter's path, so optimizer state and averages, whose paths end alike, are cut alike.
Wherever an axis is cut, the numbers are the same: only where they lie and what is exchanged differs.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec, get_abstract_mesh

MESH = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # over which a batch's rows are cut

# Name of an axis -> the axis of the mesh that it is cut over, if its length allows; other axes are whole everywhere.
RULES: Mapping[str, str] = {"model": "fsdp", "vocabulary": "tensor", "heads": "tensor", "hidden": "tensor"}

# Pattern of the end of a path -> names of the last axes. Components declare theirs (models/axes.py); these are of what is
# around them.
Axes = tuple[tuple[str, tuple[str | None, ...]], ...]
NAMES: Axes = (
    (r"embedding/table", ("vocabulary", "model")),
    (r"logits/kernel", ("model", "vocabulary")),
)


def names(path: str, rank: int, axes: Axes = ()) -> tuple[str | None, ...]:
    """Of each axis of the parameter at `path`, such as `encoder/layers/feed_forward/inner/kernel`.

    The first pattern that matches and has no more names than the parameter has axes; what has none is whole everywhere.
    """
    found = next((each for end, each in (*axes, *NAMES) if re.search(f"(^|/|_){end}$", path) and len(each) <= rank), ())
    return (None,) * (rank - len(found)) + found


def spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int], axes: Axes = ()) -> PartitionSpec:
    """Where the parameter's axes are split on a mesh of these sizes."""
    cut = [RULES.get(name or "") for name in names(path, len(shape), axes)]
    return PartitionSpec(
        *(axis if axis and length % sizes[axis] == 0 else None for axis, length in zip(cut, shape, strict=True))
    )


def specs(tree: Any, sizes: Mapping[str, int], axes: Axes = ()) -> Any:
    """A tree of specs for a tree of arrays, or of their shapes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: spec(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, sizes, axes), tree
    )


def by_rows(x: jax.Array, axis: int = 0) -> jax.Array:
    """Says that of an activation rows alone (`axis`) are cut over devices; without a mesh nothing.

    The compiler finds layouts by itself, but what goes through a loop (`scan`) it must be told: with JAX 0.10.2 it cut such
    arrays over several axes and then gave wrong gradients (tests/runtime/test_mesh.py). The parameters of recurrent cells,
    which a loop over time reads, are whole for the same reason.
    """
    if "data" not in get_abstract_mesh().axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, ROWS))


def rows_whole(table_NxD: jax.Array) -> jax.Array:
    """A table to look rows up in: each row is whole on the devices that have it; without a mesh nothing.

    Else what is found is cut by columns, and XLA copies all of it to every device before it can cut it by rows.
    """
    sizes = get_abstract_mesh().shape
    if "data" not in sizes:
        return table_NxD
    return jax.lax.with_sharding_constraint(table_NxD, PartitionSpec(spec("embedding/table", table_NxD.shape, sizes)[0], None))
