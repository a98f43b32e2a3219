"""Telemetry with a fake clock, and event files parsed record by record."""

import errno
import io
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from transformer.errors import UserError
from transformer.training.telemetry import TIMED, Telemetry, read_metrics


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def telemetry(folder: Path, first_step: int = 0, steps: int = 100, **options) -> Telemetry:
    options = {"stream": io.StringIO(), "clock": Clock()} | options
    return Telemetry(folder / "metrics.jsonl", folder / "tensorboard", first_step, steps, **options)


def run(folder: Path, first_step: int, last_step: int, clock: Clock) -> str:
    """A run of 60 updates that reports every 10, scores every 20 and is stopped after `last_step`; what it printed.

    As in the loop, a report comes after the next update is dispatched, and so after the score of the same step.
    """
    stream = io.StringIO()
    with telemetry(folder, first_step, 60, stream=stream, clock=clock) as reporter:
        waiting = None
        for step in range(first_step + 1, last_step + 1):
            clock.now += 0.5
            reporter.advance(step)
            if waiting:
                reporter.report(waiting, {"loss": 1 / waiting, "accuracy": waiting / 3}, 100 + waiting, 7)
            waiting = step if step % 10 == 0 else None
            if step % 20 == 0:
                reporter.score(step, {"validation/loss": 3 / step})
        if waiting:
            reporter.report(waiting, {"loss": 1 / waiting, "accuracy": waiting / 3}, 100 + waiting, 7)
    return stream.getvalue()


