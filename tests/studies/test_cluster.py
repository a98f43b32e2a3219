"""Studies on a Ray cluster: the same results as locally, with a node that is killed, a study that is stopped, and a failed arm.

The cluster is local: a head without runs, and nodes with one processor each, which are processes on this machine."""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
import small
import test_runs
from test_runs import alive, does, plan, table

from transformer.errors import UserError
from transformer.runtime.workdir import Workdir
from transformer.studies import results, workers

HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # of the tests' modules and of the library
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of three nodes; one of them is killed below."""
    pytest.importorskip("ray")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_worker_niceness", "0")  # else runs wait for whatever else this machine does
    patch.setenv("PYTHONPATH", os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")]))
    patch.setenv("PAUSE", "0.05")
    folder = tempfile.mkdtemp(prefix="ray")  # a short name: sockets are in it
    patch.setenv("RAY_TMPDIR", folder)  # where the cluster's address is written too, else over that of the user's own
    head = NODE | {"num_cpus": 0, "include_dashboard": False}
    made = importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(3):
            made.add_node(**NODE)
        yield made
    finally:
        made.shutdown()
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def on_cluster(nodes: Any, made: test_runs.plans.Plan, root: Path):
    with workers.joined(nodes.address, None) as place:
        return test_runs.run_all(made, root, place)


def begun(folder: Path) -> Path:
    """The rows of a run, once it has some."""
    rows = Workdir(folder).metrics_file
    while not (rows.exists() and rows.read_text().count("\n") > 1):
        time.sleep(0.02)
    return rows


@pytest.mark.slow
def test_the_same_results_as_here_but_for_a_failed_arm(nodes, tmp_path, monkeypatch):
    """And a relative workdir is where the study was started; the signals that Ray takes are given back."""
    monkeypatch.chdir(tmp_path)
    made = plan({"a": {}, "b": {"model.d_model": "16"}, "f": does("fail"), "k": does("killed")})
    test_runs.run_all(made, Path("here"), test_runs.Processes(1))
    before = signal.getsignal(signal.SIGTERM)
    results, output = on_cluster(nodes, made, Path("there"))
    assert signal.getsignal(signal.SIGTERM) == before
    assert not results.stopped and len(output.splitlines()) == 8
    rows = table(Path("there"))
    assert rows == table(Path("here"))
    assert [row["status"] for row in rows] == ["finished"] * 4 + ["failed"] * 4
    assert [row["error"] for row in rows[4:]] == ["divide by"] * 2 + [
        "ended by signal SIGKILL; was there too little memory?"
    ] * 2
    again, output = on_cluster(nodes, made, Path("there"))
    assert output.startswith("4 of 8 runs are done already") and table(Path("there")) == rows
    assert [len(fakes.starts(run.folder(Path("there")))) for run in made.runs({})] == [1, 1, 2, 2] * 2


@pytest.mark.slow
def test_a_run_goes_on_where_its_node_is_killed(nodes, tmp_path, monkeypatch):
    """What stands for the node is killed; the run's process ends with it, before the run is begun again."""
    made = plan({"a": {}, "s": does("slow")}, base=small.config(train__steps=200))
    test_runs.run_all(made, tmp_path / "here")
    victim = next(run for run in made.runs({}) if run.arm == "s").folder(tmp_path / "there")
    killed = []

    class Killing(workers.Task):
        """Kills the node of the first slow run, once that has begun."""

        def is_alive(self) -> bool:
            if not killed and (victim / "starts").exists() and Workdir(victim).metrics_file.exists():
                begun(victim)
                killed.append(node_of(nodes, fakes.starts(victim)[0]))
                nodes.remove_node(killed[0], allow_graceful=False)
            return super().is_alive()

    monkeypatch.setattr(workers, "Task", Killing)
    results, output = on_cluster(nodes, made, tmp_path / "there")
    assert killed and not results.stopped and "failed" not in output
    assert table(tmp_path / "there") == table(tmp_path / "here")
    assert len(fakes.starts(victim)) == 2 and not alive(fakes.starts(victim)[0])
    assert Workdir(victim).metrics_file.read_text().count('"train/loss"') == 200  # none of them twice
    assert "(1 of 5 times)" in victim.with_name(victim.name + ".log").read_text()


