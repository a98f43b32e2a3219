"""What JAX compiles is kept on disk, for the next start."""

import contextlib
import hashlib
import os
import platform
import re
from pathlib import Path

import jax

ROOM = 2**30  # bytes of what is kept
LEAST = 0.3  # seconds that a program took to compile to be kept: reading one back takes a tenth of that


def keep() -> None:
    """Lets this process, and those that it starts, keep what they compile on disk, and look there first.

    To be called before anything is compiled. The folder is the user's own, not the workdir: that may be read-only, or come from
    somebody else, and what is kept is run as it is. What takes more than `ROOM` goes, the oldest first. Nothing is kept where
    `JAX_ENABLE_COMPILATION_CACHE` is false, where the user has set `JAX_COMPILATION_CACHE_DIR` (JAX then uses that one), where
    the folder cannot be written, or by one of several processes: only the first would write, and what it finds, and need not
    compile, the others might wait for.
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
    except (OSError, RuntimeError):  # the latter: there is no home
        return
    if not os.access(folder, os.W_OK):
        return
    for name, value in {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": LEAST}.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


def make_room(root: Path, room: int) -> None:
    """Takes what was written longest ago away, until the files below `root` have `room` bytes at most."""
    found = []
    for path in root.rglob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= room:
            return
        path.unlink(missing_ok=True)
        total -= size


def processor() -> str:
    """A name for this kind of processor. JAX's own keys do not tell apart those that differ in their instructions, and hosts of
    a cluster may share a home."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else platform.processor()
    first = told.split("\n\n")[0]  # of many that are the same
    lasting = [
        line for line in first.splitlines() if re.match(r"(?i)vendor|cpu (family|impl|arch|var|part)|model|flags|feat", line)
    ]
    return f"{platform.machine()}-{hashlib.sha256(repr(lasting or told).encode()).hexdigest()[:12]}"
