"""A run that is killed at random moments and started again each time ends as if it never had been.

    python -m pytest -s tests/modes/test_killed.py      two kills (KILLS=20: so many), and a line for each

Half of the moments are times. The other half are touches of the workdir, the n-th that Python opens, renames, makes or deletes
there: those hit the writing of checkpoints, manifests and metrics, and the deleting of old ones. This file is also the program
that is killed: one process imports what is needed, once, and forks for each start.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS, KILLS = 24, int(os.environ.get("KILLS", "2"))
TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir")


def config(data: str):
    """Dropout, two micro-batches, an average; about a dozen checkpoints, of which most are deleted again."""
    from transformer.config import Checkpoint, Config, Data, Model, Train
    from transformer.validation import validate

    return validate(
        Config(
            model=Model(num_encoder_layers=1, num_decoder_layers=1, d_model=8, d_ff=8, num_heads=2, dropout_rate=0.3),
            data=Data(
                **{"source": "text", "directory": data, "test": None, "vocabulary": "characters"},
                **{"max_source_length": 16, "max_target_length": 16, "row_length": 32},
            ),
            train=Train(
                **{"steps": STEPS, "batch_tokens": 128, "accumulate": 2, "ema_decay": 0.7, "seed": 5},
                **{"warmup_steps": 3, "log_every": 3, "evaluate_every": 4},
            ),
            checkpoint=Checkpoint(every_steps=2, keep_last=2),
        )
    )


def main(workdir: str, data: str, kind: str, when: str) -> None:
    """Trains, and kills itself after `when` seconds (`kind` time), at touch number `when` of the workdir (touch), or never."""
    from transformer.modes import training

    training._finish = lambda *arguments: None
    training.peak_flops = lambda devices: 1e11
    touches, began = 0, time.monotonic()

    def touched(event: str, arguments: tuple) -> None:
        nonlocal touches
        if event in TOUCHES and arguments and str(arguments[0]).startswith(workdir):
            touches += 1
            if kind == "touch" and touches == int(when):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)
    if kind == "time":
        timer = threading.Timer(float(when), lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    training.train(config(data), Path(workdir))
    print(touches, time.monotonic() - began)


def serve() -> None:
    """For each line of stdin, runs `main` with its words in a new process; prints its exit status and the end of its stderr
    file."""
    import grain  # noqa: F401  (what training imports when it needs it)
    import orbax.checkpoint  # noqa: F401
    import tensorboardX.event_file_writer  # noqa: F401

    from transformer.modes import training  # noqa: F401

    for line in sys.stdin:
        out, err, *words = line.rstrip("\n").split("\t")
        if (child := os.fork()) == 0:
            for number, name in ((1, out), (2, err)):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            status = 1
            try:
                main(*words)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


@pytest.fixture
def start(tmp_path, data):
    """`start(workdir, kind, when)` runs the process until it is killed or ends; returns the status, stdout and stderr."""
    environment = os.environ | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    words = [sys.executable, __file__]
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run(workdir: Path, kind: str = "never", when: float = 0) -> tuple[int, str, str]:
            assert server.stdin and server.stdout
            out, err = tmp_path / "out", tmp_path / "err"
            print(out, err, workdir, data, kind, when, sep="\t", file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            error_output = err.read_text()
            assert status in (0, -signal.SIGKILL) and "Traceback" not in error_output, error_output[-3000:]
            return status, out.read_text(), error_output

        yield run


def what_is_left(workdir: Path) -> tuple[dict[str, bytes], list[dict]]:
    """All numbers of the last checkpoint as bytes, and metrics.jsonl without times."""
    import orbax.checkpoint as ocp

    from transformer.config import Checkpoint
    from transformer.runtime.checkpoints import Checkpoints
    from transformer.training.telemetry import TIMED, read_metrics

    with contextlib.closing(Checkpoints(workdir / "checkpoints", Checkpoint())) as checkpoints:
        assert checkpoints.sound(1, notice=pytest.fail) == [STEPS]
    found = {}
    with contextlib.closing(ocp.Checkpointer(ocp.CompositeCheckpointHandler())) as reader:
        for item in ("params", "optimizer", "average"):
            how = ocp.args.Composite(**{item: ocp.args.StandardRestore()})
            table = reader.restore(workdir / "checkpoints" / str(STEPS), args=how)[item]
            found |= {f"{item}/{name}": np.asarray(value).tobytes() for name, value in table.items()}
    rows = read_metrics(workdir / "metrics.jsonl")
    return found, [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


@pytest.fixture
def data(tmp_path) -> Path:
    folder, draw = tmp_path / "data", random.Random(0)
    folder.mkdir()
    for name, count in (("train", 60), ("validation", 7)):
        lines = ["".join(draw.choices("abcd", k=draw.randint(1, 9))) for _ in range(count)]
        (folder / f"{name}.en").write_text("".join(line + "\n" for line in lines))
        (folder / f"{name}.de").write_text("".join(line[::-1] + "\n" for line in lines))
    return folder


@pytest.mark.slow
def test_killed_at_random_moments_is_unbroken(tmp_path, start):
    touches, seconds = map(float, start(tmp_path / "unbroken")[1].split())
    wanted = what_is_left(tmp_path / "unbroken")
    assert len(wanted[0]) > 150 and len(wanted[1]) == 8 + 6 and touches > 200
    draw, kills, runs = random.Random(os.environ.get("KILLS_SEED", "0")), 0, 0
    while kills < KILLS or not runs:
        workdir = tmp_path / f"run {runs}"
        while True:  # until it is done
            last = kills >= KILLS
            kind = "never" if last else ("touch", "time")[kills % 2]
            when = draw.randint(1, round(touches / 2)) if kind == "touch" else draw.uniform(0.1, 0.7) * seconds
            status, _, error_output = start(workdir, kind, when)
            if status == 0:
                break
            kills += 1
            where = re.findall(r"step \d+/\d+", error_output)
            print(f"kill {kills}: {kind} {when:.4g}, {where[-1] if where else 'before the first report'}")
        found = what_is_left(workdir)
        assert found == wanted
        assert not list((workdir / "checkpoints").glob("*tmp*")) and not list((workdir / "checkpoints").glob("*.deleted"))
        runs += 1
    print(f"{kills} kills, {runs} runs, each like the unbroken one: {len(wanted[0])} arrays, {len(wanted[1])} lines of metrics")


if __name__ == "__main__":
    serve()
