"""Two processes on one machine as one run give the numbers of one process; stops, failures and refusals affect both.

This file is also the program of the processes: the command line, or a function of this file."""

import contextlib
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from trained import command, write_corpus

from transformer.config import Checkpoint, Parallel
from transformer.modes import training
from transformer.runtime import hosts
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.lock import only_run
from transformer.training.telemetry import TIMED, read_metrics

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds: nothing may take as long, however busy the machine is
EXPERIMENT = """
from transformer.components.rotary import Rotary
from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train

def get_config():
    return Config(
        model=Model(
            num_encoder_layers=1, num_decoder_layers=1, d_model=16, d_ff=16, num_heads=2, dropout_rate=0.2, positions=Rotary()
        ),
        data=Data(
            source="text", directory="data", vocabulary="characters", vocabulary_size=16, max_source_length=24,
            max_target_length=24, row_length=48,
        ),
        train=Train(steps=1000, batch_tokens=336, learning_rate=0.01, warmup_steps=5, log_every=1, evaluate_every=3),
        evaluate=Evaluate(scores=("exact_match", "chrf"), samples=100),
        search=Search(beam_size=1, batch_size=4, max_extra=3),
        checkpoint=Checkpoint(every_steps=100),
    )
"""


def known() -> dict:
    """A state with sharded and replicated parts, and a path that the rules know."""
    draw = np.random.default_rng(0)
    return {
        "logits": {"kernel": draw.normal(size=(8, 6)).astype(np.float32)},
        "odd": np.array([1 / 3, np.nan, -0.0], np.float32),
    }


def moves(folder: str) -> None:
    """Trains on a mesh of four devices in each process; then reads checkpoint 1, which one process wrote, sharded over the
    mesh, and writes it as 2. Then the first process is killed."""
    import jax

    from transformer.runtime.devices import Runtime

    trains_as_one_device()
    runtime = Runtime(Parallel(fsdp=4, tensor=2))
    assert [len(jax.devices()), len(jax.local_devices()), runtime.count] == [8, 4, 4]
    with contextlib.closing(Checkpoints(Path(folder), Checkpoint())) as checkpoints:
        state = checkpoints.restore(1, "state", runtime.like(known()))
        kernel = state["logits"]["kernel"]
        assert {part.data.shape for part in kernel.addressable_shards} == {(2, 3)}  # no process has all of it
        assert all(a is b for a, b in zip(*map(jax.tree.leaves, (runtime.place_state(state), state)), strict=True))
        whole = jax.jit(lambda x: (x @ x.T).sum())(kernel)  # of the parts of both
        np.testing.assert_allclose(whole, (known()["logits"]["kernel"] @ known()["logits"]["kernel"].T).sum(), rtol=1e-5)
        hosts.by_first(lambda: None)  # nobody reads any more
        checkpoints.save(2, {"state": state}, {"loss": 1.0})
    hosts.by_first(lambda: os.kill(os.getpid(), signal.SIGKILL))


def trains_as_one_device() -> None:
    """Three updates on one mesh of both processes, over which parameters are cut; each process has half of the rows."""
    import jax
    import small

    from transformer.models import axes
    from transformer.runtime.devices import Runtime

    config = small.config()
    first, train_step, _ = small.trainer(config)
    runtime = Runtime(Parallel(fsdp=4, tensor=2), axes=axes.of_model(config.model))
    assert {device.process_index for device in runtime.mesh.devices.flat} == {0, 1} and len(runtime.share[0]) == 2
    state, update = runtime.place_state(first), runtime.compile_train(train_step)
    alone, one = jax.jit(train_step), first
    for number in range(3):
        batch = small.batch(number, 16)
        own = [rows for part in runtime.share[0] for rows in range(4 * part, 4 * part + 4)]
        state, metrics = update(state, runtime.place_batch({name: rows[own] for name, rows in batch.items()}))
        one, wanted = alone(one, batch)
        np.testing.assert_allclose(runtime.fetch(metrics)["loss_sum"], float(wanted["loss_sum"]), rtol=1e-5)
    kernel = state.params["decoder"]["layers"]["feed_forward"]["inner"]["kernel"]
    assert {part.data.shape for part in kernel.addressable_shards} == {(1, 2, 4)}  # of 8 x 8


def main() -> None:
    if sys.argv[1] == "moves":
        with hosts.joined(sys.argv[3], 2, int(sys.argv[4])):
            return moves(sys.argv[2])
    import conftest  # noqa: F401  (what holds for every test holds here)

    from transformer import cli

    training.peak_flops = lambda devices: 1e11
    training.show = lambda *arguments: None  # pictures, which the first draws
    in_turn, late = hosts.in_turn, float(os.environ.get("LATE", 0))
    hosts.in_turn = lambda action: time.sleep(late) or in_turn(action)
    sys.argv[0] = "launch.py"
    cli.run()