def node_of(nodes: Any, process: int) -> Any:
    """The node that a process of a run belongs to: its parent's parent is what stands for the node."""
    raylet = parent(parent(process))
    [found] = [node for node in nodes.worker_nodes if raylet in [each.process.pid for each in node.all_processes["raylet"]]]
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


STOPPED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import fakes
if __name__ == "__main__":
    import test_runs
    from transformer.studies import runs, workers
    with workers.joined(sys.argv[2], None) as place:
        results = runs.run_all(test_runs.slow(), Path(sys.argv[1]), fakes.train, place)
    print(results.stopped, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_study_that_is_stopped_goes_on(nodes, tmp_path, number):
    made, root = test_runs.slow(), tmp_path / "there"
    test_runs.run_all(made, tmp_path / "here")
    quick, slow = (run.folder(root) for run in made.runs({}))
    script = tmp_path / "script.py"
    script.write_text(STOPPED.format(paths=PATHS))
    process = subprocess.Popen([sys.executable, script, root, nodes.address], stdout=subprocess.PIPE, text=True)
    while not (results.read_workdir(quick, test_runs.TINY, ()) and Workdir(slow).metrics_file.exists()):
        assert process.poll() is None
        time.sleep(0.02)
    rows = begun(slow)
    process.send_signal(number)
    out, _ = process.communicate()
    assert (process.returncode, out) == ((-9, "") if number == signal.SIGKILL else (0, "True\n"))
    [child] = fakes.starts(slow)
    assert number == signal.SIGKILL or not alive(child)  # a stop waits for what is saved
    while alive(child):  # for ever, if it does not end with the study
        time.sleep(0.02)
    assert 1 < rows.read_text().count("\n") < 200
    assert slow.with_name(slow.name + ".seconds").exists() == (number != signal.SIGKILL)  # written by what ends by itself
    on_cluster(nodes, made, root)
    assert table(root) == table(tmp_path / "here")
    assert [len(fakes.starts(folder)) for folder in (quick, slow)] == [1, 2]


# --- without a cluster -------------------------------------------------------------------------------------------------


class NodeDiedError(Exception): ...


class RayTaskError(Exception): ...


class RayError(Exception): ...


class Ray:
    """What `workers.Task` uses of Ray. Its tasks are over at once: they return a number, or raise an error."""

    exceptions = SimpleNamespace(
        NodeDiedError=NodeDiedError,
        WorkerCrashedError=NodeDiedError,
        LocalRayletDiedError=NodeDiedError,
        RayTaskError=RayTaskError,
        RayError=RayError,
    )

    def __init__(self, *results: int | Exception):
        self.results, self.started, self.cancelled = list(results), 0, []

    def remote(self, *arguments: Any) -> int:
        self.started += 1
        return self.started - 1

    def wait(self, references: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return references, []

    def get(self, reference: int) -> int:
        result = self.results[reference]
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self, reference: int) -> None:
        self.cancelled.append(reference)


def task(folder: Path, *results: int | Exception) -> tuple[workers.Task, Ray]:
    ray = Ray(*results)
    return workers.Task(ray, ray, (fakes.train, test_runs.TINY, folder, "")), ray


def test_the_status_of_a_ray_task_is_the_status_of_the_run(tmp_path):
    log = tmp_path / "run.log"
    failed, _ = task(tmp_path / "run", RayTaskError("Traceback\n  line\nUserError: no folder\n\n"))
    assert not failed.is_alive() and failed.exitcode == 1 and log.read_text().endswith("\nUserError: no folder\n")
    failed, _ = task(tmp_path / "run", RayError("too little memory\nmuch more"))
    assert not failed.is_alive() and failed.exitcode == 1 and log.read_text().endswith("\ntoo little memory\n")


def test_a_run_loses_its_node_so_often_and_not_more(tmp_path):
    lost = [NodeDiedError("gone")] * workers.LOSSES
    ending, ray = task(tmp_path / "run", *lost[1:], 7)
    assert [ending.is_alive() for _ in range(workers.LOSSES)] == [True] * (workers.LOSSES - 1) + [False]
    assert ending.exitcode == 7
    ending, ray = task(tmp_path / "run", *lost)
    assert [ending.is_alive() for _ in lost] == [True] * (workers.LOSSES - 1) + [False]
    assert ending.exitcode == 1 and ray.started == workers.LOSSES
    stopped, ray = task(tmp_path / "run", *lost)
    stopped.terminate()
    assert not stopped.is_alive() and ray.started == 1 and ray.cancelled == [0]


def test_what_a_node_wrote_may_be_seen_late(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for change in ("seen", "time", "asked"):
        done, _ = task(folder, 0)
        assert done.is_alive() and done.exitcode == 0
        with monkeypatch.context() as patch:
            if change == "seen":
                Workdir(folder).evaluation_file("test").parent.mkdir(parents=True)
                Workdir(folder).evaluation_file("test").write_text("{}")
            elif change == "time":
                patch.setattr(workers, "SEEN", 0.0)
            else:
                done.terminate()
            assert not done.is_alive()
        shutil.rmtree(folder, ignore_errors=True)
    assert not task(folder, 1)[0].is_alive()


def test_a_node_sees_what_the_study_sees(tmp_path):
    for folder, current in ((tmp_path / "gone" / "run", tmp_path), (tmp_path / "run", tmp_path / "gone")):
        with pytest.raises(UserError, match=f"gone: {socket.gethostname()} has no such folder; .* share"):
            workers.on_node(fakes.train, test_runs.TINY, folder, str(current))


# An address, and its error.
WRONG = {
    "": "expected HOST:PORT, as `ray start --head` prints it, or auto",
    "head": "expected HOST:PORT",
    "ray://head:10001": "expected HOST:PORT",
    "localhost:99999": "nothing answers there",
    "localhost:1": "nothing answers there (",
}


@pytest.mark.parametrize("address", WRONG)
def test_a_wrong_address_is_a_line(address, monkeypatch):
    """Before Ray is asked, which waits for minutes."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    with pytest.raises(UserError) as error, workers.joined(address, None):
        pass
    assert str(error.value).startswith(f"--ray={address}: ") and WRONG[address] in str(error.value)


def test_what_ray_cannot_join_is_a_line(monkeypatch):
    def init(**more: Any) -> None:
        raise ConnectionError("no cluster\nmore")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    with pytest.raises(UserError, match="^--ray=auto: no cluster; start the study"), workers.joined("auto", None):
        pass


def test_resources_and_environment_of_runs(monkeypatch, tmp_path):
    """A GPU each where there are some; the study's variables of JAX; nothing to stdout."""
    output, asked = {}, {}

    def remote(**options: Any) -> Any:
        asked.update(options)
        return lambda function: function

    resources = {"CPU": 8.0}
    ray = SimpleNamespace(
        init=output.update, shutdown=lambda: None, cluster_resources=lambda: resources, remote=remote, wait=None, get=None
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with workers.joined("auto", None) as place:
        assert place.most > 10**9
    assert asked["num_cpus"] == 1 and "num_gpus" not in asked and asked["max_retries"] == 0
    variables = output["runtime_env"]["env_vars"]
    assert variables["JAX_PLATFORMS"] == "cpu" and all(name.startswith(("JAX_", "XLA_")) for name in variables)
    resources["GPU"] = 4.0
    asked.clear()
    with workers.joined("auto", 3) as place:
        assert place.most == 3
    assert asked["num_gpus"] == 1
