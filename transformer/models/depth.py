"""What a program's matrix products cost: how many there are one after another, however many devices there are, and how many
operations all of them are (Vaswani et al. 2017, Table 1).

`arguments` are arrays, or shapes of arrays: a function is traced, not run. ValueError: it has a loop (`while`) whose length the
data decides.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

PRODUCT = "dot_general"


def sequential_products(function: Callable[..., Any], *arguments: Any) -> int:
    """Matrix products on the longest chain in which each needs what the one before it gives.

    A loop (`scan`) over positions has as many links as positions; one over layers, as many as layers.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    return max(_depths(traced, [0] * len(traced.invars)), default=0)


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiplications and additions of all matrix products: 2 m n k of one of m x k and k x n."""
    return _operations(jax.make_jaxpr(function)(*arguments).jaxpr)


def _operations(jaxpr: Any) -> int:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    if equation.primitive.name == PRODUCT:
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    each = list(map(_operations, _called(equation)))
    if equation.primitive.name == "scan":
        return equation.params["length"] * sum(each)
    return max(each, default=0)  # of the branches that a program may take, the longest


def _depths(jaxpr: Any, inputs: Sequence[int]) -> list[int]:
    """Of each output, where the inputs have these depths."""
    known = dict.fromkeys(jaxpr.constvars, 0) | dict(zip(jaxpr.invars, inputs, strict=True))

    def depth(variable: Any) -> int:
        return known.get(variable, 0) if not hasattr(variable, "val") else 0  # literals have a value

    for equation in jaxpr.eqns:
        given = [depth(variable) for variable in equation.invars]
        for variable, found in zip(equation.outvars, _equation(equation, given), strict=True):
            known[variable] = found
    return [depth(variable) for variable in jaxpr.outvars]


def _equation(equation: Any, given: list[int]) -> list[int]:
    name, inner = equation.primitive.name, _called(equation)
    if name == "scan":
        return _scan(equation, inner[0], given)
    if name == "cond":
        branches = [_depths(branch, given[1:]) for branch in inner]
        return [max(given[0], *each) for each in zip(*branches, strict=True)]
    if inner:
        return _depths(inner[0], given)
    return [max(given, default=0) + (name == PRODUCT)] * len(equation.outvars)


def _scan(equation: Any, body: Any, given: list[int]) -> list[int]:
    """Inputs: constants, what is handed on, rows. Outputs: what is handed on, rows. Rows have one more axis outside."""

    def whole(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True))

    handed_on, first_row = whole(equation.outvars, body.outvars), whole(equation.invars, body.invars)
    constants = given[: first_row - handed_on]
    carry, rows, stacked = given[len(constants) : first_row], given[first_row:], [0] * (len(body.outvars) - handed_on)
    for _turn in range(equation.params["length"]):
        found = _depths(body, [*constants, *carry, *rows])
        carry, stacked = found[:handed_on], [max(pair) for pair in zip(found[handed_on:], stacked, strict=True)]
    return [*carry, *stacked]


def _called(equation: Any) -> list[Any]:
    """The programs inside an equation: a loop's body, branches, or a function that is called (jit, remat, custom gradients).

    Some parameters are a jaxpr with its constants, by JAX's version.
    """
    parameters = equation.params
    if equation.primitive.name == "while":
        raise ValueError("the program has a loop whose length the data decides")
    found = [parameters[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in parameters][:1]
    return [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in (*found, *parameters.get("branches", ()))]
