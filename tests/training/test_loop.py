"""The order of events in the loop, with fake surroundings; signals; and a stopped and resumed run equals an
uninterrupted one."""

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import small

from transformer.config import Checkpoint, Config, Data, Model, Train
from transformer.errors import UserError
from transformer.modes import training
from transformer.training import loop
from transformer.training.monitor import Monitor
from transformer.training.telemetry import TIMED, read_metrics
from transformer.validation import validate

ROOT = Path(__file__).resolve().parents[2]

# --- what happens when -------------------------------------------------------------------------------------------------


class Recorder:
    """A telemetry that appends its calls to the list of all events."""

    def __init__(self, events):
        self.events, self.reports = events, {}

    def advance(self, step):
        self.events.append(f"advance {step}")

    def report(self, step, metrics, **held):
        self.events.append(f"report {step}")
        self.reports[step] = metrics | held

    def score(self, step, metrics):
        self.events.append(f"score {step} {metrics}")

    def skipped(self, step):
        self.events.append(f"skipped {step}")

    def awaited(self, batches):
        return batches

    @contextlib.contextmanager
    def paused(self):
        self.events.append("pause")
        yield
        self.events.append("on")


def run(
    first=0,
    steps=6,
    every=(2, 100, 100),
    stop_at=None,
    stop_in="step",
    scores=None,
    skipped=(),
    most=10,
    events=None,
    begin=None,
    keep_best=0,
    patience=None,
    reader=None,
):
    """Runs the loop; returns its events, its telemetry and what it returned. `every`: to report, to evaluate, to save.

    Update n has loss sum 6 n and weight 3, so a loss of 2 n. `stop_in`: during which event of update `stop_at` a signal comes.
    """
    recorded = Recorder(events := [] if events is None else events)
    log, evaluate, save = every
    config = Config(
        train=Train(steps=steps, log_every=log, evaluate_every=evaluate, max_skipped=most, patience=patience),
        checkpoint=Checkpoint(every_steps=save, keep_last=1, keep_best=keep_best),
    )
    stop = loop.Stop()

    def happens(name, number):
        events.append(f"{name} {number}")
        stop.asked = stop.asked or (name, number) == (stop_in, stop_at)

    def step(state, placed):
        assert placed == ("placed", state)  # batch n is that of the state after n updates
        happens("step", state + 1)
        sums = {"loss_sum": 6.0 * (state + 1), "nll_sum": 3.0, "correct_sum": 1.5, "weight_sum": 3.0}
        return state + 1, sums | {"learning_rate": 0.1, "number": state + 1, "skipped": float(state + 1 in skipped)}

    def fetch(metrics):
        if metrics.keys() == {"skipped"}:
            return metrics
        happens("fetch", metrics["number"])
        return {name: value for name, value in metrics.items() if name != "number"}

    def evaluation(state):
        happens("evaluate", state)
        return {"validation/loss": state / 2} if scores is None else scores

    def saved(number, state, metrics, periodic):
        assert number == state and periodic == (number % save == 0)
        happens("save", number)
        events.append(f"with {metrics}")

    callbacks = small.callbacks(
        count=lambda batch: {"examples": 2, "tokens": 10 + batch["number"], "filled": 30 + batch["number"], "slots": 40},
        evaluate=evaluation,
        save=saved,
        keep_batch=lambda number, batch: events.append(f"keep {number} {batch['number']}") or "FILE",
        **({} if begin is None else {"begin": begin}),
    )
    runtime = SimpleNamespace(place_batch=lambda batch: ("placed", batch["number"]), fetch=fetch, asked=bool)

    def read():
        for n in range(first, steps + 5):  # more than are wanted
            if reader is not None and n == reader[0]:
                stop.asked = reader[1]
                raise UserError("a process that reads data ended")
            yield {"number": n}

    job = loop.Job(config, runtime, step, callbacks, recorded, Monitor(config), stop)
    return events, recorded, loop.alone(loop.train(job, first, first, read()))


def of(events, *names):
    return [event for event in events if event.split()[0] in names]


