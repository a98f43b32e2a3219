"""The layout of a run: the mode and the sizes of the mesh, which all parts of the program share."""

import contextlib
import io
import re

import jax
import pytest
import small

from transformer.config import Parallel
from transformer.errors import UserError
from transformer.modes import costs
from transformer.runtime import layout
from transformer.runtime.devices import Runtime
from transformer.validation import validate

CHOSEN = [  # settings, devices, processes; mode, sizes
    (Parallel(), 1, 1, "jit", (1, 1, 1)),
    (Parallel(), 8, 1, "pmap", (8, 1, 1)),
    (Parallel(fsdp=2), 8, 1, "mesh", (4, 2, 1)),
    (Parallel(tensor=2), 2, 1, "mesh", (1, 1, 2)),
    (Parallel(fsdp=2, tensor=2), 8, 1, "mesh", (2, 2, 2)),
    (Parallel(), 8, 2, "mesh", (8, 1, 1)),
    (Parallel("mesh"), 1, 1, "mesh", (1, 1, 1)),
    (Parallel("jit"), 8, 1, "jit", (1, 1, 1)),
    (Parallel("pmap"), 8, 1, "pmap", (8, 1, 1)),
]
REFUSED = [  # settings, devices, processes; what the line names
    (Parallel("pmap", fsdp=2), 8, 1, ["config.parallel.fsdp 2", "pmap"]),
    (Parallel("jit", tensor=2), 1, 1, ["config.parallel.tensor 2", "jit"]),
    (Parallel(fsdp=2), 1, 1, ["config.parallel.fsdp 2", "1 device"]),
    (Parallel("mesh", fsdp=3), 8, 1, ["config.parallel.fsdp 3", "8 devices"]),
    (Parallel("mesh", fsdp=8, tensor=2), 8, 1, ["config.parallel.fsdp 8", "config.parallel.tensor 2", "8 devices"]),
    (Parallel("pmap"), 8, 2, ["config.parallel.mode pmap", "2"]),
    (Parallel("jit"), 8, 2, ["config.parallel.mode jit", "2"]),
]


@pytest.mark.parametrize(("parallel", "devices", "processes", "mode", "sizes"), CHOSEN)
def test_the_mode_and_the_mesh(parallel, devices, processes, mode, sizes):
    found = layout.choose(parallel, devices, processes)
    assert (found.mode, tuple(found.sizes.values())) == (mode, sizes)
    assert found.used == (1 if mode == "jit" else devices) and found.row_parts == sizes[0] * sizes[1]


@pytest.mark.parametrize(("parallel", "devices", "processes", "named"), REFUSED)
def test_settings_without_effect_or_that_do_not_fit_are_a_line(parallel, devices, processes, named):
    with pytest.raises(UserError) as error:
        layout.choose(parallel, devices, processes)
    assert all(re.search(rf"{each}\b", str(error.value)) for each in named)


def test_copies_that_are_to_be_cut_are_refused_before_anything_is_read():
    with pytest.raises(UserError, match="config.parallel.fsdp 2"):
        validate(small.config(parallel__mode="pmap", parallel__fsdp=2))


@pytest.mark.parametrize(
    ("parallel", "devices", "wanted"),
    [
        (Parallel(fsdp=2, tensor=2), 8, "8 cpu devices: data 2 x fsdp 2 x tensor 2"),
        (Parallel(), 1, "1 cpu device"),
        (Parallel(), 2, "2 cpu devices: a copy of the parameters on each"),
        (Parallel("jit"), 2, "2 cpu devices, of which config.parallel.mode=jit uses the first"),
    ],
)
def test_what_is_printed_of_it(parallel, devices, wanted):
    assert layout.choose(parallel, devices).describe("cpu") == wanted


def test_describe_counts_the_memory_of_the_layout_that_training_uses(monkeypatch):
    """With one device, which needs no mesh; test_moves.py has a mesh of eight."""
    config = small.config(data__row_length=16, train__batch_tokens=64)
    found, real = [], costs.memory
    monkeypatch.setattr(costs, "memory", lambda *arguments: found.append(real(*arguments)) or found[-1])
    monkeypatch.setattr(costs.devices, "simulate", lambda count: None)  # devices are in use in this process
    with contextlib.redirect_stdout(io.StringIO()) as out:
        costs.describe(config, 1)
    assert f"{Runtime(config.parallel).layout.describe()}, batches of 4 rows of 16" in out.getvalue()
    assert jax.device_count() == 1 and found[0].arguments > sum(found[0].held.values()) - found[0].held["gradients"]


def test_describe_refuses_what_training_refuses():
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(UserError, match="config.parallel.fsdp 4"):
        costs.describe(small.config(parallel__fsdp=4), 2)
    assert out.getvalue() == ""
