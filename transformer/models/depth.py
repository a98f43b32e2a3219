"""How much of a program must be done one after another, however many devices there are (Vaswani et al. 2017, Table 1)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

PRODUCTS = ("dot_general", "conv_general_dilated")


def sequential_products(function: Callable[..., Any], *arguments: Any) -> int:
    """Matrix products on the longest chain in which each needs what the one before it gives.

    `arguments` are arrays, or shapes of arrays: the function is traced, not run. A loop (`scan`) over positions has as many
    links as positions; one over layers, as many as layers. ValueError: a loop (`while`) whose length the data decides.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    return max(_depths(traced, [0] * len(traced.invars)), default=0)


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
    name, parameters = equation.primitive.name, equation.params
    if name == "while":
        raise ValueError("the program has a loop whose length the data decides")
    if name == "scan":
        return _scan(equation, given)
    if name == "cond":
        branches = [_depths(_open(branch), given[1:]) for branch in parameters["branches"]]
        return [max(given[0], *each) for each in zip(*branches, strict=True)]
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):  # a function that is called: jit, remat, custom gradients
        if key in parameters:
            return _depths(_open(parameters[key]), given)
    return [max(given, default=0) + (name in PRODUCTS)] * len(equation.outvars)


def _scan(equation: Any, given: list[int]) -> list[int]:
    """Inputs: constants, what is handed on, rows. Outputs: what is handed on, rows. Rows have one more axis outside."""
    body = _open(equation.params["jaxpr"])

    def whole(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True))

    handed_on, first_row = whole(equation.outvars, body.outvars), whole(equation.invars, body.invars)
    constants = given[: first_row - handed_on]
    carry, rows, stacked = given[len(constants) : first_row], given[first_row:], [0] * (len(body.outvars) - handed_on)
    for _turn in range(equation.params["length"]):
        found = _depths(body, [*constants, *carry, *rows])
        carry, stacked = found[:handed_on], [max(pair) for pair in zip(found[handed_on:], stacked, strict=True)]
    return [*carry, *stacked]


def _open(jaxpr: Any) -> Any:
    """A jaxpr without its constants, which some parameters come with, by JAX's version."""
    return getattr(jaxpr, "jaxpr", jaxpr)
