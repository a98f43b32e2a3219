"""Checkpoints move between layouts: each layout reads bitwise what another wrote, and trains on; the memory of a layout.

Eight devices are simulated in a separate process, whose program is this file."""

import contextlib
import dataclasses
import io
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import simulated
import small

from transformer.config import Checkpoint, Parallel
from transformer.models import axes
from transformer.modes import costs
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.devices import Runtime
from transformer.training import state_files

ROWS = 16
LAYOUTS = {  # how, and on how many devices
    "jit 1": (Parallel("jit"), 1),
    "pmap 2": (Parallel("pmap"), 2),
    "fsdp 4": (Parallel("mesh", fsdp=4), 4),
    "2 x 2 x 2": (Parallel("mesh", fsdp=2, tensor=2), 8),
}
SETTINGS = {"train__ema_decay": 0.9}
KINDS = ("adam", "adafactor, remat")


def moved(folder: Path) -> dict:
    """Each layout in turn reads the checkpoint of the previous one, makes an update, and writes: two rounds. Also all in one
    layout."""
    first, train_step, _ = small.trainer(small.config(**SETTINGS))
    runtimes = {
        name: Runtime(parallel, jax.devices()[:count], axes.of_model(small.config().model))
        for name, (parallel, count) in LAYOUTS.items()
    }
    updates = {name: runtime.compile_train(train_step) for name, runtime in runtimes.items()}
    like = jax.tree.map(np.asarray, first)

    def run(names: list[str], folder: Path) -> tuple[list[float], list[bool], list[list[bool]], Checkpoints]:
        losses, same, parts = [], [], []
        checkpoints = Checkpoints(folder, Checkpoint(keep_last=20))
        state_files.save(checkpoints, 0, first, {})
        for number, name in enumerate(names):
            runtime = runtimes[name]
            read = state_files.restore(checkpoints, number, like)
            divided = state_files.restore(checkpoints, number, runtime.like(first))
            state = runtime.place_state(divided)
            if runtime.mesh is not None:
                parts.append(
                    [a.sharding == b.sharding for a, b in zip(*map(jax.tree.leaves, (divided, state)), strict=True)][1:]
                )  # all but the number of the step, which is no item
            back = runtime.single(state)
            pairs = zip(jax.tree.leaves(read), jax.tree.leaves(back), strict=True)
            same.append(all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs))
            state, metrics = updates[name](state, runtime.place_batch(small.batch(number, ROWS)))
            losses.append(runtime.fetch(metrics)["loss_sum"])
            state_files.save(checkpoints, number + 1, runtime.single(state), {})
            written = state_files.restore(checkpoints, number + 1, like)
            pairs = zip(jax.tree.leaves(written), jax.tree.leaves(runtime.single(state)), strict=True)
            same[-1] &= all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
        return losses, same, parts, checkpoints

    names = [*LAYOUTS, *reversed(LAYOUTS)]
    with contextlib.ExitStack() as stack:
        losses, same, parts, moving = run(names, folder / "moving")
        stack.enter_context(contextlib.closing(moving))
        wanted, _, _, staying = run(["jit 1"] * len(names), folder / "staying")
        stack.enter_context(contextlib.closing(staying))
        kernel = "decoder/layers/feed_forward/inner/kernel"
        pieces = {
            name: moving._read(number + 1, "params", {})[kernel].storage.chunk_shape for number, name in enumerate(LAYOUTS)
        }
    return {"same": same, "losses": losses, "wanted": wanted, "parts": parts, "pieces": pieces}


