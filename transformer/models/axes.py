"""Names of the axes of a model's parameters, which its components declare and by which a mesh splits them."""

import re
from collections.abc import Mapping

from transformer.components.parameters import Declared
from transformer.config import Model
from transformer.models import lora
from transformer.sharding import Axes


def of_model(model: Model) -> Axes:
    """Pairs of a regular expression for the end of a parameter's path and the names of its axes."""
    found: dict[str, tuple[str | None, ...]] = {}
    for stack in ("encoder", "decoder"):
        for each in model.layers_of_period(stack):
            for role in ("self", "cross"):
                sizes, attention = each.sizes(stack, role), each.attention
                of_keys = lora.declared(each, attention.key_parameters(sizes))
                ends = _ends(f"{role}_attention/", {**lora.declared(each, attention.parameters(sizes)), **of_keys})
                found |= ends
                if role == "cross":
                    found |= _ends(r"memory/(\d+_)?", of_keys)
            found |= _ends("feed_forward/", lora.declared(each, each.feed_forward.parameters(each.sizes(stack))))
            found |= _ends("residual/", each.residual.parameters(each.sizes(stack)))
            found |= _ends("position_", each.positions.parameters(each.sizes(stack), 1.0))
    return tuple(found.items())


def _ends(prefix: str, declared: Declared) -> Mapping[str, tuple[str | None, ...]]:
    return {prefix + re.escape(name): each.axes for name, each in declared.items() if each.axes}
