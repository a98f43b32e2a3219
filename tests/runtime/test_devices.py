"""Eight devices give the same numbers as one. The eight are simulated in a separate process, whose program is this file."""

import json
import types
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulated
import small
from jax._src.pallas.mosaic import tpu_info

from transformer import families
from transformer.config import Parallel
from transformer.models.dropout import dropout
from transformer.probes import head_pruning, init_metrics
from transformer.runtime import devices
from transformer.runtime.devices import Runtime
from transformer.training import step

STEPS, ROWS = 8, 16  # in float32; test_mesh.py has 20 updates in float64, where rounding does not add up
LAYOUTS = (Parallel("jit"), Parallel("pmap"), Parallel("mesh", fsdp=2, tensor=2))


def train(mode, accumulate):
    """Metrics of each step, the sums of an evaluation, and the final states."""
    first, train_step, loss = small.trainer(small.config(train__accumulate=accumulate))
    runtime = Runtime(Parallel(mode))
    state, rows = runtime.place_state(first), []
    update = runtime.compile_train(train_step)
    for number in range(STEPS):
        before = state
        state, metrics = update(state, runtime.place_batch(small.batch(number, ROWS)))
        rows.append(runtime.fetch(metrics))
    evaluated = {}
    if accumulate == 1:
        found = runtime.compile_eval(step.make_eval_step(loss))(state.params, runtime.place_batch(small.batch(99, ROWS)))
        evaluated = runtime.fetch(found)
    single = runtime.single(state)
    return {
        "rows": rows,
        "evaluated": evaluated,
        "step": int(single.step),
        "devices_of_single": max(len(x.devices()) for x in jax.tree.leaves(single)),
        "old_state_given_up": all(x.is_deleted() for x in jax.tree.leaves(before.params)),
    }


def round_trip():
    """Values, types and shapes are the same after a transfer to all devices and back, and every device received them."""
    runtime = Runtime(Parallel("pmap"))
    state = {"a": jnp.arange(6.0).reshape(2, 3) / 3, "n": jnp.asarray(7, jnp.int32), "h": np.ones(3, np.float16), "none": None}
    placed = runtime.place_state(state)
    back = runtime.single(placed)
    same = [np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(*map(jax.tree.leaves, (state, back)), strict=True)]
    return all(same) and jax.tree.structure(back) == jax.tree.structure(state) and len(placed["n"].devices()) == 8


def noise():
    """The sum over devices of numbers drawn with their keys, and the expected sum."""
    runtime = Runtime(Parallel("pmap"))
    config = small.config().train

    def loss(params, batch, key):
        return {
            "loss_sum": params["w"] * jnp.sum(batch["x"]),
            "weight_sum": jnp.sum(batch["x"]),
            "noise": jax.random.uniform(key),
        }

    optimizer = step.optax.identity()
    update = runtime.compile_train(step.make_train_step(loss, optimizer, lambda n: n, config))
    state = runtime.place_state(step.init_state({"w": jnp.ones(())}, optimizer, config))
    _, metrics = update(state, runtime.place_batch({"x": np.ones(8, np.float32)}))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), step.DROPOUT), 0)
    return runtime.fetch(metrics)["noise"], sum(float(jax.random.uniform(jax.random.fold_in(key, n))) for n in range(8))


def cut_masks():
    """Whether dropout is bitwise the same however the array is sharded."""
    x, key = np.ones((16, 8, 24), np.float32), jax.random.key(1)
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    whole = np.asarray(jax.jit(partial(dropout, rate=0.3, key=key))(x))
    found = []
    for spec in (("a",), ("b", None, "a"), (("a", "b"),), (None, "a", "b")):
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        cut = jax.jit(partial(dropout, rate=0.3, key=key), in_shardings=sharding, out_shardings=sharding)(x)
        found.append(len(cut.devices()) == 8 and np.array_equal(cut, whole))
    return found


def starts(parallel):
    """The metrics before the first update."""
    config = small.config(train__init_metrics=("logit_variance", "jacobian_norm", "query_gradient", "gradient_norm"))
    first, _, loss = small.trainer(config)
    runtime = Runtime(parallel)
    model = families.FAMILIES[config.family].model(config, small.DATA_INFO)
    measure = runtime.compile_eval(init_metrics.make_init_step(loss, model, config))
    return runtime.fetch(measure(runtime.place_state(first).params, runtime.place_batch(small.batch(5, ROWS))))


def importance(parallel):
    """The importance of heads."""
    config = small.config(model__num_decoder_layers=2)
    first, _, loss = small.trainer(config)
    runtime = Runtime(parallel)
    measure = runtime.compile_eval(step.make_eval_step(head_pruning.make_importance(loss, config)))
    return runtime.fetch(measure(runtime.place_state(first).params, runtime.place_batch(small.batch(5, ROWS))))