def counted() -> dict:
    """Bytes of a device as they are counted, and as the compiler counts them; and what --mode=describe prints of the first.

    To be called first: it says how many devices there are.
    """
    sizes = {"model__d_model": 128, "model__d_ff": 128, "model__num_encoder_layers": 4, "model__num_decoder_layers": 4}
    sizes |= {"data__row_length": 64, "train__batch_tokens": 64 * 64, "parallel__fsdp": 2, "parallel__tensor": 2}
    found, real = [], costs.memory
    costs.memory = lambda *arguments: found.append(real(*arguments)) or found[-1]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        costs.describe(small.config(**sizes, train__ema_decay=0.9), 8, 0.1)
    real_config = small.config(**sizes, train__optimizer="adafactor", model__remat="full")
    found.append(real(real_config, small.DATA_INFO, 64))
    return {"described": out.getvalue(), "memory": dict(zip(KINDS, map(dataclasses.asdict, found), strict=True))}


@pytest.fixture(scope="module")
def eight():
    return simulated.eight(__file__)


@pytest.mark.slow
def test_what_a_layout_wrote_every_other_reads_to_the_bit_and_trains_on(eight):
    moved = eight["moved"]
    assert moved["same"] == [True] * 2 * len(LAYOUTS)
    assert moved["losses"] == pytest.approx(moved["wanted"], rel=1e-5)
    assert moved["losses"][-1] != moved["losses"][0]


@pytest.mark.slow
def test_each_device_reads_and_writes_its_own_part(eight):
    """No complete array is on the host in between: a mesh reads arrays with their sharding, and files contain the pieces of a
    device."""
    assert all(all(each) for each in eight["moved"]["parts"]) and len(eight["moved"]["parts"]) == 4
    # On 2 x 2 x 2 devices there are two copies of each part, and each writes half of it.
    wanted = {"jit 1": [1, 8, 8], "pmap 2": [1, 8, 8], "fsdp 4": [1, 2, 8], "2 x 2 x 2": [1, 2, 4]}
    assert eight["moved"]["pieces"] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_a_device_are_those_that_the_compiler_counts(eight, kind):
    """All but the gradients are arguments of a step, and the batch: nine arrays of 64 rows of 64, a quarter of them."""
    found = eight["counted"]["memory"][kind]
    state = sum(found["held"].values()) - found["held"]["gradients"]
    batch = 9 * 4 * 64 * 64 // 4
    assert found["layout"] == "8 devices: data 2 x fsdp 2 x tensor 2"
    assert state == pytest.approx(found["arguments"] - batch, rel=0.02)
    assert ("moving average" in found["held"]) == (kind == "adam")


@pytest.mark.slow
def test_remat_takes_less_memory_on_a_mesh(eight):
    memory = eight["counted"]["memory"]
    assert memory["adafactor, remat"]["temporary"] < 0.8 * memory["adam"]["temporary"]


@pytest.mark.slow
def test_describe_says_whether_a_device_holds_it(eight):
    *_, mesh, parameters, gradients, moments, average, activations, total, verdict = eight["counted"]["described"].splitlines()
    assert mesh == "8 devices: data 2 x fsdp 2 x tensor 2, batches of 64 rows of 64: MB on each device"
    names = [
        "parameters",
        "gradients",
        "optimizer",
        "moving average",
        "activations and temporary arrays, compiled for CPUs",
        "total",
    ]
    lines = [parameters, gradients, moments, average, activations, total]
    assert all(line.strip().startswith(name) for line, name in zip(lines, names, strict=True))
    memory = eight["counted"]["memory"]["adam"]
    whole = (sum(memory["held"].values()) + memory["temporary"]) / 2**30
    assert verdict == f"fits in 0.1 GiB: {whole:.2f} GiB, {whole / 0.1:.0%}" and whole < 0.1
    large = costs.Memory("", "", {"parameters": 2**30}, 2**29, 0)
    assert costs.table(large, 1.5).splitlines()[-1] == "fits in 1.5 GiB: 1.50 GiB, 100%"
    assert costs.table(large, 1.4).splitlines()[-1] == "does not fit in 1.4 GiB: 1.50 GiB, 107%"


if __name__ == "__main__":
    import conftest  # noqa: F401  (what holds for every test holds here)

    with tempfile.TemporaryDirectory() as made:
        print(json.dumps({"counted": counted(), "moved": moved(Path(made))}))