def test_metrics_are_fetched_after_the_next_update_is_dispatched():
    events, _, result = run(steps=7, every=(3, 100, 100))
    assert result == (7, 7)
    assert of(events, "step", "fetch", "report") == [
        *("step 1", "step 2", "step 3", "step 4", "fetch 3", "report 3"),
        *("step 5", "step 6", "step 7", "fetch 6", "report 6", "fetch 7", "report 7"),
    ]
    assert of(events, "advance") == [f"advance {n}" for n in range(1, 8)]


def test_reports_evaluations_and_saves_come_when_they_are_due():
    events, _, _ = run(steps=10, every=(4, 3, 5))
    assert of(events, "report", "score", "save") == [
        "score 3 {'validation/loss': 1.5}",
        *("report 4", "save 5"),
        "score 6 {'validation/loss': 3.0}",
        *("report 8", "score 9 {'validation/loss': 4.5}"),
        *("report 10", "score 10 {'validation/loss': 5.0}", "save 10"),
    ]
    assert of(events, "with") == ["with {}", "with {'validation/loss': 5.0}"]  # what was scored at that very step
    assert len(of(events, "evaluate")) == 4  # the last is due only because it is the last


def test_a_report_is_written_before_its_checkpoint():
    """And before the pause, so that its time contains only training: a run resumed from the checkpoint has all lines."""
    events, _, _ = run(steps=4, every=(2, 2, 2))
    for number in (2, 4):
        at = events.index(f"step {number}")
        assert events[at : at + 9] == [
            *(f"step {number}", f"advance {number}", f"fetch {number}", f"report {number}", "pause"),
            *(f"evaluate {number}", f"score {number} {{'validation/loss': {number / 2}}}", f"save {number}"),
            f"with {{'validation/loss': {number / 2}}}",
        ]
        assert events.index("on", at) == at + 9


def test_a_validation_among_the_best_is_saved():
    """The validation loss rises: the first two are the best two. Saves at 5 and at the end are due anyway."""
    for best, wanted in ((0, [5, 10, 11]), (1, [3, 5, 10, 11]), (2, [3, 5, 6, 10, 11])):
        events, _, _ = run(steps=11, every=(100, 3, 5), keep_best=best)
        assert of(events, "save") == [f"save {number}" for number in wanted]
    assert events[events.index("save 3") + 1] == "with {'validation/loss': 1.5}"


def test_patience_ends_the_run_and_saves_its_state():
    events, _, result = run(steps=20, every=(100, 2, 100), patience=3, keep_best=1)
    assert result == (8, 8) and of(events, "evaluate") == [f"evaluate {number}" for number in (2, 4, 6, 8)]
    assert of(events, "save") == ["save 2", "save 8"]


def test_no_scores_are_no_line():
    events, _, _ = run(steps=2, every=(2, 1, 1), scores={})
    assert not of(events, "score") and of(events, "save") == ["save 1", "save 2"]


def test_what_a_report_says():
    """Weighted means of one update; examples, tokens and padding of all updates since the last report."""
    _, recorded, _ = run(steps=5, every=(2, 100, 100))
    assert recorded.reports[2] == {
        **{"loss": 4.0, "nll": 1.0, "accuracy": 0.5, "learning_rate": 0.1, "padding_share": pytest.approx(1 - 61 / 80)},
        **{"examples": 4, "tokens": 21, "compilations": 0},
    }
    assert [(recorded.reports[n]["examples"], recorded.reports[n]["tokens"]) for n in (4, 5)] == [(4, 25), (2, 14)]


@pytest.mark.parametrize(("first", "recorded"), [(0, [(0, ("placed", 0))]), (3, [])])
def test_the_start_is_reported_only_before_the_first_update(first, recorded):
    seen = []
    events, _, _ = run(first, steps=5, begin=lambda *given: seen.append(given) or {"init/gradient_norm": 2.0})
    assert seen == recorded
    assert of(events, "score", "step")[: len(recorded)] == ["score 0 {'init/gradient_norm': 2.0}"] * len(recorded)
    assert len([event for event in events if event.startswith("score 0")]) == len(recorded)