def free_port(among: Iterable[int] = (0,)) -> int:
    """The first free port of these; 0 means any."""
    for port in among:
        with socket.socket() as held, contextlib.suppress(OSError):
            held.bind(("127.0.0.1", port))
            return held.getsockname()[1]
    raise OSError("no port is free")


class Process(subprocess.Popen):
    """This file as a program."""

    def __init__(self, folder: Path, *arguments, **environment: str):
        settings = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        settings |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # as in a run of several processes
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        words = [sys.executable, __file__, *map(str, arguments)]
        super().__init__(words, cwd=folder, env=os.environ | settings | environment, **pipes)

    def says(self, what: str) -> str:
        """The output to stderr, up to a line that contains `what`."""
        output = ""
        assert self.stderr
        for line in self.stderr:
            output += line
            if what in line:
                return output
        pytest.fail(f"no {what}: {output}")

    def ends(self) -> tuple[int, str, str]:
        """The exit status, and the remaining output to stdout and to stderr."""
        try:
            out, err = self.communicate(timeout=PATIENCE)
        finally:
            self.kill()
        return self.returncode, out, err


def pair(folder: Path, *arguments, second: tuple = (), late: float = 0) -> list[Process]:
    """The two processes of a run, which flags bring together; `second`: arguments of process 1 alone, which asks `late`, in
    seconds, what process 0 says."""
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    more = ((), second)
    return [Process(folder, *arguments, *more[n], *flags, f"--process_id={n}", LATE=str(n * late)) for n in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    write_corpus(folder / "data")
    (folder / "tiny.py").write_text(EXPERIMENT)
    return folder


@pytest.fixture(scope="module")
def stopped(folder):
    """A run that a signal to process 1 stopped; SLURM variables connect the processes. The output of each, and the step."""
    jobs = 2**16 - 2**12  # JAX makes a port of a job's number, above this one
    job = free_port(random.sample(range(jobs, 2**16), 100)) - jobs
    slurm = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    each = [
        Process(folder, "--config=tiny.py", "--workdir=run", **slurm, SLURM_PROCID=str(n), SLURM_LOCALID=str(n)) for n in (0, 1)
    ]
    output = each[0].says("step 3/1000")
    each[1].send_signal(signal.SIGTERM)
    (first, out, err), second = (process.ends() for process in each)
    output += err
    assert (first, out, second) == (0, "", (0, "", "")), output
    return output, int(output.split("stopped after step ")[1].split()[0])


@pytest.fixture(scope="module")
def finished(folder, stopped):
    """That run, resumed by two processes for four more updates, and its output."""
    each = pair(folder, "--config=tiny.py", "--workdir=run", f"--config.train.steps={stopped[1] + 4}")
    (first, out, err), second = (process.ends() for process in each)
    assert (first, second) == (0, (0, "", "")), err
    assert f"resumes after step {stopped[1]} of" in err
    return out


@pytest.fixture(scope="module")
def alone(folder, stopped):
    """The same with one process and without a stop; its batches have no empty rows."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "show", lambda *arguments: None)
        result = command("--config=tiny.py", "--workdir=alone", f"--config.train.steps={stopped[1] + 4}")
    assert result.status == 0, result.err
    return result.out


@pytest.mark.slow
def test_two_processes_agree_when_to_stop_and_share_one_checkpoint(folder, stopped):
    output, step = stopped
    assert "2 cpu devices: data 2 x fsdp 1 x tensor 1, 2 processes" in output
    assert step >= 4 and f"stopped after step {step} of 1,000, saved" in output
    assert (folder / "run" / "checkpoints" / str(step) / "manifest.json").is_file()


@pytest.mark.slow
def test_losses_of_two_processes_are_those_of_one(folder, finished, alone):
    """With dropout, stopped and resumed: the same examples, each exactly once."""
    two, one = ([{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(folder / name / "metrics.jsonl")]
                for name in ("run", "alone"))  # fmt: skip
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for a, b in zip(two, one, strict=True):
        for name in ("train/loss", "train/gradient_norm", "validation/loss"):
            if name in b:
                assert a[name] == pytest.approx(b[name], rel=2e-5), (name, a["step"])
    losses = [row["train/loss"] for row in one if "train/loss" in row]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.slow
def test_what_they_say_of_a_split_is_put_together_in_order(folder, finished, alone):
    found, wanted = (json.loads((folder / name / "evaluation" / "test.json").read_text()) for name in ("run", "alone"))
    assert found["samples"] == wanted["samples"] and len(wanted["samples"]) == 12
    assert found["scores"] == pytest.approx(wanted["scores"], rel=1e-4)
    assert finished.splitlines()[0] == alone.splitlines()[0]


@pytest.mark.slow
def test_one_that_is_killed_ends_the_other_in_a_line(folder, finished):
    first, second = pair(folder, "--config=tiny.py", "--workdir=run", "--config.train.steps=100000")
    first.says("resumes after step")
    first.says("step ")
    second.kill()
    status, out, err = first.ends()
    second.ends()
    assert status == 1 and out == ""
    assert err.splitlines()[-1].startswith("launch.py: another process of this run ended") and "Traceback" not in err, err


@pytest.mark.slow
def test_different_settings_are_a_line_of_each(folder):
    each = pair(folder, "--config=tiny.py", "--workdir=other", second=("--config.train.learning_rate=0.5",))
    line = (
        "launch.py: process 1 has config.train.learning_rate 0.5, process 0 has 0.01; start all processes by the same command, "
        "with a --workdir that all share\n"
    )
    assert [process.ends() for process in each] == [(2, "", line)] * 2
    assert not (folder / "other").exists()


@pytest.mark.slow
def test_a_workdir_that_is_trained_is_refused_by_both(folder, finished):
    before = sorted(folder.glob("run/**/*"))
    with only_run(folder / "run"):
        each = pair(folder, "--config=tiny.py", "--workdir=run", "--config.train.steps=100000", late=3)
        line = f"launch.py: --workdir=run: it is in use by a run (process {os.getpid()}); wait until it ends, or choose another"
        for status, out, err in [process.ends() for process in each]:
            assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(line)
    assert sorted(folder.glob("run/**/*")) == before


@pytest.mark.slow
def test_updates_that_are_not_finite_are_skipped_and_end_the_run_on_both(folder):
    """The first update's step is too large: the next two are skipped, one more than allowed."""
    settings = {"learning_rate": 1e30, "warmup_steps": 0, "schedule": "constant", "max_skipped": 1}
    each = pair(folder, "--config=tiny.py", "--workdir=far", *(f"--config.train.{k}={v}" for k, v in settings.items()))
    for end, (status, out, err) in zip(("npz", "process_1.npz"), [process.ends() for process in each], strict=True):
        assert (status, out) == (2, "")
        assert "not finite in 2 updates in a row, the last 3" in err and f"its batch is far/not_finite_3.{end};" in err
    first, second = (np.load(folder / "far" / f"not_finite_3.{end}")["targets"] for end in ("npz", "process_1.npz"))
    assert first.shape == second.shape and not np.array_equal(first, second)  # the rows of each
    assert [row["step"] for row in read_metrics(folder / "far" / "metrics.jsonl") if "train/skipped" in row] == [2, 3]


@pytest.mark.slow
def test_two_processes_of_four_devices_train_as_one_and_read_and_write_its_checkpoint_to_the_bit(tmp_path):
    """Then the first process, which coordinates the others, is killed."""
    with contextlib.closing(Checkpoints(tmp_path, Checkpoint())) as checkpoints:
        checkpoints.save(1, {"state": known()})
        checkpoints.wait()
        port = free_port()
        four = "--xla_force_host_platform_device_count=4"
        first, second = (Process(tmp_path, "moves", tmp_path, f"127.0.0.1:{port}", n, XLA_FLAGS=four) for n in range(2))
        status, _, err = second.ends()
        assert status == 1 and ": another process of this run ended" in err and err.count("\n") == 1
        assert first.ends()[0] == -signal.SIGKILL
        assert checkpoints.sound(notice=pytest.fail) == [1, 2]
        back = checkpoints.restore(2, "state", known())
    assert back["logits"]["kernel"].tobytes() == known()["logits"]["kernel"].tobytes()
    assert back["odd"].tobytes() == known()["odd"].tobytes()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--num_processes=2"], "--num_processes=2 needs --coordinator and --process_id; SLURM, TPU pods and Kubernetes"),
        (["--coordinator=a:1"], "--coordinator=a:1 needs --num_processes and --process_id"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "--process_id=2: expected a number from 0 to 1"),
        (["--coordinator=a", "--num_processes=2", "--process_id=0"], "--coordinator=a: expected HOST:PORT"),
        (["--mode=translate", "--process_id=0"], "--process_id: --mode=translate does not use it"),
    ],
)
def test_flags_that_do_not_fit_together_are_a_line(flags, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command(*flags)
    assert result.status == 2 and line in result.err and result.err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),  # inside an allocation, but not started by srun
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_a_cluster_is_known_by_its_variables(environment, wanted):
    assert hosts.in_cluster(environment) is wanted


@pytest.mark.parametrize(
    ("chips", "status", "wanted"), [(True, 200, True), (True, 404, False), (True, None, False), (False, 200, False)]
)
def test_a_host_of_a_tpu_slice_is_known_by_its_chips_and_its_metadata(chips, status, wanted, monkeypatch):
    """`status`: what the metadata server answers; None: there is none, as on a single machine with a TPU."""
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port if status else 1  # where nobody listens
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{port}")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # as JAX does without chips
    if chips:
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert hosts._on_tpu_vm() is wanted
    server.shutdown()
    path = "/computeMetadata/v1/instance/attributes/agent-worker-number"
    assert asked == ([(path, "Google")] if status and chips else [])


if __name__ == "__main__":
    main()
