"""A folder on disk in which JAX keeps compiled programs, so that the next start does not compile them again."""

import contextlib
import hashlib
import os
import platform
import re
from pathlib import Path

import jax

ROOM = 2**30  # bytes of the whole cache
LEAST = 0.3  # seconds; programs that compile faster are not cached (reading one takes a tenth of that)


def enable() -> None:
    """Enables JAX's persistent compilation cache for this process and those that it starts.

    Call it before anything is compiled. The folder belongs to the user and is not the workdir: a workdir may be read-only or
    come from another person, and cached programs are executed without a check. Above `ROOM` bytes the oldest are deleted. The
    cache stays off if `JAX_ENABLE_COMPILATION_CACHE` is false, if the user has set `JAX_COMPILATION_CACHE_DIR` (JAX then uses
    that folder), if the folder is not writable, and in a run of several processes: only the first would write, and if it
    finds a program and does not compile, the others might wait for it.
    """
    if (
        not jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
        or jax.config.jax_compilation_cache_dir is not None  # type: ignore[attr-defined]
        or jax.distributed.is_initialized()
    ):
        return
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jax_transformer"
        folder = root / processor()
        root.parent.mkdir(parents=True, exist_ok=True)
        for each in (root, folder):
            each.mkdir(mode=0o700, exist_ok=True)
        make_room(root, ROOM)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return
    if not os.access(folder, os.W_OK):
        return
    for name, value in {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": LEAST}.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


def make_room(root: Path, room: int) -> None:
    """Deletes the oldest files below `root` until they have at most `room` bytes."""
    found = []
    for path in root.rglob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process deletes files at the same time
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= room:
            return
        path.unlink(missing_ok=True)
        total -= size


def processor() -> str:
    """A name for this kind of processor: JAX's keys do not distinguish instruction sets, and the hosts of a cluster may share
    a home folder."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else platform.processor()
    first = described.split("\n\n")[0]  # all cores are the same
    lasting = [
        line for line in first.splitlines() if re.match(r"(?i)vendor|cpu (family|impl|arch|var|part)|model|flags|feat", line)
    ]
    return f"{platform.machine()}-{hashlib.sha256(repr(lasting or described).encode()).hexdigest()[:12]}"