def test_goes_on_from_where_it_was():
    events, recorded, result = run(first=3, steps=6, every=(2, 4, 5))
    assert result == (6, 6)
    assert of(events, "step", "report", "evaluate", "save") == [
        *("step 4", "report 4", "evaluate 4", "step 5", "save 5", "step 6", "report 6", "evaluate 6", "save 6"),
    ]
    assert recorded.reports[4]["examples"] == 2  # of the updates of this process


@pytest.mark.parametrize("stop_at", [3, 4])
def test_a_stop_saves_once_and_ends(stop_at):
    """Whether or not a report or a save was due at that step."""
    events, _, result = run(steps=9, every=(2, 100, 4), stop_at=stop_at)
    assert result == (stop_at, stop_at)
    assert of(events, "step")[-1] == f"step {stop_at}" and of(events, "save") == [f"save {stop_at}"]
    assert of(events, "report") == ["report 2", "report 4"][: stop_at // 2]
    assert not of(events, "evaluate")  # who wants to stop does not want to wait


@pytest.mark.parametrize(("stop_in", "every"), [("fetch", 4), ("fetch", 100), ("evaluate", 4), ("evaluate", 100), ("save", 4)])
def test_a_stop_at_any_moment_loses_nothing(stop_in, every):
    """However late in an update the signal comes, the last update is saved."""
    events, _, result = run(steps=9, every=(2, 4, every), stop_at=4, stop_in=stop_in)
    assert result in [(4, 4), (5, 5)]
    saved = of(events, "save")
    assert saved[-1] == f"save {result[1]}" and len(saved) == len(set(saved))


# --- not finite --------------------------------------------------------------------------------------------------------


def test_a_skipped_update_is_reported_after_the_next_is_dispatched_and_before_it_is_saved():
    events, _, result = run(steps=8, every=(100, 100, 4), skipped=(1, 2, 4, 6, 8), most=2)
    assert result == (8, 8)
    assert of(events, "step", "skipped", "save") == [
        *("step 1", "step 2", "skipped 1", "step 3", "skipped 2", "step 4", "skipped 4", "save 4"),
        *("step 5", "step 6", "step 7", "skipped 6", "step 8", "skipped 8", "save 8"),
    ]
    assert not of(events, "keep")


@pytest.mark.parametrize(("most", "skipped", "last"), [(0, (5,), 5), (2, (1, 2, 4, 5, 6), 6), (1, (3, 4), 4)])
@pytest.mark.parametrize("save", [100, 2])
def test_too_many_in_a_row_end_the_run_unsaved(most, skipped, last, save):
    """Also where the last of them is found because a save is due: its own is not made."""
    events = []
    with pytest.raises(UserError, match=rf"in {most + 1} updates? in a row, the last {last} .* its batch is FILE;"):
        run(steps=9, every=(100, 100, save), skipped=skipped, most=most, events=events)
    assert of(events, "keep") == [f"keep {last} {last - 1}"]
    assert of(events, "save") == [f"save {n}" for n in range(2, last, 2) if save == 2]


def test_the_last_update_may_be_one_too_many():
    with pytest.raises(UserError, match="the last 6"):
        run(steps=6, skipped=(6,), most=0)


def test_a_reader_that_ends_after_a_stop_was_asked_for_is_a_stop():
    """A signal to all processes may reach the reader's first. What is done is saved, once."""
    for every in ((2, 100, 100), (2, 100, 3)):
        events, _, (state, done) = run(every=every, reader=(3, True))
        assert (state, done) == (3, 3) and [each for each in events if each.startswith("save")] == ["save 3"]
    with pytest.raises(UserError, match="a process that reads data ended"):
        run(reader=(3, False))


# --- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_handlers_come_back(number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), loop.Stop() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
        _ = 1 / 0
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM")], ids="-".join
)
def test_the_second_signal_ends_at_once(first, second):
    code = (
        "import signal; from transformer.training.loop import Stop\n"
        f"with Stop() as stop:\n    signal.raise_signal(signal.{first}); print(bool(stop), flush=True)\n"
        f"    signal.raise_signal(signal.{second}); print('still there', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True\n", -signal.Signals[second]) and not done.stderr


