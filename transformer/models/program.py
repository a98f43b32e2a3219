"""The cost of a traced program, counted from its jaxpr, so that no model needs a formula for its cost.

`products`: 2 m n k for each matrix product of m x k and k x n. `elementwise`: one for each output element of an addition,
multiplication, division, comparison, maximum or selection, and one for each input element of a reduction by sum or maximum;
nothing for exp, log, tanh, rsqrt and sin, for type conversions, and for moving data. Equal operations on the same arrays are
counted once, because the compiler merges them. Operations whose results are not used are not counted. Dropout, remat and chunks
are counted if the program has them: trace one without them to exclude them.

`arguments` are arrays or shapes of arrays: the function is traced, not run. Uncountable if the program has a loop (`while`)
whose length depends on the data.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

PRODUCT = "dot_general"
# Primitives that cost one operation for each element of their result, or of their operand.
BY_RESULT = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "rem",
        "neg",
        "abs",
        "sign",
        "square",
        "integer_pow",
        "pow",
        "select_n",
        "clamp",
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
        "and",
        "or",
        "xor",
        "not",
        "add_any",
        "cumsum",
        "cumprod",
        "cummax",
        "floor",
        "ceil",
        "round",
        "nextafter",
        "shift_left",
        "shift_right_logical",
        "erf_inv",
    ]
)
BY_OPERAND = frozenset(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"])
LOOKUPS = frozenset(["scatter-add"])  # one addition for each scattered element


class Uncountable(ValueError):
    """The cost of a program cannot be counted."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of a program, or of a part of it."""

    products: float = 0
    elementwise: float = 0

    @property
    def total(self) -> float:
        return self.products + self.elementwise

    def __add__(self, other: "Work") -> "Work":
        return Work(self.products + other.products, self.elementwise + other.elementwise)

    def __mul__(self, times: float) -> "Work":
        return Work(self.products * times, self.elementwise * times)


def count(function: Callable[..., Any], *arguments: Any) -> dict[str, Work]:
    """The work of a function by named scope, such as `EncoderDecoder/encoder/layers/self_attention`."""
    found: defaultdict[str, Work] = defaultdict(Work)
    _count(jax.make_jaxpr(function)(*arguments).jaxpr, "", 1, found)
    return dict(found)


def total(function: Callable[..., Any], *arguments: Any) -> Work:
    """The work of a function."""
    return sum(count(function, *arguments).values(), Work())


def sequential_products(function: Callable[..., Any], *arguments: Any) -> int:
    """The length of the longest chain of matrix products that depend on one another (Vaswani et al. 2017, Table 1).

    A loop (`scan`) over positions adds one link per position; a loop over layers adds one per layer.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    return max(_depths(traced, [0] * len(traced.invars)), default=0)


# --- work --------------------------------------------------------------------------------------------------------------


def _count(jaxpr: Any, scope: str, times: float, found: defaultdict[str, Work]) -> None:
    seen = set()
    for equation in _used(jaxpr):
        inside = "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)
        if inner := _called(equation):
            if equation.primitive.name == "cond":  # count the most expensive branch
                branches = []
                for branch in inner:
                    branches.append(defaultdict(Work))
                    _count(branch, inside, times, branches[-1])
                inner, worst = [], max(branches, key=lambda each: sum(each.values(), Work()).total)
                for name, work in worst.items():
                    found[name] += work
            for body in inner:
                _count(
                    body,
                    inside,
                    times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times,
                    found,
                )
            continue
        same = (equation.primitive.name, tuple(map(_identity, equation.invars)), _parameters(equation.params))
        if same in seen:
            continue
        seen.add(same)
        found[inside] += _of_equation(equation) * times


def _used(jaxpr: Any) -> list[Any]:
    """The equations whose results are used, directly or not, by the outputs."""
    needed = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(variable in needed for variable in equation.outvars):
            kept.append(equation)
            needed |= {variable for variable in equation.invars if not hasattr(variable, "val")}
    return kept[::-1]


def _identity(variable: Any) -> Any:
    return ("literal", str(variable.val)) if hasattr(variable, "val") else id(variable)


def _parameters(params: Mapping[str, Any]) -> str:
    return str({name: value for name, value in params.items() if name not in ("sharding", "out_sharding")})


def _of_equation(equation: Any) -> Work:
    name = equation.primitive.name
    result = math.prod(equation.outvars[0].aval.shape)
    if name == PRODUCT:
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return Work(2 * result * math.prod(shape[axis] for axis in contracted))
    if name in BY_RESULT:
        return Work(0, result)
    if name in BY_OPERAND:
        return Work(0, math.prod(equation.invars[0].aval.shape))
    if name in LOOKUPS:
        return Work(0, math.prod(equation.invars[2].aval.shape))
    return Work()


# --- depth -------------------------------------------------------------------------------------------------------------


def _depths(jaxpr: Any, inputs: Sequence[int]) -> list[int]:
    """The depth of each output, given the depths of the inputs."""
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
    """Inputs: constants, carry, rows. Outputs: carry, rows. Rows have one more axis outside the loop than inside."""

    def whole(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True))

    carried, first_row = whole(equation.outvars, body.outvars), whole(equation.invars, body.invars)
    constants = given[: first_row - carried]
    carry, rows, stacked = given[len(constants) : first_row], given[first_row:], [0] * (len(body.outvars) - carried)
    for _step in range(equation.params["length"]):
        found = _depths(body, [*constants, *carry, *rows])
        carry, stacked = found[:carried], [max(pair) for pair in zip(found[carried:], stacked, strict=True)]
    return [*carry, *stacked]


def _called(equation: Any) -> list[Any]:
    """The programs inside an equation: a loop's body, branches, or a called function (jit, remat, custom gradients).

    Depending on the version of JAX, some parameters are a jaxpr with its constants.
    """
    parameters = equation.params
    if equation.primitive.name == "while":
        raise Uncountable("the program has a loop whose length depends on the data")
    found = [parameters[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in parameters][:1]
    return [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in (*found, *parameters.get("branches", ()))]
