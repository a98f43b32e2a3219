"""Checkpoints: writes trees of arrays, restores them exactly, and decides which are kept. Only this file uses orbax.

A checkpoint is the folder `<step>`. Its items (parameters, optimizer state, ...) can be read one at a time; each is a flat
table from a leaf's path to its values. So neither devices nor classes are stored, and it can be read on any number of devices
and processes. If there are several processes, all save the parts that their devices have, the first one manages the folder, and
each reads independently. Orbax is imported when first needed. Other modules decide what a checkpoint means to a run.

Once orbax has given the folder its name, a manifest with the hash of every file is written. Orbax does not detect flipped bits,
so files are compared with the manifest before they are read. A checkpoint is sound if all of it matches the manifest. A
checkpoint without a manifest (its writer was killed before) is used only if no checkpoint is sound.

A checkpoint is periodic, or was saved because its validation was among the best, or because the run stopped. The last
checkpoints, which are kept and averaged, are the periodic ones and the very last one, so stopping a run does not change them.
"""

import functools
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.config import Checkpoint
from transformer.errors import UserError, first_line, say
from transformer.files import new_file
from transformer.runtime import hosts

COMPLETE = "_CHECKPOINT_METADATA"  # the file that orbax writes last, before it renames the folder
MANIFEST = "manifest.json"  # hashes by file, and the hash of these hashes
NOTES = "notes"  # the item that holds the metrics, and whether the checkpoint is a periodic one
DELETED = ".deleted"  # the name of a folder while it is deleted


