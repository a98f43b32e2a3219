"""Runs a test file as a program on eight simulated devices in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def eight(file: str, *arguments: str) -> Any:
    """The JSON that the program `file` prints."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # the memory that a program takes is counted where it is compiled
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    done = subprocess.run([sys.executable, file, *arguments], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    # What XLA says where it copies an array to every device for want of a way from one layout to the next.
    assert "Involuntary full rematerialization" not in done.stderr, done.stderr[:3000]
    return json.loads(done.stdout)
