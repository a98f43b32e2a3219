"""Settings of all tests: how JAX checks shapes and compiles, which process runs a test, and which tests may be skipped."""

import gc
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tests compile hundreds of programs and run each for milliseconds. This leaves a program, its types and the order of its
# sums' operands as they are; rounding differs, inside every test's tolerance. Processes that tests start do the same. To run
# the tests on code as users get it: JAX_DISABLE_MOST_OPTIMIZATIONS=0 python -m pytest.
QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ
if QUICK:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Silent broadcasting between ranks hides mistakes in shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")

if QUICK and jax.__version_info__ < (0, 11):  # XLA ends the process on a flag that it no longer has
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"

# --- processes ---------------------------------------------------------------------------------------------------------

_compiled = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """A program is compiled once per session: other processes of pytest, and processes that tests start, find what one has
    compiled.

    The folder is that of JAX_COMPILATION_CACHE_DIR, as .ci/run sets it for its sessions. Else it is new and is deleted at the
    end.
    """
    if not hasattr(config, "workerinput"):
        settings: dict[str, Any] = {"persistent_cache_min_compile_time_secs": 0.05}
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            settings["compilation_cache_dir"] = config.stash[_compiled] = tempfile.mkdtemp()
        for name, value in settings.items():
            os.environ[f"JAX_{name.upper()}"] = str(value)
            jax.config.update(f"jax_{name}", value)


def pytest_collection_finish() -> None:
    """Collect garbage less often: tracing makes many objects, and each full collection visits all tests and modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _compiled in config.stash:
        shutil.rmtree(config.stash[_compiled], ignore_errors=True)


# Files that use the run of trained.py or what it compiles. One process runs them all, so that it is made only once.
TRAINED = re.compile(r"\btrained\.run\(|\btranslator\(|^(import|from) places\b", re.MULTILINE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return scopes.setdefault(file, "trained" if TRAINED.search((config.rootpath / file).read_text()) else file)

    scopes: dict[str, str] = {}
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


# --- slow tests --------------------------------------------------------------------------------------------------------

# Tests that took the most processor time when they were last measured (--times). slow.txt keeps them out of the plain run;
# thorough.txt keeps slow ones out of .ci/run too, where others check the same property. Other tests are marked in their files.
MARKED = {
    mark: frozenset((Path(__file__).parent / f"{mark}.txt").read_text(encoding="utf-8").splitlines())
    for mark in ("slow", "thorough")
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, tests in MARKED.items():
            if item.nodeid in tests:
                item.add_marker(mark)
        if item.get_closest_marker("thorough"):
            item.add_marker("slow")


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before, path = _processor_seconds(), item.config.getoption("--times")
    result = yield
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{_processor_seconds() - before:.2f} {item.nodeid}\n")
    return result


# --- skips -------------------------------------------------------------------------------------------------------------

# What a machine may lack: shared data, a GPU, what tests/parity compares with, an extra. Any other skip is a test that is gone.
EXPECTED = re.compile(
    r"TRANSFORMER_DATA|\bGPU\b|\bChromium\b|could not import '(torch|transformers|ray|wandb|mlflow|lm_eval)'|tokamax is not"
)
_skipped: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", metavar="FILE", help="add each test's seconds of processor time to a file; best with -n 0")
    parser.addoption(
        "--few-skips", action="store_true", help="fail where a test is skipped for want of anything but " + EXPECTED.pattern
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not EXPECTED.search(reason):
            _skipped[report.nodeid] = reason


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and session.config.getoption("--few-skips") and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _skipped and config.getoption("--few-skips"):
        terminalreporter.section("skipped, and should not be")
        for test, reason in _skipped.items():
            terminalreporter.write_line(f"{test}: {reason}")


# --- what tests of models share ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def draw():
    """A module's variables, drawn and not initialized: no bias is zero, no norm's factor is one, and nothing is compiled."""

    def draw(module, *arguments, **keywords):
        generator = np.random.default_rng(1)

        def number(path, leaf):
            near = 1.0 if path[-1].key == "scale" else 0.0
            return jax.numpy.asarray(near + generator.normal(scale=0.3, size=leaf.shape), leaf.dtype)

        shapes = jax.eval_shape(lambda key: module.init(key, *arguments, **keywords), jax.random.key(0))
        return jax.tree.map_with_path(number, shapes)

    return draw