class Checkpoints:
    """The checkpoints of a folder. `close` before the process ends: the last save may still be running.

    One run saves; others may read meanwhile. Leaves are arrays with at least one element.
    """

    def __init__(self, folder: Path, settings: Checkpoint):
        self.folder, self.settings = Path(folder).absolute(), settings  # orbax needs absolute paths
        self._saving: tuple[int, Future[None]] | None = None  # the step that is being saved, until its manifest is written
        self._compared: set[tuple[int, str | None]] = set()  # step and item (or the whole step) that match the manifest

    def save(
        self, step: int, items: Mapping[str, Any], metrics: Mapping[str, float] | None = None, periodic: bool = True
    ) -> None:
        """Starts to save trees by name. Returns once they are copied, so that their buffers may be donated.

        UserError: this or the previous save failed. ValueError: that step is already saved.
        """
        if step in self.steps():
            raise ValueError(f"{self.folder} has a checkpoint of step {step}")
        import orbax.checkpoint as ocp

        # Orbax copies arrays before it returns. Trees without leaves, such as an average that is not kept, are left out.
        tables = {item: {name: _whole(leaf) for name, leaf in _table(tree).items()} for item, tree in items.items()}
        arguments = {item: ocp.args.StandardSave(table) for item, table in tables.items() if table}
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        notes = ocp.args.JsonSave({"metrics": numbers, "periodic": periodic})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._prune()
            self._writer.save(self.folder / str(step), args=ocp.args.Composite(**arguments, **{NOTES: notes}))
        except OSError as error:
            raise self._unwritable(step, error) from error
        self._saving = step, self._thread.submit(self._commit, step)

    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending, intact or not. Waits for a running save."""
        self.wait()
        return self._steps()

    def sound(self, count: int | None = None, item: str | None = None, notice: Callable[[str], None] = say) -> list[int]:
        """The last `count` steps whose checkpoints, or this item of them, are sound, ascending: the very last one, and periodic
        ones before it; with `count` none, all of them.

        Skipped checkpoints are reported. If none is sound, those without a manifest are used. UserError: all existing
        checkpoints are damaged.
        """
        found, unproven, problems = [], [], []
        for step in reversed(self.steps()):
            if len(found) == count:
                break
            further = count is not None and bool(found)  # in addition to the very last one
            problem = self.problem(step, item) or (self.problem(step, NOTES) if further else None)
            if problem is None:
                if not further or self._periodic(step):
                    found.append(step)
                continue
            problems.append(f"checkpoint {self.folder / str(step)} is skipped: {problem}")
            if not self._manifest(step).exists():
                unproven.append(step)
        if problems and not found:
            if not unproven:
                raise UserError(f"{self.folder}: no checkpoint is intact ({problems[0]}); restore it, or use another --workdir")
            notice(f"{self.folder}: no checkpoint has a {MANIFEST} to compare it with; they are used as they are")
            return sorted(unproven[:count])
        for problem in problems:
            notice(problem)
        return sorted(found)

    def set_aside(self, notice: Callable[[str], None] = say) -> None:
        """Renames damaged checkpoints, so that they do not count among those that are kept. Call it before more are saved."""
        sound = self.sound(notice=lambda text: None)
        for step in set(self._steps()) - set(sound):
            number, problem = 0, self.problem(step)
            while (away := self.folder / f"damaged-{step}{f'.{number}' if number else ''}").exists():
                number += 1
            try:
                (self.folder / str(step)).rename(away)
            except OSError as error:
                raise UserError(f"{self.folder / str(step)} cannot be renamed ({_reason(error)}); move it away") from error
            notice(f"checkpoint {self.folder / str(step)} is not used, and is now {away.name}: {problem}")

    def problem(self, step: int, item: str | None = None) -> str | None:
        """How a checkpoint, or this item of it, differs from its manifest, or none."""
        if {(step, None), (step, item)} & self._compared:
            return None
        folder = self.folder / str(step)
        if not self._manifest(step).is_file():
            return f"it has no {MANIFEST} (its save was not finished, or the file is lost)"
        try:
            manifest = json.loads(self._manifest(step).read_bytes())
            hashes = dict(manifest["files"])
            if manifest["hash"] != _hash_of_table(hashes):
                return f"{MANIFEST} is damaged"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"{MANIFEST} is damaged"
        for name, expected in hashes.items():
            if item is None or "/" not in name or name.startswith(f"{item}/"):
                try:
                    if _hash(folder / name) != expected:
                        return f"{name} is damaged, its hash is not that of {MANIFEST}"
                except OSError as error:
                    return f"{name} cannot be read ({_reason(error)})"
        self._compared.add((step, item))
        return None

    def latest(self) -> int | None:
        """The last step, or none if there is no checkpoint."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the best `best_metric` (the first of equals), or none if no checkpoint has that metric."""
        return next(iter(self.ranking()), None)

    def ranking(self) -> dict[int, float]:
        """The `best_metric` of the steps that have it, the best first."""
        self.wait()
        return self._ranking()

    def metrics(self, step: int | None) -> dict[str, float]:
        """The metrics that were given to `save`. UserError as in `restore`."""
        self.wait()
        return self._read(step, NOTES)["metrics"]

    def restore(self, step: int | None, item: str, like: Any) -> Any:
        """An item, with the structure, shapes and types of `like`: a tree of arrays or `jax.ShapeDtypeStruct`s.

        Where `like` has NumPy arrays, the result has them too; where it has a sharding, each device reads its own part;
        elsewhere the result is on the default device. UserError: there is no such checkpoint (`step` none: no checkpoint at
        all) or item, or it is unreadable or does not match `like`.
        """
        self.wait()
        wanted = _table(like)
        if not wanted:
            return like
        saved = self._read(step, item, {})
        where = f"checkpoint {self.folder / str(step)}: {item}"
        remedy = "settings or code have changed since it was made: go back to them, or use another --workdir"
        for names, others, problem in ((wanted, saved, "does not have"), (saved, wanted, "has, and the model does not have,")):
            missing = [name for name in names if name not in others]
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise UserError(f"{where} {problem} {missing[0]}{more}; {remedy}")
        for name, leaf in wanted.items():
            for what in ("shape", "dtype"):
                old, new = getattr(saved[name], what), getattr(leaf, what)
                if old != new:
                    raise UserError(f"{where}/{name} has {what} {old}, the model's has {new}; {remedy}")
        saved = self._read(step, item, wanted)
        return jax.tree.unflatten(jax.tree.structure(like), [_place(saved[name], leaf) for name, leaf in wanted.items()])

    def wait(self) -> None:
        """Waits until the running save is complete and old checkpoints are deleted. UserError: it failed."""
        if self._saving is None:
            return
        (step, saved), self._saving = self._saving, None
        try:
            saved.result()
            self._prune()
        except UserError:
            raise
        except Exception as error:  # any exception of orbax and its storage
            raise self._unwritable(step, error) from error

    def close(self) -> None:
        """Waits for the save and ends all threads. UserError: the save failed."""
        try:
            self.wait()
        finally:
            if "_thread" in self.__dict__:
                self._thread.shutdown()
                del self._thread
            for each in ("_reader", "_json", "_writer"):
                if each in self.__dict__:
                    getattr(self, each).close()
                    delattr(self, each)

    @functools.cached_property
    def _writer(self) -> Any:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(_quiet)
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    @functools.cached_property
    def _reader(self) -> Any:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(_quiet)
        this = jax.process_index()
        return ocp.StandardCheckpointHandler(
            multiprocessing_options=ocp.options.MultiprocessingOptions(this, {this}, f"process {this}")
        )

    @functools.cached_property
    def _json(self) -> Any:
        import orbax.checkpoint as ocp

        return ocp.JsonCheckpointHandler()

    @functools.cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1)

    def _manifest(self, step: int) -> Path:
        return self.folder / str(step) / MANIFEST

    def _commit(self, step: int) -> None:
        """Waits until orbax is done, then writes the manifest; training continues meanwhile."""
        self._writer.wait_until_finished()  # orbax's own callback is called before it writes its last files
        if not hosts.is_first():
            return
        folder = self.folder / str(step)
        hashes = {file.relative_to(folder).as_posix(): _hash(file) for file in sorted(folder.rglob("*")) if file.is_file()}
        with new_file(folder / MANIFEST) as new:
            new.write_text(json.dumps({"files": hashes, "hash": _hash_of_table(hashes)}, indent=1))

    def _folders(self) -> list[Path]:
        """Folders of checkpoints, complete or not."""
        try:
            return [path for path in self.folder.iterdir() if _is_step(path.name.partition(".")[0]) and path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self.folder} cannot be read ({_reason(error)}); choose another --workdir") from error

    def _steps(self) -> list[int]:
        marks = COMPLETE, MANIFEST  # one of them may be the missing file
        folders = [path for path in self._folders() if _is_step(path.name)]
        return sorted(int(path.name) for path in folders if any((path / mark).is_file() for mark in marks))

    def _ranking(self) -> dict[int, float]:
        metric, sign = self.settings.best_metric, self.settings.best_sign
        values = {step: self._read(step, NOTES)["metrics"].get(metric, math.nan) for step in self._steps()}
        found = (item for item in values.items() if not math.isnan(item[1]))
        return dict(sorted(found, key=lambda item: sign * item[1]))

    def _periodic(self, step: int) -> bool:
        return self._read(step, NOTES)["periodic"]

    def _prune(self) -> None:
        """Deletes checkpoints that are not kept, and the leftovers of a killed save or deletion."""
        if not hosts.is_first():
            return
        steps = self._steps()
        last = [step for step in steps if step == steps[-1] or self._periodic(step)]
        kept = {*last[-self.settings.keep_last :], *list(self._ranking())[: self.settings.keep_best]}
        for path in sorted(self._folders(), key=lambda path: _is_step(path.name)):  # leftovers first, because they occupy names
            if path.name not in map(str, kept):
                if _is_step(path.name):  # after this it is no longer a checkpoint, even if the deletion is interrupted
                    path = path.rename(path.with_suffix(DELETED))
                # On NFS a folder from which a reader has a file open cannot be removed: it is tried again after the next save.
                shutil.rmtree(path, ignore_errors=True)

    def _read(self, step: int | None, item: str, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An item by path. `like`: the arrays to read, on the host or with their shardings; empty: only shapes and types are
        read.
        """
        steps = self._steps()
        if not steps:
            raise UserError(f"{self.folder} has no checkpoint; train first (--mode=train) or choose another --workdir")
        if step not in steps:
            raise UserError(f"{self.folder} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
        folder = self.folder / str(step)
        if not (folder / item).is_dir():
            items = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
            raise UserError(f"checkpoint {folder} has no {item}, only {items}; was the setting that saves it off?")
        if self._manifest(step).exists() and (problem := self.problem(step, item)):
            raise self._unreadable(step, item, problem)
        import orbax.checkpoint as ocp

        try:
            if item == NOTES:
                return dict(self._json.restore(folder / NOTES))
            if not like:
                return dict(self._reader.metadata(folder / item).tree)
            asked = {name: leaf if _divided(leaf) else on_host(leaf) for name, leaf in like.items()}
            return self._reader.restore(folder / item, args=ocp.args.StandardRestore(asked))
        except Exception as error:  # any exception of orbax and its storage
            raise self._unreadable(step, item, _reason(error)) from error

    def _unreadable(self, step: int, item: str, why: str) -> UserError:
        return UserError(
            f"checkpoint {self.folder / str(step)} cannot be read ({item}: {why}); "
            "move that folder away to use the previous checkpoint"
        )

    def _unwritable(self, step: int, error: Exception) -> UserError:
        last = max((step for step in self._steps() if self._manifest(step).exists()), default=None)
        return UserError(
            f"{self.folder}: checkpoint {step} cannot be written ({_reason(error)}); make room or make the folder writable, "
            f"then run the same command again: it resumes from {'the start' if last is None else f'step {last}'}"
        )


def average(checkpoints: Checkpoints, steps: Iterable[int], item: str, like: Any) -> Any:
    """The mean of an item over checkpoints, summed in float64 (paper, 6.1). UserError as for `restore`, or without steps."""
    total, count = None, 0
    for step in steps:
        tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), checkpoints.restore(step, item, like))
        total, count = tree if total is None else jax.tree.map(np.add, total, tree), count + 1
    if total is None:
        return checkpoints.restore(None, item, like)
    return jax.tree.map(lambda leaf, summed: _place((summed / count).astype(leaf.dtype), leaf), like, total)


def _is_step(name: str) -> bool:
    """Whether the name of a folder is a step, in ASCII digits."""
    return name.isascii() and name.isdecimal()


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _hash_of_table(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _table(tree: Any) -> dict[str, Any]:
    """Leaves by path, such as `0/mu/encoder/kernel`; classes, empty nodes and None are not recorded."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    table = {jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf for path, leaf in leaves}
    assert len(table) == len(leaves), "two leaves have one path"
    return table


def on_host(leaf: Any) -> np.ndarray:
    """An array of the leaf's shape and type without memory; in `like` it requests an array on the host."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _divided(leaf: Any) -> bool:
    """Whether the array, or the requested array, is sharded over devices."""
    sharding = None if isinstance(leaf, np.ndarray) else getattr(leaf, "sharding", None)
    return sharding is not None and len(sharding.device_set) > 1


def _whole(leaf: Any) -> Any:
    """The array on the host, unless it is sharded over devices, each of which then writes its part."""
    return leaf if _divided(leaf) else np.asarray(leaf)


def _place(array: Any, like: Any) -> Any:
    return array if isinstance(like, np.ndarray) or _divided(like) else jax.device_put(array)


def _reason(error: Exception) -> str:
    """A failure in a few words: the operating system's message if there is one."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # as orbax's storage library writes it
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = first_line(error)
    return first if len(first) <= 120 else first[:117] + "..."


def _quiet(record: logging.LogRecord) -> bool:
    """Shows only orbax's warnings, not its progress and not tracebacks of errors that it also raises."""
    return "orbax" not in record.pathname or (record.levelno >= logging.WARNING and not record.exc_info)
