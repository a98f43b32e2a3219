"""The cache of compiled programs: used by the next start, in a separate folder, with limited size; and when it is off."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from transformer.runtime import compilation_cache

ROOT = Path(__file__).resolve().parents[2]
START = """
import jax, jax.numpy as jnp
from transformer.runtime import compilations, compilation_cache
events = []
jax.monitoring.register_event_listener(lambda event, **more: events.append(event))
compilation_cache.enable()
print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones(3))))
print(events.count("/jax/compilation_cache/cache_hits"), compilations.count())
"""


def test_the_second_start_finds_what_the_first_compiled(tmp_path):
    more = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    more |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    clean = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    outputs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", START], env=clean | more, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(done.stdout.split())
    (first, hits, compiled), (second, hits_again, compiled_again) = outputs
    assert first == second and compiled == compiled_again  # both are counted alike
    kept = list((tmp_path / "jax_transformer" / compilation_cache.processor()).iterdir())
    assert int(hits) == 0 < int(hits_again) == len(kept)
    assert (tmp_path / "jax_transformer").stat().st_mode & 0o77 == 0


NAMES = ("jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def enabled(monkeypatch, tmp_path):
    """As in a user's process; nothing is compiled in the meantime, and the settings are restored afterwards."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_processes_that_are_started_keep_theirs_there_too(enabled, tmp_path):
    compilation_cache.enable()
    folder = str(tmp_path / "cache" / "jax_transformer" / compilation_cache.processor())
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == jax.config.jax_compilation_cache_dir == folder  # type: ignore[attr-defined]


@pytest.mark.parametrize("why", ["disabled", "set by the user", "one of several processes", "a file in its place"])
def test_nothing_is_kept(enabled, monkeypatch, tmp_path, why):
    wanted = None
    if why == "disabled":
        jax.config.update("jax_enable_compilation_cache", False)
    elif why == "set by the user":
        jax.config.update("jax_compilation_cache_dir", wanted := str(tmp_path / "theirs"))
    elif why == "one of several processes":
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    else:
        (tmp_path / "cache").write_text("")
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == wanted  # type: ignore[attr-defined]
    assert not [name for name in os.environ if name.startswith("JAX_")] and not (tmp_path / "cache").is_dir()


def test_the_oldest_make_room(tmp_path):
    for number, name in enumerate(("b", "a/d", "a/c")):
        path = tmp_path / f"{name}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10))
        os.utime(path, (number, number))
    for room, left in ((30, ["a/c", "a/d", "b"]), (29, ["a/c", "a/d"]), (10, ["a/c"]), (0, [])):
        compilation_cache.make_room(tmp_path, room)
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*-cache")) == [
            f"{name}-cache" for name in left
        ]
