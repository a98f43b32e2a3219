"""Eight devices, each with a copy or a mesh of them however it is laid out: the numbers of one device, for every family.

In float64: other layouts add in another order, and what rounding does to that in float32 grows with each update. Here it stays
far below anything that a wrong exchange between devices would change. Simulated in a process of its own, which this file is the
program of.
"""

import dataclasses
import functools
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulated
import small
from jax.sharding import PartitionSpec

from transformer import sharding
from transformer.config import Parallel
from transformer.models import axes
from transformer.runtime.devices import Runtime
from transformer.training import step

STEPS, ROWS = 20, 16
TOLERANCE = 1e-12  # of losses after 20 updates
LAYOUTS = {
    "pmap": Parallel("pmap"),
    "data 8": Parallel("mesh"),
    "fsdp 8": Parallel("mesh", fsdp=8),
    "2 x 2 x 2": Parallel("mesh", fsdp=2, tensor=2),
}
DROPPING = {"model__dropout_rate": 0.2, "model__attention__dropout_rate": 0.2, "model__feed_forward__dropout_rate": 0.2}
DEEP = {  # loops within loops
    "model__num_encoder_layers": 2,
    "model__num_decoder_layers": 3,
    "model__remat": "full",
    "model__attention_backend": "chunked",
    "model__attention_chunk": 4,
    "model__norm_order": "pre",
    "model__positions": "t5",
    "model__feed_forward__activation": "swiglu",
}
SCHEDULE_FREE = {
    "train__optimizer": "schedule_free",
    "train__schedule": "constant",
    "model__parametrization": "mup",
    "model__base_width": 8,
}
TAG = {"family": "encoder_only", "objective__kind": "tag"}
RUNS = {  # settings, layouts; a copy on each of several devices draws dropout of its own, so pmap has none
    "encoder_decoder": ({}, LAYOUTS),
    "encoder_decoder accumulate": ({"train__accumulate": 2}, ["2 x 2 x 2"]),
    "encoder_decoder deep": (DEEP, ["2 x 2 x 2"]),
    "encoder_decoder dropout": (DROPPING | {"train__ema_decay": 0.9}, ["2 x 2 x 2"]),
    "encoder_decoder muon": ({"train__optimizer": "muon"}, ["pmap", "2 x 2 x 2"]),
    "encoder_decoder schedule_free in muP": (SCHEDULE_FREE, ["2 x 2 x 2"]),
    "encoder_decoder adapters": ({"model__lora_rank": 2, "model__lora_alpha": 8.0}, ["2 x 2 x 2"]),
    "decoder_only": ({"family": "decoder_only", "objective__kind": "causal_lm", "model__tying": "none"}, ["pmap", "2 x 2 x 2"]),
    "encoder_only": (TAG | {"model__head_dropout_rate": 0.0}, ["pmap", "2 x 2 x 2"]),
    "encoder_only dropout": (TAG, ["2 x 2 x 2"]),
    "recurrent": ({"family": "recurrent"}, ["pmap", "2 x 2 x 2"]),
}
# One of each family, and nested loops; the others, which take two minutes of processor time, are run on demand.
FEW = ("encoder_decoder", "encoder_decoder deep", "decoder_only", "encoder_only dropout", "recurrent")
REST = tuple(name for name in RUNS if name not in FEW)


def batch(family: str, number: int) -> dict[str, np.ndarray]:
    """Rows of different lengths, many of them empty, with the inputs of the family."""
    made = small.batch(number, ROWS)
    if family == "encoder_only":
        source, segments = made["source"], made["source_segments"]
        labels = {"targets": source % 2, "weights": (segments > 0).astype(np.float32)}
        return {"source": source, "source_segments": segments, "source_positions": made["source_positions"], **labels}
    if family == "recurrent":  # one sentence a row
        return {name: np.minimum(rows, 1) if "segments" in name else rows for name, rows in made.items()}
    return made


def compute_in_float64() -> None:
    """Must be called first. Everything that the library requests as float32 is float64 afterwards."""
    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64


def doubled(tree):
    """The same numbers, with float32 converted to float64."""
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)