def test_time_is_up_after_minutes():
    now = [100.0]
    stop = loop.Stop(1.5, lambda: now[0])
    for seconds, late in ((0, False), (89.9, False), (90, True), (1000, True)):
        now[0] = 100 + seconds
        assert (bool(stop), stop.late, stop.asked) == (late, late, False)
    assert not loop.Stop(None, lambda: 1e12)


# --- stopped and resumed, with nothing faked ---------------------------------------------------------------------------

STEPS = 12


class Runs:
    """`modes.train` on one folder of text: packed rows, two micro-batches, dropout, an average; 3 updates an epoch."""

    def __init__(self, folder, patch):
        self.folder, self.patch = folder, patch
        draw = random.Random(0)
        for name, count in (("train", 60), ("validation", 7)):
            lines = ["".join(draw.choices("abcd", k=draw.randint(1, 9))) for _ in range(count)]
            (folder / f"{name}.en").write_text("".join(line + "\n" for line in lines))
            (folder / f"{name}.de").write_text("".join(line[::-1] + "\n" for line in lines))
        patch.setattr(training, "_finish", lambda *arguments: None)

    def train(self, name, steps=STEPS, stop_at=None):
        """The last state, as it was in memory, and the number of updates done. A signal comes before update `stop_at`."""
        config = Config(
            model=Model(num_encoder_layers=1, num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2, dropout_rate=0.3),
            data=Data(
                **{"source": "text", "directory": str(self.folder), "test": None, "vocabulary": "characters"},
                **{"max_source_length": 16, "max_target_length": 16, "row_length": 32},
            ),
            train=Train(
                **{"steps": steps, "batch_tokens": 128, "accumulate": 2, "ema_decay": 0.7, "clip_norm": 1.0, "seed": 5},
                **{"warmup_steps": 3, "log_every": 3, "evaluate_every": 4, "init_metrics": ("jacobian_norm", "gradient_norm")},
            ),
            checkpoint=Checkpoint(every_steps=4, keep_last=2),
        )
        ended, read, train = [], training.pipeline.read, loop.train

        def with_signal(batches, first, *rest):
            for number, batch in enumerate(read(batches, first, *rest), first + 1):
                if number == stop_at:
                    signal.raise_signal(signal.SIGTERM)
                yield batch

        def noted(*arguments, **named):
            ended.append((yield from train(*arguments, **named)))
            return ended[-1]

        with self.patch.context() as patch:
            patch.setattr(training.pipeline, "read", with_signal)
            patch.setattr(training.loop, "train", noted)
            training.train(validate(config), self.folder / name)
        return ended[0]

    def metrics(self, name):
        rows = read_metrics(self.folder / name / "metrics.jsonl")
        return [{field: value for field, value in row.items() if field not in TIMED} for row in rows]


def same_to_the_bit(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


@pytest.mark.slow
def test_stopped_and_resumed_is_unbroken(tmp_path, monkeypatch):
    """Stopped after 5 updates, where nothing is due, and then wanting fewer steps in all: the schedule does not tell."""
    runs = Runs(tmp_path, monkeypatch)
    wanted, done = runs.train("unbroken")
    _, stopped = runs.train("broken", steps=20, stop_at=5)
    state, done_again = runs.train("broken")
    assert (done, stopped, done_again) == (STEPS, 5, STEPS)
    same_to_the_bit(state, wanted)
    assert int(state.step) == STEPS and len(jax.tree.leaves(state)) > 150  # parameters, two moments, the average
    found = runs.metrics("broken")
    assert found == runs.metrics("unbroken")
    assert [row["step"] for row in found] == [0, 3, 4, 6, 8, 9, 12, 12]
    assert [name for name in found[0] if "@" not in name] == ["step", "init/jacobian_norm", "init/gradient_norm"]
    assert len({row["train/loss"] for row in found if "train/loss" in row}) == 4
