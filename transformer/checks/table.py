"""The table of properties, with their bounds and the code to inspect if one fails; runs them and prints the results."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from transformer import registry
from transformer.checks import batches, decoding, learning, programs
from transformer.checks.subject import Outcome, Subject, components_of
from transformer.errors import first_line
from transformer.registry import Component


@dataclasses.dataclass(frozen=True)
class Property:
    """`name` states what must hold; it holds if `measure` returns at most `bound`.

    `hooks`: hooks of components that may cause a failure; `where`: the file of the library that calls them.
    """

    name: str
    measure: Callable[[Subject], Outcome]
    bound: float
    hooks: tuple[str, ...]
    where: str


STREAM = ("open", "read", "write", "close")
MASKING = ("seen", "span", "normalize", "mix", "attend", "values", "bias", "hidden", *STREAM)
CACHED = (
    "keys",
    "key",
    "value",
    "from_below",
    "expand",
    "state",
    "with_cache",
    "key_streams",
    "query_streams",
    "rotate",
    "bias",
)
TYPES = ("queries", "from_below", "scores", "logits", "normalize", "mix", "output", "bias", "values", "hidden", *STREAM)
DECLARED = ("parameters", "key_parameters", "output_parameters")
ALL = ()  # all replaced hooks

ROUNDING = 1e-5  # error of fp32 relative to the largest value; an actual fault is seldom below 1e-2

PROPERTIES = (
    Property("no gradient from later tokens", batches.causal, 0, MASKING, "components/masks.py"),
    Property("cached, token by token", decoding.one_by_one, ROUNDING, CACHED, "models/cache.py"),
    Property("cached, in chunks, beams reordered", decoding.in_chunks, ROUNDING, CACHED, "models/cache.py"),
    Property("cached, with left padding", decoding.left_padding, ROUNDING, CACHED, "models/cache.py, advance"),
    Property("cached, with padding in the middle", decoding.middle_padding, ROUNDING, CACHED, "models/cache.py, advance"),
    Property("cached, shared by beams", decoding.shared_by_beams, ROUNDING, (*MASKING, *CACHED), "models/cache.py, share"),
    Property("cached, past a window", decoding.past_window, ROUNDING, ("span", *CACHED), "models/cache.py, rings"),
    Property("packed equals separate", batches.packed, ROUNDING, MASKING, "components/masks.py, same_segment"),
    Property("contents of padding change no bit", batches.padding, 0, MASKING, "components/masks.py, Pairs.seen"),
    Property("longer rows agree", batches.longer_rows, ROUNDING, MASKING, "components/masks.py, Pairs.count"),
    Property("other rows of the batch do not matter", batches.other_rows, ROUNDING, ALL, "models/layers.py"),
    Property("evaluation is deterministic", batches.pure, 0, ALL, "models/dropout.py"),
    Property("chunked equals plain", programs.chunked, ROUNDING, MASKING, "components/attention.py, _in_chunks"),
    Property("fused equals plain", programs.fused, ROUNDING, MASKING, "components/attention.py, fused"),
    Property("scanned equals unrolled", programs.unrolled, ROUNDING, ALL, "models/stack.py, _scanned"),
    Property("remat changes nothing", programs.remat, ROUNDING, ALL, "models/stack.py, _rematerialized"),
    Property("bf16 and fp32 are not mixed", batches.dtypes, 0, TYPES, "components/attention.py"),
    Property("bf16 is near fp32", programs.bfloat16, 0.05, TYPES, "components/attention.py"),
    Property("8 devices equal one: pmap, fsdp, tensor", programs.devices, 1e-4, DECLARED, "sharding.py"),
    Property("saved and restored", programs.saved, 0, DECLARED, "runtime/checkpoints.py"),
    Property(
        "gradients of masked rows are finite", learning.masked_rows, 0, MASKING, "components/attention.py, masked_softmax"
    ),
    Property("gradients of extreme logits are finite", learning.extreme_logits, 0, TYPES, "components/attention.py"),
    Property("every parameter has a gradient", learning.no_gradient, 0, DECLARED, "models/declare.py"),
    Property("the loss of a repeated batch falls", learning.repeated_batch, 0.5, ALL, "training/step.py"),
    Property("counted parameters equal the model's", learning.parameters, 0, ("parameters",), "training/costs.py"),
    Property("counted FLOPs equal XLA's", learning.flops, 0.1, ALL, "models/program.py"),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result for one property. `reason`: why it does not apply, or how it failed without a measured error."""

    property: Property
    error: float | None
    reason: str = ""
    failed: bool = False


def run(subject: Subject, properties: tuple[Property, ...] = PROPERTIES) -> Iterator[Finding]:
    """Yields the findings one by one."""
    for each in properties:
        try:
            outcome = each.measure(subject)
        except Exception as error:  # a hook may raise any exception: then this property fails, and the others are still checked
            yield Finding(each, None, f"{type(error).__name__}: {first_line(error)}{subject.place(error)}", failed=True)
            continue
        if isinstance(outcome, str):
            yield Finding(each, None, outcome)
        else:
            yield Finding(each, outcome, failed=not outcome <= each.bound)


def line(finding: Finding) -> str:
    """A line of the table."""
    name = f"{finding.property.name:<42}"
    if finding.error is None:
        return f"{name}{'failed' if finding.failed else 'not applicable':<24}{finding.reason}"
    verdict = "FAILED" if finding.failed else "ok"
    return f"{name}{finding.error:<12.2g}{finding.property.bound:<12.2g}{verdict}"


HEAD = f"{'property':<42}{'error':<12}{'bound':<12}"


def remedy(finding: Finding, config: Any) -> str:
    """A line that says what failed and which code to inspect."""
    each = finding.property
    what = finding.reason if finding.error is None else f"error {finding.error:.2g}, bound {each.bound:.2g}"
    return f"{each.name}: {what}; look at {'; '.join([*_hooks(each, config), f'transformer/{each.where}'])}"


def _hooks(each: Property, config: Any) -> list[str]:
    """The hooks that the configuration's classes from files replace; those that may cause the failure come first."""
    result = []
    for component in components_of(config):
        for cls in type(component).__mro__:
            if not issubclass(cls, Component) or not (file := registry.sources(cls)):
                continue
            own = list(registry.own_hooks(cls))
            suspects = [name for name in own if name in each.hooks] or own
            if suspects:
                result.append(f"{', '.join(f'{cls.__name__}.{name}' for name in suspects)} in {next(iter(file)).name}")
    return list(dict.fromkeys(result))