def train(settings: dict, parallel: Parallel) -> dict:
    """Losses of 20 steps, the sums of an evaluation, and the fraction of the state on each device."""
    config = small.config(**settings, model__dtype="float64")
    small.DATA_INFO = dataclasses.replace(small.DATA_INFO, labels=("even", "odd"))
    first, train_step, loss = small.trainer(config)
    first = doubled(first)
    runtime = Runtime(parallel, axes=axes.of_model(config.model))
    state, losses = runtime.place_state(first), []
    update = runtime.compile_train(train_step)
    for number in range(STEPS):
        before = state
        state, metrics = update(state, runtime.place_batch(batch(config.family, number)))
        found = runtime.fetch(metrics)
        losses.append(found["loss_sum"] / max(found["weight_sum"], 1))
    evaluated = runtime.compile_eval(step.make_eval_step(loss))(state.params, runtime.place_batch(batch(config.family, 99)))
    leaves = jax.tree.leaves(state)
    same = [a.sharding.is_equivalent_to(b.sharding, a.ndim) for a, b in zip(leaves, jax.tree.leaves(before), strict=True)]
    return {
        "losses": losses,
        "evaluated": runtime.fetch(evaluated)["loss_sum"],
        "types": sorted({str(x.dtype) for x in jax.tree.leaves(state)}),
        "share": sum(x.addressable_data(0).size for x in leaves) / sum(x.size for x in leaves),
        "placed_alike": all(same),
        "old_state_given_up": all(x.is_deleted() for x in jax.tree.leaves(before.params)),
    }


def born() -> dict:
    """For a state created on the mesh: whether it equals the state created on one device, and whether it has the right
    sharding."""
    first, *_ = small.trainer(small.config())

    def init():
        return {"key": jax.random.normal(jax.random.key(0), (8, 16)), "step": jnp.zeros((), jnp.int32)}

    runtime = Runtime(LAYOUTS["2 x 2 x 2"], axes=axes.of_model(small.config().model))
    made = runtime.create(lambda: {"feed_forward": {"inner": {"kernel": init()["key"]}}})["feed_forward"]["inner"]["kernel"]
    return {
        "equal": bool(np.array_equal(made, jax.jit(init)()["key"])),
        "spec": str(made.sharding.spec),
        "back": all(
            np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first, runtime.place_state(first))), strict=True)
        ),
        "counts": [Runtime(parallel).count for parallel in LAYOUTS.values()],
    }


def gathers(remat: str) -> dict:
    """By shape: how often the program of an update gathers an array from eight devices, and how many parameters have it.

    What a loop over layers does counts once; its body is one layer.
    """
    sizes = {"model__d_model": 16, "model__d_ff": 24, "model__num_heads": 8, "model__num_decoder_layers": 3}
    config = small.config(**sizes, family="decoder_only", objective__kind="causal_lm", model__tying="none", model__remat=remat)
    first, train_step, _ = small.trainer(config)
    runtime = Runtime(LAYOUTS["fsdp 8"], axes=axes.of_model(config.model))
    state, placed = runtime.place_state(first), runtime.place_batch(batch("decoder_only", 0))
    with jax.set_mesh(runtime.mesh):
        text = runtime._mesh_train(train_step).lower(state, placed).compile().as_text()
    found = Counter(re.findall(r"= \w+\[([\d,]+)\]\S* all-gather(?:-start)?\(", text))
    layers = dict(jax.tree_util.tree_leaves_with_path(state.params["decoder"]["layers"]))
    cut = [leaf.shape[1:] for leaf in layers.values() if "fsdp" in str(leaf.sharding.spec)]
    return {"found": dict(found), "parameters": Counter(",".join(map(str, shape)) for shape in cut)}


def on_eight(names: Sequence[str]) -> dict:
    """These runs; if there are none, everything else that needs eight devices."""
    if not names:
        return {"born": born(), "gathers": {remat: gathers(remat) for remat in ("none", "full")}}
    chosen = {name: RUNS[name] for name in names}
    return {
        name: {layout: train(settings, LAYOUTS[layout]) for layout in layouts} | {"one": train(settings, Parallel("jit"))}
        for name, (settings, layouts) in chosen.items()
    }


@functools.cache
def trained(names: tuple[str, ...]) -> dict:
    return simulated.eight(__file__, *names)


def found_in(run: str) -> dict:
    """By layout, what a run found. One process makes all of `FEW`, and another one the rest."""
    return trained(FEW if run in FEW else REST)[run]


def mark(run: str) -> pytest.MarkDecorator:
    return pytest.mark.slow if run in FEW else pytest.mark.thorough


@pytest.fixture(scope="module")
def eight():
    return simulated.eight(__file__)


