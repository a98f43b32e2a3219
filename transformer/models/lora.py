"""Low-rank adapters (LoRA; Hu et al. 2021): W + alpha / r A B for the kernels of attention and feed-forward layers.

W is frozen, A (inputs x r) is random, and B (r x outputs) is initialized to 0 (section 4.1), so that an adapted model initially
equals the original one. Adapters are stored beside their kernel as `lora_a` and `lora_b`. `merge` adds them to it after
training.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from transformer.components.parameters import Constant, Declared, Drawn, Kernel, Parameters
from transformer.config import Model
from transformer.models.declare import rounded

Array = jax.Array
A, B = "lora_a", "lora_b"


def declared(config: Model, of_component: Declared) -> Declared:
    """The parameters that a component declares, with adapters for its kernels that `config.lora_kernels` names."""
    result = dict(of_component)
    for name, kernel in of_component.items():
        module, _, leaf = name.rpartition("/")
        if config.lora_rank is None or leaf != "kernel" or not isinstance(kernel, Kernel):
            continue
        if module.rpartition("/")[2] in config.lora_kernels:
            inputs, outputs = kernel.shape[: kernel.inputs], kernel.shape[kernel.inputs :]
            axes = kernel.axes or (None,) * len(kernel.shape)
            deviation = 1 / math.sqrt(math.prod(inputs))
            shape = (*inputs, config.lora_rank)
            result[f"{module}/{A}"] = Drawn(shape, (*axes[: kernel.inputs], None), jax.nn.initializers.normal(deviation))
            result[f"{module}/{B}"] = Constant((config.lora_rank, *outputs), (None, *axes[kernel.inputs :]))
    return result


def adapted(config: Model, p: Parameters) -> dict[str, Array]:
    """The parameters that a component receives: adapters are added to their kernels, which are then `rounded`."""
    result = {name: value for name, value in p.items() if not name.endswith((A, B))}
    for name in p:
        module, _, leaf = name.rpartition("/")
        if leaf == A:
            kernel = f"{module}/kernel"
            result[kernel] = _sum(config, p[kernel], p[name], p[f"{module}/{B}"])
    return {name: rounded(config, value) if name.endswith("kernel") else value for name, value in result.items()}


def merge(config: Model, params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of parameters with all adapters merged into their kernels."""
    result = {name: merge(config, value) if isinstance(value, Mapping) else value for name, value in params.items()}
    if A in result:
        result["kernel"] = _sum(config, result["kernel"], result.pop(A), result.pop(B))
    return result


def _sum(config: Model, kernel: Any, a: Any, b: Any) -> Any:
    """W + alpha / r A B, also if the arrays have leading axes of layers."""
    assert config.lora_rank is not None
    layers = kernel.shape[: a.ndim + b.ndim - 2 - kernel.ndim]
    product = a.reshape(*layers, -1, config.lora_rank) @ b.reshape(*layers, config.lora_rank, -1)
    return kernel + config.lora_alpha / config.lora_rank * product.reshape(kernel.shape)
