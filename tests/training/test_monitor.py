"""The best validation has a checkpoint, even if no save is due; early stopping; and both after a restart."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import small

from transformer.inference import loading
from transformer.runtime.checkpoints import Checkpoints
from transformer.training import loop
from transformer.training.monitor import Monitor

METRIC = "validation/nll"


def seen(values, kept=(), saved=None, **settings):
    """A monitor that has seen these values, in validations after 10, 20, .. updates, and its message for each."""
    monitor = Monitor(small.config(checkpoint__best_metric=METRIC, **settings), kept, saved)
    return monitor, [monitor.see(10 * number, {METRIC: value}) for number, value in enumerate(values, 1)]


def test_the_best_are_those_that_would_be_kept():
    _, among = seen([5.0, 7.0, 4.0, 4.0, math.nan, 5.0, 3.0], checkpoint__keep_best=2)
    assert among == [True, True, True, True, False, False, True]
    assert not any(seen([5.0, 4.0], checkpoint__keep_best=0)[1])
    assert seen([5.0, 3.0], kept=[4.0], checkpoint__keep_best=1)[1] == [False, True]


def test_patience_counts_validations_without_an_improvement():
    values = [5.0, 4.0, 4.0, math.nan, 3.95, 3.5, 3.6]
    monitor, _ = seen(values, train__patience=2, train__min_delta=0.1)
    assert (monitor.waited, monitor.exhausted, monitor.best, monitor.best_step) == (1, False, 3.5, 60)
    assert [seen(values[:n], train__patience=2, train__min_delta=0.1)[0].exhausted for n in range(6)] == [False] * 4 + [
        True
    ] * 2
    assert not seen([1.0] * 99)[0].exhausted
    slow, _ = seen([5.0, 4.95, 4.89], train__min_delta=0.1)  # small gains add up
    assert (slow.waited, slow.best) == (0, 4.89)
    slow, _ = seen([5.0, 4.95, 4.92], train__min_delta=0.1)
    assert (slow.waited, slow.best, slow.best_step, slow.reference) == (2, 4.92, 30, 5.0)


def test_higher_may_be_better():
    settings = {"checkpoint__best_metric": "validation/token_accuracy", "train__patience": 2}
    monitor = Monitor(small.config(**settings))
    among = [monitor.see(step, {"validation/token_accuracy": value}) for step, value in enumerate([10.0, 30.0, 20.0, 30.0])]
    assert among == [True, True, False, False] and monitor.exhausted and monitor.best == 30.0


def test_a_step_without_a_validation_changes_nothing():
    monitor, _ = seen([5.0, 4.0], train__patience=1)
    before = monitor.numbers
    assert not monitor.see(25, {}) and monitor.numbers == before


@pytest.mark.parametrize("cut", range(8))
def test_a_saved_monitor_goes_on_as_one_that_never_stopped(cut):
    values, settings = [math.nan, 5.0, 5.1, 4.0, 4.2, 4.1, 4.05, 3.0], {"train__patience": 3, "train__min_delta": 0.2}
    whole, among = seen(values, **settings)
    first, _ = seen(values[:cut], **settings)
    again, rest = seen(values[cut:], sorted(v for v in values[:cut] if v == v), first.numbers, **settings)
    assert rest == among[cut:]
    assert (again.best, again.reference, again.waited) == (whole.best, whole.reference, whole.waited)


# --- with the loop and checkpoints, while the model is faked -----------------------------------------------------------

# By update; validations come after 4, 8, .. updates, periodic checkpoints after 7, 14, ..
NLL = {4: 5.0, 8: 3.0, 12: 4.0, 16: 3.5, 20: 3.4, 24: 3.1, 26: 9.0, 28: 3.0}


def run(folder, stop_at=None, killed_at=None, patience=None, steps=28):
    """Trains a state that is the number of updates, or resumes; returns that number, the monitor and the checkpoints."""
    config = small.config(
        train__steps=steps, train__evaluate_every=4, train__patience=patience, train__log_every=100,
        checkpoint__every_steps=7, checkpoint__keep_last=2, checkpoint__best_metric=METRIC,
    )  # fmt: skip
    stop = loop.Stop()

    class Killed(Exception):
        pass

    def batches(first):
        for number in range(first, steps):
            if number == killed_at:
                raise Killed
            stop.asked = stop.asked or number + 1 == stop_at
            yield {}

    with contextlib.closing(Checkpoints(folder, config.checkpoint)) as checkpoints:
        first = checkpoints.latest() or 0
        state = int(checkpoints.restore(first, "params", {"w": np.zeros(1)})["w"][0]) if first else 0
        monitor = Monitor(config, checkpoints.ranking().values(), checkpoints.metrics(first) if first else None)

        def save(step, state, metrics, periodic):
            checkpoints.save(step, {"params": {"w": np.full(1, float(state))}}, {**metrics, **monitor.numbers}, periodic)

        if monitor.exhausted:
            return first, monitor, checkpoints.steps()
        context = contextlib.nullcontext()
        telemetry = type("Silent", (), {"awaited": staticmethod(lambda batches: batches), "paused": lambda self: context})()
        for name in ("advance", "report", "score", "skipped"):
            setattr(telemetry, name, lambda *given, **named: None)
        with contextlib.suppress(Killed):
            sums = {"weight_sum": 1.0, "loss_sum": 0.0, "nll_sum": 0.0, "correct_sum": 0.0}
            runtime = SimpleNamespace(place_batch=dict, fetch=lambda metrics: metrics | sums, asked=bool)
            callbacks = small.callbacks(evaluate=lambda state: {METRIC: NLL[state]}, save=save)
            job = loop.Job(
                config, runtime, lambda state, batch: (state + 1, {"skipped": 0.0}), callbacks, telemetry, monitor, stop
            )
            loop.alone(loop.train(job, state, first, batches(first)))
        return checkpoints.latest(), monitor, checkpoints.steps()


def test_the_best_validation_is_kept_where_no_save_was_due(tmp_path):
    done, monitor, kept = run(tmp_path / "a")
    assert (done, monitor.best_step, kept) == (28, 8, [8, 21, 28])
    checkpoints = Checkpoints(tmp_path / "a", small.config(checkpoint__best_metric=METRIC).checkpoint)
    assert checkpoints.best() == 8 and checkpoints.sound(2, "params") == [21, 28]
    assert checkpoints.restore(8, "params", {"w": np.zeros(1)})["w"] == [8.0]
    assert loading._best(checkpoints, "a") == [8]


@pytest.mark.parametrize(
    "interruption", [{"stop_at": 8}, {"stop_at": 9}, {"stop_at": 22}, {"killed_at": 10}, {"killed_at": 27}]
)
def test_a_run_that_was_interrupted_keeps_the_same_checkpoints(tmp_path, interruption):
    run(tmp_path / "b", **interruption)
    done, monitor, kept = run(tmp_path / "b")
    assert (done, monitor.best_step, kept) == (28, 8, [8, 21, 28])


def test_what_is_averaged_does_not_depend_on_stops(tmp_path):
    run(tmp_path / "c", stop_at=22)
    checkpoints = Checkpoints(tmp_path / "c", small.SMALL.checkpoint)
    assert checkpoints.sound(1, "params") == [22] and checkpoints.sound(2, "params") == [21, 22]
    run(tmp_path / "c", steps=26)
    assert Checkpoints(tmp_path / "c", small.SMALL.checkpoint).sound(2, "params") == [21, 26]


def test_patience_survives_a_restart(tmp_path):
    """Validations 12, 16 and 20 do not improve on 8. A larger patience resumes a run that stopped."""
    for name, interruptions in (("d", []), ("e", [{"stop_at": 13}, {"stop_at": 18}]), ("f", [{"killed_at": 19}])):
        for each in interruptions:
            run(tmp_path / name, patience=3, **each)
        done, monitor, kept = run(tmp_path / name, patience=3)
        assert (done, monitor.waited, monitor.best_step, kept) == (20, 3, 8, [8, 14, 20])
    assert run(tmp_path / "d", patience=3)[0] == 20  # again: nothing is left to do
    assert "stopped early after step 20" in monitor.reason(20) and "config.train.patience 3" in monitor.reason(20)
    assert run(tmp_path / "d", patience=6)[0] == 28


def test_a_better_validation_whose_checkpoint_is_gone_is_reported(tmp_path, capsys):
    config = small.config(checkpoint__best_metric=METRIC)
    with contextlib.closing(Checkpoints(tmp_path, config.checkpoint)) as checkpoints:
        for step, loss in ((7, 4.0), (14, 3.5)):
            checkpoints.save(step, {"params": {"w": np.zeros(1)}}, {METRIC: loss, "monitor/best_step": 5.0})
        assert loading._best(checkpoints, "run") == [14]
    assert f"{METRIC} was best after step 5, whose checkpoint was not kept" in capsys.readouterr().err