@pytest.mark.parametrize(
    ("run", "layout"),
    [pytest.param(run, layout, marks=mark(run)) for run, (_, layouts) in RUNS.items() for layout in layouts],
)
def test_losses_are_those_of_one_device(run, layout):
    found, one = found_in(run)[layout], found_in(run)["one"]
    assert found["losses"] == pytest.approx(one["losses"], rel=TOLERANCE)
    assert found["evaluated"] == pytest.approx(one["evaluated"], rel=TOLERANCE)
    assert found["types"] == ["float64", "int32"]
    assert one["losses"][-1] < one["losses"][0] - 0.1  # something was learned


@pytest.mark.parametrize("run", [pytest.param(run, marks=mark(run)) for run in RUNS])
def test_states_stay_where_they_were_put_and_buffers_are_used_again(run):
    assert all(found["placed_alike"] and found["old_state_given_up"] for found in found_in(run).values())


@pytest.mark.slow
def test_a_device_has_its_share():
    shares = {layout: found["share"] for layout, found in found_in("encoder_decoder").items()}
    assert shares["one"] == shares["data 8"] == 1 and shares["pmap"] == 1 / 8  # of eight copies
    assert 1 / 8 < shares["fsdp 8"] < 0.3 and 1 / 4 < shares["2 x 2 x 2"] < 0.4


@pytest.mark.slow
def test_a_state_is_born_where_it_belongs(eight):
    assert eight["born"] == {"equal": True, "spec": "P('fsdp', 'tensor')", "back": True, "counts": [8, 8, 8, 4]}


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_layer_gathers_a_parameter_once_forward_and_once_backward(eight, remat):
    found, parameters = eight["gathers"][remat].values()
    assert sum(parameters.values()) == 6  # the kernels
    assert {shape: found.get(shape) for shape in parameters} == {shape: 2 * count for shape, count in parameters.items()}
    assert set(found) - set(parameters) <= {"20,16"}, found  # the two tables: nothing else is gathered


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_moments_are_cut_as_their_parameters_are(optimizer):
    config = small.config(train__optimizer=optimizer, train__ema_decay=0.9)
    first, *_ = small.trainer(config)
    specs = sharding.specs(first, {"data": 1, "fsdp": 2, "tensor": 2}, axes.of_model(config.model))
    of_parameters = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves(specs.params)}
    moments = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves(specs.optimizer_state)]
    cut = 0
    for path, spec in moments:
        name = next((name for name in of_parameters if path.endswith(name)), None)
        if name is not None:
            assert spec == of_parameters[name], path
            cut += any(spec)
    assert cut >= sum(any(spec) for spec in of_parameters.values())


def leaves(specs):
    return jax.tree_util.tree_leaves_with_path(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


@pytest.mark.parametrize(
    ("path", "shape", "wanted"),
    [
        ("params/decoder/layers/cross_attention/query/kernel", (6, 512, 8, 64), (None, "fsdp", "tensor", None)),
        ("0/mu/decoder/layers/self_attention/output/kernel", (6, 8, 64, 512), (None, "tensor", None, "fsdp")),
        ("memory/key/kernel", (6, 512, 8, 64), (None, "fsdp", "tensor", None)),
        ("memory/value/bias", (6, 8, 64), (None, "tensor", None)),
        ("decoder/layers/feed_forward/outer/kernel", (6, 2048, 512), (None, "tensor", "fsdp")),
        ("decoder/layers/feed_forward/gate/bias", (6, 2048), (None, "tensor")),
        ("target_embedding/table", (37000, 512), ("tensor", "fsdp")),
        ("target_embedding/table", (37001, 512), (None, "fsdp")),  # whole where it cannot be cut evenly
        ("logits/kernel", (512, 37000), ("fsdp", "tensor")),
        ("decoder/layers/cross_attention/query/kernel", (128, 128), (None, None)),  # of a recurrent model
        ("encoder/layers/self_attention_norm/scale", (6, 512), (None, None)),
        ("step", (), ()),
    ],
)
def test_axes_are_cut_by_their_names(path, shape, wanted):
    named = axes.of_model(small.config(model__feed_forward__activation="swiglu").model)
    assert sharding.spec(path, shape, {"data": 1, "fsdp": 2, "tensor": 2}, named) == PartitionSpec(*wanted)


if __name__ == "__main__":
    import conftest  # noqa: F401  (what holds for every test holds here)

    compute_in_float64()
    print(json.dumps(on_eight(sys.argv[1:])))
