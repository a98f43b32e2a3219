"""The pure steps: sums, one division by the global weight, reproducible randomness, the moving average, and saved state."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from transformer import families, settings
from transformer.config import Checkpoint, Train
from transformer.runtime.checkpoints import Checkpoints
from transformer.training import state_files, step
from transformer.training.optimizer import make_optimizer

# --- a loss whose every number is known --------------------------------------------------------------------------------

PARAMS = {"slope": jnp.array([0.5, -1.0]), "start": jnp.array(2.0)}


def line(params, batch, key):
    """Weighted squared distance from a line; `noise_sum` shows the key."""
    distance = batch["x"] @ params["slope"] + params["start"] - batch["y"]
    noise = jnp.zeros(()) if key is None else jax.random.uniform(key)
    return {"loss_sum": jnp.sum(batch["weights"] * distance**2), "weight_sum": jnp.sum(batch["weights"]), "noise_sum": noise}


def points(rows=8, seed=0):
    """Rows of uneven weight, the last quarter of none."""
    draw = np.random.default_rng(seed)
    weights = draw.random(rows) * 3
    weights[rows * 3 // 4 :] = 0
    arrays = {"x": draw.normal(size=(rows, 2)), "y": draw.normal(size=rows), "weights": weights}
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def by_hand(params, batch):
    """Loss sum, and the gradient of the weighted mean, in float64."""
    x, y, w = (np.asarray(batch[n], np.float64) for n in ("x", "y", "weights"))
    slope, start = (np.asarray(params[n], np.float64) for n in ("slope", "start"))
    distance = x @ slope + start - y
    inner = 2 * w * distance / w.sum()
    return (w * distance**2).sum(), {"slope": inner @ x, "start": inner.sum()}


def make(train, loss=line, optimizer=None, params=PARAMS, schedule=lambda number: 1.0 + number):
    """State and compiled step, with plain gradient descent if no other rule is given."""
    optimizer = optimizer or optax.identity()
    return step.init_state(params, optimizer, train), jax.jit(step.make_train_step(loss, optimizer, schedule, train))


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_one_update_by_hand(accumulate):
    """Metrics are sums over the batch; the gradient is divided once, by the weight of all rows."""
    batch = points()
    state, update = make(Train(accumulate=accumulate))
    new, metrics = update(state, batch)
    loss_sum, gradient = by_hand(PARAMS, batch)
    for name, slope in gradient.items():
        np.testing.assert_allclose(PARAMS[name] - new.params[name], slope, rtol=1e-5)
    assert metrics["loss_sum"] == pytest.approx(loss_sum, rel=1e-5)
    assert metrics["weight_sum"] == pytest.approx(batch["weights"].sum(), rel=1e-6)
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5) and norm > 1
    assert (state.step, new.step) == (0, 1) and metrics["learning_rate"] == 1.0
    assert update(new, batch)[1]["learning_rate"] == 2.0


def test_the_norm_is_that_before_clipping():
    batch = points()
    state, update = make(Train(), optimizer=optax.clip_by_global_norm(0.1))
    new, metrics = update(state, batch)
    assert metrics["gradient_norm"] > 1
    assert optax.tree.norm(jax.tree.map(jnp.subtract, new.params, PARAMS)) == pytest.approx(0.1, rel=1e-5)


def test_a_batch_without_weight_changes_nothing():
    batch = points() | {"weights": np.zeros(8, np.float32)}
    state, update = make(Train(accumulate=2))
    new, metrics = update(state, batch)
    jax.tree.map(np.testing.assert_array_equal, new.params, PARAMS)
    assert metrics["weight_sum"] == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_randomness_is_addressed(accumulate):
    """The key is fold_in(fold_in(seed, 1), step), folded once more by the micro-batch: nothing else, nothing carried."""
    state, update = make(Train(seed=7, accumulate=accumulate))

    def noise(number):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 1), number)
        keys = [key] if accumulate == 1 else [jax.random.fold_in(key, part) for part in range(accumulate)]
        return sum(float(jax.random.uniform(k)) for k in keys)

    for number in (0, 1, 2):
        state, metrics = update(state, points(seed=number))
        assert metrics["noise_sum"] == pytest.approx(noise(number), rel=1e-6)
    late = step.init_state(PARAMS, optax.identity(), Train()).replace(step=jnp.asarray(1, jnp.int32))
    assert update(late, points(seed=5))[1]["noise_sum"] == pytest.approx(noise(1), rel=1e-6)
    assert len({round(noise(n), 6) for n in range(5)}) == 5


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: batch["y"].__setitem__(0, np.nan),
        lambda batch: batch["y"].__setitem__(0, np.inf),
        lambda batch: batch["x"].__setitem__((5, 1), 3e38),  # the loss and the gradient overflow
        lambda batch: batch["x"].__setitem__((0, 0), 1e18),  # the gradient's norm alone does
    ],
)
def test_an_update_that_is_not_finite_changes_the_step_alone(accumulate, spoil):
    """And the updates after it are those of a state that never saw it, but for the step."""
    train = Train(accumulate=accumulate, ema_decay=0.75)
    state, update = make(train, optimizer=optax.scale_by_adam(), schedule=lambda number: 0.1)
    state, metrics = update(state, points(seed=1))
    assert metrics["skipped"] == 0
    spoil(batch := points(seed=2))
    new, metrics = update(state, batch)
    assert metrics["skipped"] == 1 and int(new.step) == 2
    jax.tree.map(np.testing.assert_array_equal, new.replace(step=state.step), state)
    after, metrics = update(new, points(seed=3))
    wanted, _ = update(state, points(seed=3))
    assert metrics["skipped"] == 0 and int(after.step) == 3
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=wanted.step), wanted)
    assert np.any(after.params["slope"] != state.params["slope"])


@pytest.mark.parametrize("rule", [optax.identity(), optax.scale_by_adam()])
def test_the_learning_rate_that_is_reported_is_applied_after_skipped_updates(rule):
    """Updates 2 and 3 of 6 are skipped: the schedule goes on, and reaches 0 with the last one."""
    state, update = make(Train(), optimizer=rule, schedule=lambda number: (5.0 - number) / 10)
    other, other_update = make(Train(), optimizer=rule, schedule=lambda number: 1.0)
    reported, applied = [], []
    for number in range(6):
        batch = points(seed=number)
        if number in (1, 2):
            batch["y"][0] = np.nan
        new, metrics = update(state, batch)
        unscaled, _ = other_update(other.replace(params=state.params, optimizer_state=state.optimizer_state), batch)
        moved, whole = (tree.params["start"] - state.params["start"] for tree in (new, unscaled))
        reported.append(float(metrics["learning_rate"]))
        applied.append(float(moved / whole) if number not in (1, 2) else reported[-1])
        state = new
    np.testing.assert_allclose(reported, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], atol=1e-7)
    np.testing.assert_allclose(applied, reported, rtol=1e-3)


def test_moving_average_by_hand():
    state, update = make(Train(ema_decay=0.75), schedule=lambda number: 0.1)
    wanted = {name: np.asarray(value, np.float64) for name, value in PARAMS.items()}
    for number in range(4):
        state, _ = update(state, points(seed=number))
        wanted = {name: 0.75 * w + 0.25 * np.asarray(state.params[name], np.float64) for name, w in wanted.items()}
    for name, value in wanted.items():
        np.testing.assert_allclose(state.average[name], value, rtol=1e-5)
        assert np.any(np.abs(value - state.params[name]) > 1e-2)
    assert make(Train())[0].average is None


def test_eval_step_draws_nothing_and_divides_nothing():
    batch = points()
    sums = jax.jit(step.make_eval_step(line))(PARAMS, batch)
    assert sums["noise_sum"] == 0 and sums["loss_sum"] == pytest.approx(by_hand(PARAMS, batch)[0], rel=1e-5)


# --- the model's own loss ----------------------------------------------------------------------------------------------


def test_micro_batches_are_one_batch():
    """Rows that are empty, half full and full, cut in 4: gradients and metrics of the whole to 1e-6."""
    batch = small.batch(5, 8)
    filled = (batch["weights"] > 0).sum(axis=1).reshape(4, 2).sum(axis=1)
    assert len(set(filled)) == 4 and min(filled) == 0  # micro-batches differ in weight, one has none
    start, _, loss = small.trainer(small.config())
    results = []
    for accumulate in (1, 4):
        state, update = make(Train(accumulate=accumulate), loss, params=start.params)
        results.append(update(state, batch))
    whole, metrics = results[0]
    for new, sums in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), new.params, whole.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), sums, metrics)


def test_means_of_tokens_and_of_pairs_are_those_of_the_whole_batch():
    """In micro-batches and on devices that have other shares of the tokens than of the pairs."""
    made = small.batch(5, 8)
    full = made["source_segments"] > 0
    batch = {name: made[name] for name in ("source", "source_segments", "source_positions")}
    batch |= {"targets": made["source"], "weights": full.astype(np.float32)}
    batch |= {"related": made["source"][:, :1] % 2, "related_weights": full[:, :1].astype(np.float32)}
    kind = {"family": "encoder_only", "objective__kind": "masked_lm", "objective__next_sentence": True}
    config = small.config(**kind, model__tying="two_way", model__head_dropout_rate=0.0, data__batching="bucketed")
    data_info = settings.replace(small.DATA_INFO, "mask", 3)
    model, params = small.untrained(config, data_info)
    loss = families.make_loss(model, config, data_info)
    (whole, metrics), (parts, sums) = (
        update(state, batch) for state, update in (make(Train(accumulate=n), loss, params=params) for n in (1, 4))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), parts.params, whole.params)
    evaluate = step.make_eval_step(loss)
    rows = {name: each.reshape(4, 2, *each.shape[1:]) for name, each in batch.items()}
    on_four = jax.vmap(lambda part: evaluate(params, part, "devices"), axis_name="devices")(rows)["loss_sum"]
    found = [sums["loss_sum"], evaluate(params, batch)["loss_sum"], *on_four]
    np.testing.assert_allclose(found, metrics["loss_sum"], rtol=1e-5)


def test_dropout_of_a_step():
    """The same step draws the same, another one does not: gradients too, to the bit."""
    config = small.config(model__dropout_rate=0.3)
    start, _, loss = small.trainer(config)
    state, update = make(config.train, loss, params=start.params)
    at = [state.replace(step=jnp.asarray(number, jnp.int32)) for number in (0, 0, 1)]
    one, same, other = (update(s, small.batch(0, 4)) for s in at)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert one[1]["loss_sum"] != other[1]["loss_sum"]


def test_bfloat16_computes_and_fp32_keeps():
    config = small.config(model__dtype="bfloat16", train__ema_decay=0.9, train__accumulate=2)
    state, train_step, loss = small.trainer(config)
    batch = small.batch(0, 4)
    new, metrics = jax.eval_shape(train_step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    floats = [x for x in jax.tree.leaves((new, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(x.dtype == jnp.float32 for x in floats) and len(floats) > 100
    model = families.FAMILIES[config.family].model(config, small.DATA_INFO)
    states = jax.eval_shape(lambda p: model.apply({"params": p}, batch, method="states"), state.params)
    assert states.dtype == jnp.bfloat16
    # What the compiler does with it is its own affair; the numbers must be those of fp32 to bfloat16's 8 bits.
    low, high = (jax.jit(f)(state.params, batch, None)["loss_sum"] for f in (loss, small.trainer(small.config())[2]))
    assert 0 < abs(low - high) < 0.02 * high


# --- saved and restored ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "ema_decay"), [("adam", None), ("adam", 0.9), ("lion", None), ("muon", None), ("schedule_free", None)]
)
def test_saved_and_restored_to_the_bit(tmp_path, rule, ema_decay):
    train = Train(optimizer=rule, ema_decay=ema_decay, weight_decay=0.0 if rule == "adam" else 0.1)
    optimizer = make_optimizer(train)
    state, update = make(train, optimizer=optimizer, schedule=lambda number: 0.1 + 0.01 * number)
    for number in range(3):
        state, _ = update(state, points(seed=number))
    with contextlib.closing(Checkpoints(tmp_path, Checkpoint())) as checkpoints:
        state_files.save(checkpoints, 3, state, {"validation/loss": 0.5})
        like = jax.eval_shape(lambda: step.init_state(PARAMS, optimizer, train))
        found = state_files.restore(checkpoints, 3, like)
        assert checkpoints.metrics(3) == {"validation/loss": 0.5}
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(state)]
    assert ((tmp_path / "3" / "average").exists(), found.average is not None) == (train.keeps_average,) * 2
    if train.keeps_average:
        assert np.any(found.average["slope"] != found.params["slope"])
    jax.tree.map(np.testing.assert_array_equal, update(found, points(seed=3)), update(state, points(seed=3)))
