"""Traces of requested updates: which updates, their location, and that the run is otherwise unchanged."""

import contextlib
import gzip
import io
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from transformer.training.telemetry import Telemetry
from transformer.training.tracing import traced


def run(folder, wanted, first=0, last=6):
    """Updates `first` + 1 to `last`; the state after them, the output, and the numbers of the updates in each trace."""
    stream = io.StringIO()
    step = jax.jit(lambda state, batch: (state + batch, {"sum": state * 2}))
    state = jnp.zeros(())
    with contextlib.ExitStack() as stack:
        telemetry = stack.enter_context(Telemetry(folder / "m.jsonl", folder / "events", first, 9, stream=stream))
        call = stack.enter_context(traced(step, first, wanted, folder / "profile", telemetry))
        for number in range(first + 1, last + 1):
            state, _ = call(state, jnp.float32(number))
    traces = []
    for path in (folder / "profile").rglob("perfetto_trace.json.gz"):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        traces.append(sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train"))
    return float(state), stream.getvalue(), traces


@pytest.mark.parametrize(
    ("wanted", "first", "last", "found"),
    [
        ((2, 4), 0, 6, [2, 3, 4]),
        ((6, 6), 4, 7, [6]),  # a run that was resumed: numbers are those of the whole
        ((2, 4), 2, 6, [3, 4]),  # between them
        ((5, 8), 3, 6, [5, 6]),  # stopped between them
    ],
)
def test_the_trace_has_the_updates_asked_for(tmp_path, wanted, first, last, found):
    state, output, traces = run(tmp_path, range(wanted[0], wanted[1] + 1), first, last)
    assert state == sum(range(first + 1, last + 1))
    assert traces == [found]
    assert (
        output.startswith(f"trace of updates {found[0]} to {found[-1]}: open {tmp_path}/profile/") and output.count("\n") == 1
    )
    named = re.search(r"open (\S+) at https", output)
    assert named is not None and Path(named[1]).is_file()


def test_requested_updates_that_are_already_done_are_reported(tmp_path):
    state, output, traces = run(tmp_path, range(2, 5), first=4)
    assert (state, output, traces) == (5 + 6, "no trace: update 4 is done already\n", [])
