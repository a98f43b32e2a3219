"""Checkpoints: bitwise round trips, which ones are kept, and the state and message after a failure."""

import contextlib
import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer.config import Checkpoint
from transformer.errors import UserError
from transformer.runtime.checkpoints import Checkpoints, average

pytestmark = pytest.mark.filterwarnings("error")  # deprecated parts of the library would warn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(tmp_path):
    """Creates `Checkpoints`, all in one folder by default; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def new(folder=tmp_path / "checkpoints", **settings) -> Checkpoints:
            return stack.enter_context(contextlib.closing(Checkpoints(folder, Checkpoint(**settings))))

        yield new


@contextlib.contextmanager
def full_disk():
    """No file can exceed 20 kB: the system refuses to write more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def same(tree, other) -> bool:
    """Structure, types and every bit."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(tree) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
    )


def example(seed=0):
    """Parameters of several types, with values that a conversion to text or to another type would change."""
    draw = np.random.default_rng(seed)
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1 / 3], np.float32)
    payload = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)  # NaNs that differ in their bits only
    return {
        "encoder": {"kernel": jnp.asarray(draw.normal(size=(5, 3)).astype(np.float32)), "odd": jnp.asarray(odd)},
        "payload": jnp.asarray(payload),
        "half": jnp.asarray(draw.normal(size=7), jnp.bfloat16),
        "count": jnp.asarray(2**31 - 1, jnp.int32),
        "small": jnp.arange(-3, 3, dtype=jnp.int8),
        "flags": jnp.asarray([True, False]),
        "key": jnp.asarray([2**32 - 1, 5], jnp.uint32),
    }


def trained():
    """Parameters and the state of a chain with named tuples, empty states and counts of schedules, after an update."""
    params = {"layer": {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4), "bias": jnp.ones(4)}}
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule), optax.add_decayed_weights(0.1))
    _, state = optimizer.update(jax.tree.map(jnp.sin, params), optimizer.init(params), params)
    return params, state


def table(values) -> dict:
    return {"w": jnp.asarray(values, jnp.float32)}


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_what_comes_back_is_what_went_in_to_the_bit(make):
    params, (trained_params, state) = example(), trained()
    saver = make()
    saver.save(8, {"params": params, "optimizer": state, "average": None, "others": trained_params})
    saver.close()
    fresh = make()
    assert fresh.steps() == [8]
    for like in (lambda tree: tree, lambda tree: jax.eval_shape(lambda: tree)):
        assert same(fresh.restore(8, "params", like(params)), params)
        assert same(fresh.restore(8, "optimizer", like(state)), state)
        assert same(fresh.restore(8, "others", like(trained_params)), trained_params)
    assert fresh.restore(8, "average", None) is None
    host, device = fresh.restore(8, "params", jax.tree.map(np.asarray, params)), fresh.restore(8, "params", params)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host)) and same(host, params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(device))


def test_an_item_is_read_without_the_others(make):
    params, state = trained()
    checkpoints = make()
    checkpoints.save(1, {"params": params, "optimizer": state})
    checkpoints.wait()
    for file in (checkpoints.folder / "1" / "optimizer").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert same(make().restore(1, "params", params), params)


def test_buffers_may_be_donated_or_overwritten_once_save_returns(make):
    @jax.jit
    def start():
        return {"w": jnp.arange(300_000, dtype=jnp.float32), "b": jnp.ones(7)}

    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * -3 + 1, tree), donate_argnums=0)
    checkpoints, state, host = make(keep_last=9), start(), np.arange(300_000)
    expected = {}
    for step in range(1, 5):
        expected[step] = (jax.tree.map(lambda x: np.array(x), state), host.copy())
        checkpoints.save(step, {"state": state, "host": {"rows": host}})
        old, state = state, update(state)
        host[:] = -step
        assert old["w"].is_deleted()  # else nothing was donated, and this is no test
        old = None
    for step, (tree, rows) in expected.items():
        assert same(checkpoints.restore(step, "state", start()), jax.device_put(tree))
        assert same(checkpoints.restore(step, "host", {"rows": host}), {"rows": rows})
    restored = checkpoints.restore(4, "state", start())  # and what was restored may be donated
    assert same(update(restored), update(jax.tree.map(jnp.array, expected[4][0])))


LOSSES = {10: 5.0, 20: 2.0, 30: None, 40: 3.0, 50: float("nan"), 60: 2.0, 70: 4.0, 80: 9.0}


@pytest.mark.parametrize(("last", "best"), [(1, 0), (1, 1), (2, 2), (3, 1), (1, 9)])
def test_the_last_and_the_best_are_kept(make, last, best):
    """After every save, the ones to keep are computed here from all that were ever saved."""
    checkpoints, saved = make(keep_last=last, keep_best=best, best_metric="validation/loss"), []
    for step, loss in LOSSES.items():
        metrics = {"other": -float(step)} | ({} if loss is None else {"validation/loss": loss})
        checkpoints.save(step, {"params": table([step])}, metrics)
        saved.append(step)
        by_loss = sorted((LOSSES[s], s) for s in saved if LOSSES[s] is not None and LOSSES[s] == LOSSES[s])
        assert checkpoints.steps() == sorted({*saved[-last:], *(s for _, s in by_loss[:best])})
        assert sorted(path.name for path in checkpoints.folder.iterdir()) == sorted(map(str, checkpoints.steps()))
        assert checkpoints.latest() == step
        present = [s for _, s in by_loss if s in checkpoints.steps()]
        assert checkpoints.best() == (present[0] if present else None)
    assert make().best() == checkpoints.best()
    assert checkpoints.metrics(80) == {"other": -80.0, "validation/loss": 9.0}


def test_metrics_that_were_not_given(make):
    checkpoints = make(keep_best=2)
    checkpoints.save(1, {"params": table([1])})
    assert checkpoints.metrics(1) == {} and checkpoints.best() is None and checkpoints.latest() == 1


def test_an_empty_folder_has_none_and_is_not_made_by_looking(make):
    checkpoints = make()
    assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
    assert not checkpoints.folder.exists()


def test_average_is_the_mean_in_float64(make):
    checkpoints, draw = make(keep_last=9), np.random.default_rng(1)
    rows = [draw.normal(size=(4, 3)).astype(np.float32) for _ in range(3)]
    cancelling = [1e8, 1.0, -1e8]  # in float32 their sum is 0
    trees = [{"a": {"w": jnp.asarray(r)}, "c": jnp.float32(c)} for r, c in zip(rows, cancelling, strict=True)]
    for step, tree in enumerate(trees):
        checkpoints.save(step, {"params": tree})
    mean = average(checkpoints, checkpoints.steps(), "params", trees[0])
    np.testing.assert_array_equal(mean["a"]["w"], np.mean(np.asarray(rows, np.float64), axis=0).astype(np.float32))
    assert mean["c"] == np.float32(1 / 3) and mean["c"].dtype == jnp.float32
    two = average(checkpoints, [0, 2], "params", trees[0])
    np.testing.assert_array_equal(two["a"]["w"], ((np.float64(rows[0]) + rows[2]) / 2).astype(np.float32))
    assert same(average(checkpoints, [1], "params", trees[0]), trees[1])
    assert "no checkpoint" in message(average, make(checkpoints.folder / "none"), [], "params", trees[0])


def test_half_written_and_half_deleted_ones_are_not_there_and_go_away(make):
    checkpoints = make()
    checkpoints.save(10, {"params": table([1])})
    checkpoints.wait()
    (checkpoints.folder / "20" / "params").mkdir(parents=True)
    (checkpoints.folder / "30.orbax-checkpoint-tmp" / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    (checkpoints.folder / "notes.txt").write_text("mine")
    resumed = make()
    assert resumed.steps() == [10] and resumed.latest() == 10 and resumed.best() is None
    assert "30.orbax-checkpoint-tmp" in os.listdir(resumed.folder)  # who only reads deletes nothing
    resumed.save(20, {"params": table([2])})
    resumed.save(30, {"params": table([3])})
    assert resumed.steps() == [10, 20, 30]
    assert sorted(os.listdir(resumed.folder)) == ["10", "20", "30", "notes.txt"]
    assert resumed.restore(30, "params", table([0]))["w"] == 3


def test_one_that_cannot_be_deleted_yet_is_no_checkpoint_and_goes_away_later(make, monkeypatch):
    """As on NFS, while a reader has one of its files open."""
    checkpoints = make(keep_last=1, keep_best=0)

    def busy(path, *arguments, **how):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)

    checkpoints.save(1, {"params": table([1])})
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        checkpoints.save(2, {"params": table([2])})
        assert checkpoints.steps() == [2]
    assert os.path.exists(checkpoints.folder / "1.deleted")
    checkpoints.save(3, {"params": table([3])})
    assert checkpoints.steps() == [3] and os.listdir(checkpoints.folder) == ["3"]


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from transformer.config import Checkpoint
from transformer.runtime.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), Checkpoint())
assert checkpoints.steps() == [] and not [name for name in sys.modules if name.split(".")[0] in ("orbax", "tensorflow")]
for step in (1, 2):
    rows = {f"{n}": np.random.default_rng((step, n)).normal(size=100_000) for n in range(20)}
    checkpoints.save(step, {"params": rows})
os._exit(9)  # as if killed: the second save is under way
"""