def on_eight() -> dict:
    """Everything that needs eight devices. A warning, for example about a deprecation, is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {
            "auto": [Runtime(Parallel(mode)).mode for mode in ("auto", "jit", "pmap")],
            "count": [Runtime(Parallel(mode)).count for mode in ("auto", "jit", "pmap")],
            "round_trip": round_trip(),
            "noise": noise(),
            "starts": [starts(each) for each in LAYOUTS],
            "importance": [importance(each) for each in LAYOUTS],
            "cut_masks": cut_masks(),
            "runs": {f"{mode} {parts}": train(mode, parts) for mode, parts in (("jit", 1), ("auto", 1), ("auto", 2))},
        }


@pytest.fixture(scope="module")
def eight():
    return simulated.eight(__file__)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_of_eight_devices_are_those_of_one(eight, accumulate):
    """Micro-batches of eight devices also form one batch of one device."""
    several, one = eight["runs"][f"auto {accumulate}"], eight["runs"]["jit 1"]
    assert len(several["rows"]) == len(one["rows"]) == STEPS
    for a, b in zip(several["rows"], one["rows"], strict=True):
        loss, wanted = (row["loss_sum"] / row["weight_sum"] for row in (a, b))
        assert abs(loss - wanted) <= 1e-5 * max(1, wanted)
        assert a["weight_sum"] == b["weight_sum"] and a["learning_rate"] == b["learning_rate"]
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
    losses = [row["loss_sum"] / row["weight_sum"] for row in one["rows"]]
    assert losses[-1] < losses[0] - 0.1  # something was learned


@pytest.mark.slow
def test_evaluation_of_eight_devices_is_that_of_one(eight):
    several, one = (eight["runs"][name]["evaluated"] for name in ("auto 1", "jit 1"))
    assert several.keys() == one.keys() and one["weight_sum"] == small.batch(99, ROWS)["weights"].sum()
    for name, value in one.items():
        assert several[name] == pytest.approx(value, rel=1e-5)


@pytest.mark.slow
def test_a_start_on_eight_devices_is_that_on_one(eight):
    one, *several = eight["starts"]
    assert len(one) == 26 and all(found == pytest.approx(one, rel=1e-4) for found in several)


@pytest.mark.slow
def test_importance_of_heads_on_eight_devices_is_that_on_one(eight):
    one, *several = eight["importance"]
    assert len(one) == 10 and all(found == pytest.approx(one, rel=1e-4) for found in several)


def test_those_batches_were_uneven():
    """Most have a device without a target (two rows of 16 each) and one with many; few devices have the same weight."""
    batches = [small.batch(number, ROWS) for number in range(STEPS)]
    tokens = np.array([b["weights"].reshape(8, -1).sum(axis=1) for b in batches])
    assert (tokens.min(axis=1) == 0).sum() > STEPS / 3 and tokens.max(axis=1).min() >= 7
    assert len(set(tokens.sum(axis=1))) > STEPS / 2


@pytest.mark.slow
def test_modes_and_placement(eight):
    assert eight["auto"] == ["pmap", "jit", "pmap"] and eight["count"] == [8, 1, 8]
    assert eight["round_trip"]
    for run in eight["runs"].values():
        assert run["devices_of_single"] == 1 and run["step"] == STEPS and run["old_state_given_up"]


@pytest.mark.slow
def test_devices_draw_apart(eight):
    found, wanted = eight["noise"]
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.slow
def test_masks_do_not_know_the_cut(eight):
    assert eight["cut_masks"] == [True] * 4


def test_one_device():
    runtime = Runtime(Parallel())
    assert (runtime.mode, runtime.count) == ("jit", jax.local_device_count())
    state = {"a": np.arange(3.0, dtype=np.float32)}
    placed = runtime.place_state(state)
    assert isinstance(placed["a"], jax.Array)
    np.testing.assert_array_equal(runtime.single(placed)["a"], state["a"])
    assert runtime.fetch({"a": jnp.asarray(1.5), "b": 2, "c": 0.25}) == {"a": 1.5, "b": 2.0, "c": 0.25}


if __name__ == "__main__":
    import conftest  # noqa: F401  (what holds for every test holds here)

    print(json.dumps(on_eight()))


def test_the_peak_is_measured_on_a_cpu_and_looked_up_elsewhere():
    own = jax.local_devices(backend="cpu")[:1]
    peak = devices.peak_flops(own)
    assert peak is not None and 1e8 < peak < 1e14
    known = types.SimpleNamespace(platform="tpu", device_kind="TPU v4")
    assert devices.peak_flops([known] * 4) == 4 * 275e12  # type: ignore[list-item]
    assert devices.peak_flops([types.SimpleNamespace(platform="gpu", device_kind="another")]) is None  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(("TPU v5", "TPU v5p"), 459e12), (("TPU v5 lite", "TPU v5e"), 197e12), (("TPU v6 lite", "TPU v6e"), 918e12)],
)
def test_the_peak_of_a_tpu_is_known_by_each_of_its_names(names, wanted):
    """JAX has two names for some kinds."""
    found = {tpu_info.chip_version_from_device_kind(name) for name in names}
    assert len(found) == 1 and None not in found
    for name in names:
        assert devices.peak_flops([types.SimpleNamespace(platform="tpu", device_kind=name)]) == wanted  # type: ignore[list-item]