def untimed(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(folder / "metrics.jsonl")]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """(step, tag, value) of TensorBoard's events, as it would show them: a session's start purges what is later."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    found = []
    for path in sorted((folder / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                found = [f for f in found if f[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_lines_of_metrics(tmp_path):
    with telemetry(tmp_path, clock=(clock := Clock())) as reporter:
        reporter.advance(1)
        clock.now += 18
        reporter.report(10, {"loss": 2.5, "learning_rate": 1e-3}, tokens=900, examples=90)
        reporter.score(10, {"validation/loss": 2.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "step": 10,
            "train/loss": 2.5,
            "train/learning_rate": 1e-3,
            "tokens_per_second": 45.0,  # nine of the ten steps' tokens in 18 seconds
            "examples_per_second": 4.5,
            "input_share": 0.0,
            "pause_share": 0.0,
            "time": 18.0,
        },
        {"step": 10, "validation/loss": 2.25, "time": 18.0},
    ]


def test_metrics_of_parts_are_written_but_not_printed(tmp_path):
    with telemetry(tmp_path, stream=(stream := io.StringIO())) as reporter:
        reporter.score(0, {"init/gradient_norm": 2.0, "init/gradient_norm@encoder/1": 1.0})
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["step"] == 0 and row["init/gradient_norm@encoder/1"] == 1.0
    assert stream.getvalue().strip().endswith("init/gradient_norm 2")


def test_lines_are_there_at_once(tmp_path):
    with telemetry(tmp_path) as reporter:
        reporter.score(3, {"validation/loss": 1.0})
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_speed_leaves_out_compilation_and_pauses(tmp_path):
    with telemetry(tmp_path, 40, mfu_per_token=0.001, clock=(clock := Clock())) as reporter:
        with reporter.paused():
            clock.now += 15  # a score before all
        clock.now += 15  # the first step compiles
        reporter.advance(41)
        clock.now += 3
        reporter.report(44, {}, tokens=800, examples=4)
        reporter.advance(45)
        clock.now += 1
        with reporter.paused():
            clock.now += 100
        clock.now += 3
        reporter.report(48, {}, tokens=800, examples=4)
        clock.now += 2
        reporter.report(50, {}, tokens=800, examples=4)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["tokens_per_second"] for row in rows] == pytest.approx([200, 200, 400])
    assert [row["examples_per_second"] for row in rows] == pytest.approx([1, 1, 2])
    assert [row["mfu"] for row in rows] == pytest.approx([0.2, 0.2, 0.4])
    assert [row["time"] for row in rows] == [33, 137, 139]


def test_shares_of_the_time_since_the_last_report(tmp_path):
    def read(seconds):
        for each in seconds:
            clock.now += each
            yield each

    shown = io.StringIO()
    with telemetry(tmp_path, stream=shown, clock=(clock := Clock())) as reporter:
        for step, _ in enumerate(reporter.awaited(read([9, 1, 2, 0, 0, 0, 1])), 1):
            clock.now += 2  # the update; that a batch was awaited before the first is left out, as the first is
            reporter.advance(step)
            if step in (3, 5, 7):
                reporter.report(step, {}, tokens=10, examples=1)
            if step == 3:
                with reporter.paused():
                    clock.now += 4
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["input_share"] for row in rows] == pytest.approx([3 / 7, 0, 1 / 5])
    assert [row["pause_share"] for row in rows] == pytest.approx([0, 4 / 8, 0])
    reports = [line for line in shown.getvalue().splitlines() if "tokens/s" in line]
    assert [re.search("  input (.*?)  ETA", line) is not None for line in reports] == [True, False, True]
    assert "  input 43%  ETA" in shown.getvalue()


def test_no_speed_of_the_first_step(tmp_path):
    with telemetry(tmp_path, clock=(clock := Clock())) as reporter:
        clock.now += 1
        reporter.advance(1)
        reporter.report(1, {"loss": 1.0}, 10, 1)
        clock.now += 1
        reporter.report(2, {"loss": 1.0}, 10, 1)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert not {"tokens_per_second", "examples_per_second", "mfu", "input_share", "pause_share"} & first.keys()
    assert second["tokens_per_second"] == 10 and "mfu" not in second


def test_plain_lines(tmp_path):
    stream = io.StringIO()
    with telemetry(tmp_path, steps=2000, stream=stream, clock=(clock := Clock())) as reporter:
        for step in range(1, 101):
            reporter.advance(step)
            clock.now += 0.5
        reporter.report(100, {"loss": 2.3451}, 623_500, 10)
        reporter.note("50 % [bold] $done$")
        reporter.score(100, {"validation/loss": 1.23456, "validation/bleu": 12345.6})
    speed = f"{99 / 100 * 623_500 / 50:,.0f}"
    eta = round(50 / 99 * 1900)
    assert stream.getvalue().splitlines() == [
        "step 11/2000  ETA 16:34",  # after five seconds, before the first report
        f"step 100/2000  loss 2.345  {speed} tokens/s  ETA {eta // 60}:{eta % 60:02}",
        "50 % [bold] $done$",
        "step 100/2000  validation/loss 1.235  validation/bleu 12,346",
    ]


def test_eta_of_hours(tmp_path):
    stream = io.StringIO()
    with telemetry(tmp_path, steps=102, stream=stream, clock=(clock := Clock())) as reporter:
        reporter.advance(1)
        clock.now += 60.0
        reporter.advance(2)
        reporter.report(2, {"loss": 1.0}, 1, 1)
    assert stream.getvalue().endswith("ETA 1:40:00\n")


def test_live_bar(tmp_path, monkeypatch):
    for name, value in {"TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    stream, stdout, clock = Terminal(), sys.stdout, Clock()
    with telemetry(tmp_path, steps=2000, stream=stream, clock=clock) as reporter:
        assert sys.stdout is stdout  # results must not go where the bar goes
        reporter.advance(1)
        clock.now += 99
        reporter.advance(100)
        reporter.report(100, {"loss": 2.3451}, 1_250_000, 10)
        reporter.note("[red]ten :smile: words[/red] " + "x" * 200)
        clock.now += 1
        reporter.advance(101)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    frames = [part.strip() for part in re.split(r"[\r\n]+", text) if part.strip()]
    assert re.fullmatch(r"step 0/2000 ━+ compiling", frames[0])
    assert any(re.fullmatch(r"step 100/2000 ━*[╸╺]?━* loss 2\.345  12,500 tokens/s  ETA 31:40", f) for f in frames), frames
    assert re.fullmatch(r"step 101/2000 ━*[╸╺]?━* loss 2\.345  12,500 tokens/s  ETA 31:39", frames[-1]), frames[-1]
    assert "[red]ten :smile: words[/red] " + "x" * 200 in frames
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_bar_is_gone_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), telemetry(tmp_path, stream=stream):
        _ = 1 / 0
    assert stream.getvalue().endswith("\x1b[?25h")


def test_dumb_terminal_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with telemetry(tmp_path, stream=(stream := Terminal())) as reporter:
        reporter.report(1, {"loss": 1.0}, 1, 1)
    assert stream.getvalue() == "step 1/100  loss 1.000\n"


@pytest.mark.parametrize("stopped", [30, 37, 40])
def test_stopped_and_resumed_is_unbroken(tmp_path, stopped):
    run(tmp_path / "unbroken", 0, 60, Clock())
    run(tmp_path / "broken", 0, 60, clock := Clock())  # an older run of the same folder, to be forgotten
    run(tmp_path / "broken", 0, stopped, clock)
    clock.now += 500
    run(tmp_path / "broken", stopped, 60, clock)
    assert untimed(tmp_path / "broken") == untimed(tmp_path / "unbroken") and len(untimed(tmp_path / "broken")) == 9
    timed = re.compile("|".join(TIMED))
    seen, wanted = ([s for s in scalars(tmp_path / n) if not timed.search(s[1])] for n in ("broken", "unbroken"))
    assert sorted(seen) == sorted(wanted) and len(seen) == 2 * 6 + 3


def test_a_run_from_the_start_forgets_all(tmp_path):
    with telemetry(tmp_path) as reporter:
        reporter.score(0, {"validation/loss": 1.0})
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.0"))  # else the second run, in the same second, takes its name
    with telemetry(tmp_path) as reporter:
        reporter.score(0, {"validation/loss": 2.0})
    assert untimed(tmp_path) == [{"step": 0, "validation/loss": 2.0}]
    assert scalars(tmp_path) == [(0, "validation/loss", 2.0)]


def test_killed_run_is_cut_at_the_checkpoint(tmp_path):
    """Lines after the checkpoint, by step and not by their order, and a half-written one go; the rest stays to the byte."""
    run(tmp_path, 0, 55, Clock())
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("ab") as file:
        file.write(b'{"step": 30, "train/lo')
    assert [row["step"] for row in read_metrics(path)] == [10, 20, 20, 30, 40, 40, 50]
    with telemetry(tmp_path, 30, 60):
        assert path.read_bytes() == b"".join(lines[:4])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


@pytest.mark.parametrize(
    "rest", [b"", b"\n", b'{"step": 7, "train/loss": 0.1', b'{"step": 7}', b"3", b"\x00\x00\x00", b"\xff{"]
)
def test_half_written_last_line(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 5, "train/loss": 0.5}\n' + rest)
    complete = [{"step": 5, "train/loss": 0.5}] + [{"step": 7}] * (rest == b'{"step": 7}')
    assert read_metrics(path) == complete
    with telemetry(tmp_path, 7) as reporter:
        reporter.score(8, {"x": 1.0})
    assert [row["step"] for row in read_metrics(path)] == [row["step"] for row in complete] + [8]


def test_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5}\n{"step": 6, "tr\n{"step": 7}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)


def test_no_file_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_values_that_are_not_finite_are_null_and_reported_once(tmp_path):
    with telemetry(tmp_path, stream=(stream := io.StringIO())) as reporter:
        for step in (1, 2):
            reporter.report(step, {"loss": float("nan"), "gradient_norm": float("inf")}, 1, 1)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=pytest.fail)
        assert row["train/loss"] is None and row["train/gradient_norm"] is None
    printed = stream.getvalue()
    assert printed.count("train/loss is nan at step 1") == printed.count("train/gradient_norm is inf at step 1") == 1
    assert printed.count("null") == 2 and "loss nan" in printed
    assert not scalars(tmp_path)


def test_a_skipped_update_has_a_line(tmp_path):
    with telemetry(tmp_path, stream=(stream := io.StringIO())) as reporter:
        reporter.skipped(7)
    assert untimed(tmp_path) == [{"step": 7, "train/skipped": 1.0}] and scalars(tmp_path) == [(7, "train/skipped", 1.0)]
    assert stream.getvalue() == "step 7/100  skipped: its loss or gradient is not finite\n"


def test_tensorboard_has_what_the_lines_have(tmp_path):
    run(tmp_path, 0, 20, Clock())
    found = {(step, tag): value for step, tag, value in scalars(tmp_path)}
    for row in read_metrics(tmp_path / "metrics.jsonl"):
        for name in row.keys() - {"step", "time"}:
            assert found.pop((row["step"], name)) == pytest.approx(row[name], rel=1e-6)
    assert not found


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"), telemetry(tmp_path / "file"):
        pass


@pytest.mark.parametrize("full", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, full):
    """No hang and no traceback, of neither file."""

    def no_room(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(UserError, match="metrics cannot be written \\(No space left on device\\); "),
        telemetry(tmp_path) as reporter,
    ):
        reporter.score(1, {"x": 1.0})
        part = reporter._file if full == "metrics.jsonl" else reporter._events
        monkeypatch.setattr(part, "write" if full == "metrics.jsonl" else "flush", no_room)
        reporter.score(2, {"x": 1.0})
    assert [row["step"] for row in untimed(tmp_path)][0] == 1


def test_tensorflow_stays_out(tmp_path):
    code = (
        "import sys; from pathlib import Path; from transformer.training.telemetry import Telemetry\n"
        "assert not {'rich', 'tensorboardX', 'jax'} & sys.modules.keys()\n"
        "with Telemetry(Path('m.jsonl'), Path('tb'), 0, 2) as t: t.score(1, {'a': 1.0})\n"
        "assert 'tensorboardX' in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    path = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": path}, check=True, capture_output=True)