def test_a_killed_process_leaves_whole_checkpoints_only(make):
    """Also: orbax is not imported before it is needed."""
    folder = make().folder
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9 and not done.stderr, done.stderr
    checkpoints = make()
    assert checkpoints.steps() in ([1], [1, 2])
    for step in checkpoints.steps():
        rows = {f"{n}": np.random.default_rng((step, n)).normal(size=100_000) for n in range(20)}
        assert same(checkpoints.restore(step, "params", rows), rows)
    checkpoints.save(3, {"params": table([3])})
    assert checkpoints.steps()[-1] == 3 and all(name.isdecimal() for name in os.listdir(folder))


def test_missing_checkpoints_give_a_one_line_error(make):
    checkpoints = make()
    assert (text := message(checkpoints.restore, checkpoints.latest(), "params", table([0]))).startswith(
        f"{checkpoints.folder} has no checkpoint; "
    )
    assert "--mode=train" in text
    checkpoints.save(10, {"params": table([1]), "average": None})
    assert "no checkpoint of step 11; it has 10" in message(checkpoints.restore, 11, "params", table([0]))
    assert "no checkpoint of step 11" in message(checkpoints.metrics, 11)
    assert "has no average, only notes, params" in message(checkpoints.restore, 10, "average", table([0]))
    with pytest.raises(ValueError, match="step 10"):
        checkpoints.save(10, {"params": table([2])})
    assert checkpoints.restore(10, "params", table([0]))["w"] == 1


