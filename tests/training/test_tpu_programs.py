"""The update that a TPU would be given, lowered on this machine: where the kernel is called, what it leaves out, what is kept.

Letters: T slots of a row, which no other axis has as many of.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
import small
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from transformer import families, sharding
from transformer.components import fused
from transformer.models import axes
from transformer.training import trainer

T, ROWS = 384, 8
LAYERS = {"train__loss_chunk": 64, "model__num_encoder_layers": 2, "model__num_decoder_layers": 2, "model__num_heads": 4}
DECODER = LAYERS | {
    "family": "decoder_only",
    "objective__kind": "causal_lm",
    "model__num_kv_heads": 2,
    "model__tying": "two_way",
}
CASES = {  # settings; which attention there is
    "encoder-decoder": (LAYERS, {"encoder self attention", "decoder self attention", "decoder cross attention"}),
    "decoder": (DECODER | {"model__window": 200, "model__positions": "alibi"}, {"decoder self attention"}),
    "encoder": (LAYERS | {"family": "encoder_only", "objective__kind": "tag"}, {"encoder self attention"}),
}
KERNELS = ("splash_mha_fwd", "splash_mha_dkv", "splash_mha_dq")


@pytest.fixture(autouse=True)
def tpu(monkeypatch):
    """What is compiled for."""
    monkeypatch.setattr(fused, "platform", lambda: "tpu")
    with jax.numpy_rank_promotion("allow"):
        yield


def lowered(settings: dict, mesh: AbstractMesh | None = None):
    """The text of the program, the shapes of the state, and what computes attention."""
    config, data_info = small.config(**settings), dataclasses.replace(small.DATA_INFO, labels=("a", "b"))
    model = families.FAMILIES[config.family].model(config, data_info)
    _, step, begin = trainer.make(config, data_info, model)
    objective = families.make_objective(config, data_info, {})
    state = jax.eval_shape(lambda: begin(families.init_params(model, objective, 0)))
    names = ("source", "source_segments", "source_positions", "inputs", "segments", "positions", "targets")
    batch = {name: jax.ShapeDtypeStruct((ROWS, T), jnp.int32) for name in names}
    batch["weights"] = jax.ShapeDtypeStruct((ROWS, T), jnp.float32)
    if mesh is not None:
        sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
        specs = sharding.specs(state, sizes, axes.of_model(config.model))
        state, batch = (
            jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, s)), tree, spec)
            for tree, spec in ((state, specs), (batch, dict.fromkeys(batch, PartitionSpec(sharding.ROWS))))
        )
    with fused.choices() as chosen:
        program = jax.export.export(jax.jit(step, donate_argnums=0), platforms=["tpu"])(state, batch)
    return program.mlir_module(), state, chosen


def calls(text: str) -> dict[str, int]:
    """How often each kernel is called; functions that are equal are there once."""
    return {name: len(re.findall(rf"kernel_name\W+{name}", text)) for name in KERNELS}


def squares(text: str) -> set[str]:
    """Types of arrays with two axes of T."""
    return {each for each in re.findall(r"tensor<[^>]*>", text) if each.count(f"{T}x") > 1}


@pytest.mark.parametrize("name", small.some(CASES, "decoder"))
def test_attention_is_a_kernel_and_no_array_is_t_by_t(name):
    settings, wanted = CASES[name]
    text, state, chosen = lowered(settings)
    assert chosen == dict.fromkeys(wanted, ["splash"])
    assert all(calls(text).values()), calls(text)
    assert not squares(text)
    assert text.count("tf.aliasing_output") == len(jax.tree.leaves(state))  # the old state's buffers are used again


def test_plain_attention_has_arrays_t_by_t():
    text, *_ = lowered(CASES["encoder"][0] | {"model__attention_backend": "plain"})
    assert squares(text) and not any(calls(text).values())


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "forward"), [("dots", 1), ("full", 2)])
def test_what_is_recomputed(remat, forward):
    """With `dots` the kernel's output is kept, with `full` it is computed once more."""
    text, *_ = lowered(DECODER | {"model__remat": remat})
    assert calls(text) == {"splash_mha_fwd": forward, "splash_mha_dkv": 1, "splash_mha_dq": 1}


@pytest.mark.slow
def test_on_a_mesh_each_device_computes_its_rows_and_heads():
    mesh = AbstractMesh((2, 2, 2), sharding.MESH, axis_types=(AxisType.Auto,) * 3)
    with jax.sharding.use_abstract_mesh(mesh):
        text, _, chosen = lowered(DECODER, mesh)
    assert chosen == {"decoder self attention": ["splash"]} and not squares(text)
    queries = re.findall(rf"custom_call @tpu_custom_call.*?: \([^)]*?(tensor<\d+x\d+x{T}x\d+xf32>)", text)
    assert len(queries) == 3 and set(queries) == {f"tensor<{ROWS // 4}x{4 // 2}x{T}x2xf32>"}
