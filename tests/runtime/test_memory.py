"""The process reuses freed buffers, whatever thread freed them."""

import ctypes
import os
import subprocess
import sys

import pytest
from trained import ROOT

WORK = """
import os, resource, threading
from transformer.runtime.memory import keep_freed_memory
print(len(os.listdir("/proc/self/task")))
if {keep}:
    keep_freed_memory()
import transformer.cli.main  # starts threads

def buffers():
    for _ in range(10):
        bytearray(80_000_000)

def faults(threads):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = [faults([threading.Thread(target=buffers) for _ in range(2)]) for _ in range(2)]
print(found[1] * resource.getpagesize() / (20 * 80e6))
"""


def of(keep):
    """Threads before the command line asks, and the share of the buffers' pages that the system cleared in the second round."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    program = [sys.executable, "-c", WORK.format(keep=keep)]
    output = subprocess.run(program, cwd=ROOT, env=clean, capture_output=True, text=True, check=True).stdout.split()
    return int(output[0]), float(output[1])


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="it is glibc's memory that is kept",
)
def test_freed_buffers_are_used_again_by_every_thread():
    threads, cleared = of(keep=True)
    assert threads == 1  # or threads that are there already would have memory of their own
    assert cleared < 0.2
    assert of(keep=False)[1] > 0.9  # so that the test tells the two apart