def test_mismatched_arrays_are_named_with_path_and_both_shapes(make):
    checkpoints = make()
    checkpoints.save(10, {"params": {"encoder": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}})

    def complaint(**encoder) -> str:
        text = message(checkpoints.restore, 10, "params", {"encoder": encoder})
        assert str(checkpoints.folder / "10") in text and "--workdir" in text
        return text

    assert "params/encoder/kernel has shape (4, 3), the model's has (5, 3)" in complaint(
        kernel=jnp.ones((5, 3)), bias=jnp.ones(3)
    )
    assert "params/encoder/bias has dtype float32, the model's has bfloat16" in complaint(
        kernel=jnp.ones((4, 3)), bias=jnp.ones(3, jnp.bfloat16)
    )
    assert "does not have encoder/norm" in complaint(kernel=jnp.ones((4, 3)), bias=jnp.ones(3), norm=jnp.ones(3))
    assert "has, and the model does not have, encoder/bias" in complaint(kernel=jnp.ones((4, 3)))


@pytest.mark.parametrize("damage", ["emptied", "cut", "gone"])
def test_a_damaged_checkpoint_gives_a_one_line_error(make, damage):
    checkpoints, like = make(), {"w": jnp.asarray(np.random.default_rng(0).normal(size=9_000))}
    checkpoints.save(10, {"params": like})
    checkpoints.close()
    files = [file for file in (checkpoints.folder / "10" / "params").rglob("*") if file.is_file()]
    assert files
    for file in files:
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(b"" if damage == "emptied" else file.read_bytes()[: file.stat().st_size // 2])
    text = message(make().restore, 10, "params", like)
    assert f"checkpoint {checkpoints.folder / '10'} cannot be read" in text and "move that folder away" in text


# --- compared with the manifest ----------------------------------------------------------------------------------------


def flip(file: Path, place: int = -1) -> None:
    """Flips one bit, by default in the middle."""
    content = bytearray(file.read_bytes())
    content[place if place >= 0 else len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


DAMAGES = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "gone": lambda file: file.unlink(),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the checkpoints 10 and 20 of `trained()`. Tests must not write into it."""
    folder, (params, state) = tmp_path_factory.mktemp("two") / "checkpoints", trained()
    with contextlib.closing(Checkpoints(folder, Checkpoint())) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, {"params": params, "optimizer": state}, {"validation/loss": 1 / step})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_the_manifest_has_every_file(two):
    """And its hashes are those of the system's own program."""
    found = json.loads((two / "20" / "manifest.json").read_text())["files"]
    assert sorted([*found, "manifest.json"]) == names(two / "20") and len(found) > 5
    lines = "".join(f"{value}  {name}\n" for name, value in found.items())
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict"], cwd=two / "20", input=lines, text=True, check=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_of_any_file_makes_it_fall_back(two, tmp_path, make, damage):
    """Also: training resumes from the previous one, and the damaged one is moved aside completely; nothing that was kept is
    lost."""
    for number, name in enumerate(names(two / "20")):
        folder, notices, aside = Path(shutil.copytree(two, tmp_path / str(number))), [], []
        DAMAGES[damage](folder / "20" / name)
        left = {file: (folder / "20" / file).read_bytes() for file in names(folder / "20")}
        checkpoints = make(folder, keep_last=2)
        assert checkpoints.sound(notice=notices.append) == [10], name
        assert len(notices) == 1 and notices[0].startswith(f"checkpoint {folder / '20'} is skipped: ") and name in notices[0]
        checkpoints.set_aside(aside.append)
        assert aside == [notices[0].replace(" skipped:", " not used, and is now damaged-20:")]
        assert checkpoints.steps() == [10] and checkpoints.best() == 10
        assert {file: (folder / "damaged-20" / file).read_bytes() for file in names(folder / "damaged-20")} == left
        if name.startswith("params/d/"):  # the rest is the same whatever was damaged, and takes its time
            params, state = trained()
            assert same(checkpoints.restore(10, "optimizer", state), state)
            for step in (20, 30):
                checkpoints.save(step, {"params": params, "optimizer": state})
            assert checkpoints.steps() == [10, 20, 30] and not checkpoints.problem(20)  # 10 is the best
            assert sorted(os.listdir(folder)) == ["10", "20", "30", "damaged-20"]


def test_the_damaged_one_is_not_read_and_does_not_touch_what_is_not_asked_for(two, tmp_path, make):
    folder = Path(shutil.copytree(two, tmp_path / "copy"))
    values = [name for name in names(folder / "20") if name.startswith("optimizer/d/")]
    assert values
    for name in values:
        flip(folder / "20" / name)
    params, state = trained()
    checkpoints = make(folder)
    assert f"checkpoint {folder / '20'} cannot be read (optimizer: optimizer/d/" in message(
        checkpoints.restore, 20, "optimizer", state
    )
    assert checkpoints.sound(1, "params", pytest.fail) == [20] and same(checkpoints.restore(20, "params", params), params)
    assert checkpoints.sound(1, "optimizer", [].append) == [10] and checkpoints.best() == 20


def test_only_as_many_as_are_wanted_are_looked_at(two, tmp_path, make):
    folder = Path(shutil.copytree(two, tmp_path / "copy"))
    flip(folder / "10" / "params" / "_METADATA")
    assert make(folder).sound(1, notice=pytest.fail) == [20]
    assert make(folder).sound(2, notice=(notices := []).append) == [20] and "10 is skipped: params/_METADATA" in notices[0]


def test_where_nothing_can_be_trusted(two, tmp_path, make, capsys):
    """Checkpoints without a manifest are used if none has one; nothing is moved. If all are damaged, this is reported and
    nothing changes."""
    folder = Path(shutil.copytree(two, tmp_path / "copy"))
    for step in (10, 20):
        (folder / str(step) / "manifest.json").unlink()
    params, _ = trained()
    checkpoints = make(folder)
    assert checkpoints.sound(1) == [20] and "no checkpoint has a manifest.json" in capsys.readouterr().err
    checkpoints.set_aside(pytest.fail)
    assert checkpoints.sound() == [10, 20] and same(checkpoints.restore(20, "params", params), params)

    folder = Path(shutil.copytree(two, tmp_path / "other"))
    for step in (10, 20):
        flip(folder / str(step) / "params" / "_METADATA")
    for call in (make(folder).sound, make(folder).set_aside):
        text = message(call)
        assert f"{folder}: no checkpoint is intact (checkpoint {folder / '20'} is skipped: params/_METADATA" in text
    assert sorted(os.listdir(folder)) == ["10", "20"]


def test_put_aside_again_takes_nothing_away(two, tmp_path, make):
    folder = tmp_path / "copy"
    for number in range(3):
        shutil.copytree(two / "20", folder / "20")
        shutil.copytree(two / "10", folder / "10", dirs_exist_ok=True)
        (folder / "20" / "params" / "_METADATA").write_text(str(number))
        make(folder).set_aside([].append)
    assert sorted(os.listdir(folder)) == ["10", "damaged-20", "damaged-20.1", "damaged-20.2"]
    assert [(folder / f"damaged-20{n}" / "params" / "_METADATA").read_text() for n in ("", ".1", ".2")] == ["0", "1", "2"]


def test_killed_before_the_manifest_and_while_deleting(two, tmp_path, make):
    folder, params = Path(shutil.copytree(two, tmp_path / "copy")), trained()[0]
    (folder / "20" / "manifest.json").unlink()
    shutil.copytree(two / "10" / "params", folder / "5.deleted" / "params")
    notices = []
    resumed = make(folder, keep_last=1, keep_best=0)
    resumed.set_aside(notices.append)
    assert resumed.steps() == [10] and "20 is not used, and is now damaged-20: it has no manifest.json" in notices[0]
    resumed.save(5, {"params": params})  # its name is taken
    resumed.save(20, {"params": params})
    assert resumed.steps() == [20] and sorted(os.listdir(folder)) == ["20", "damaged-20"]


def test_a_manifest_that_cannot_be_written_is_a_failed_save(make, monkeypatch):
    checkpoints = make()
    checkpoints.save(10, {"params": table([1])})
    checkpoints.wait()
    monkeypatch.setattr("transformer.runtime.checkpoints._hash", lambda file: os.open(file / "no", 0))
    checkpoints.save(20, {"params": table([2])})
    text = message(checkpoints.wait)
    assert "checkpoint 20 cannot be written (Not a directory)" in text and "resumes from step 10" in text
    monkeypatch.undo()
    assert make().sound(notice=[].append) == [10]


BIG = {"w": np.random.default_rng(0).normal(size=50_000)}


def test_a_full_disk_gives_a_one_line_error_and_keeps_other_checkpoints(make, caplog):
    checkpoints = make()
    checkpoints.save(10, {"params": BIG})
    checkpoints.wait()
    caplog.set_level(logging.DEBUG, "absl")
    with full_disk():
        checkpoints.save(20, {"params": BIG})
        text = message(checkpoints.wait)
    assert f"{checkpoints.folder}: checkpoint 20 cannot be written (File too large)" in text
    assert "make room" in text and "resumes from step 10" in text
    assert not [record for record in caplog.records if "orbax" in record.pathname]  # no traceback, no chatter
    assert checkpoints.steps() == [10]
    checkpoints.save(20, {"params": BIG})  # there is room again
    assert checkpoints.steps() == [10, 20] and sorted(os.listdir(checkpoints.folder)) == ["10", "20"]
    assert same(make().restore(20, "params", BIG), BIG)


@pytest.mark.parametrize("call", ["save", "steps", "best", "restore", "close"])
def test_a_failed_save_is_raised_by_the_next_call(make, call):
    checkpoints = make()
    arguments = {"save": (30, {"params": BIG}), "restore": (20, "params", BIG)}.get(call, ())
    with full_disk():
        checkpoints.save(20, {"params": BIG})
        text = message(getattr(checkpoints, call), *arguments)
    assert "checkpoint 20 cannot be written (File too large)" in text and "resumes from the start" in text


def test_a_file_instead_of_a_folder_gives_a_one_line_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        assert f"{folder} cannot be read (Not a directory)" in message(make(folder).save, 1, {"params": table([1])})
