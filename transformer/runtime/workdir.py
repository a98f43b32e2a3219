"""The files of a workdir, which has everything that a trained model needs; reading and writing JSON; the record of each start.

This module only has the paths of checkpoints (checkpoints.py) and vocabularies (data/tokenizers).
"""

import collections
import contextlib
import dataclasses
import datetime
import difflib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from transformer import cuts, settings
from transformer.config import Config, DataInfo
from transformer.cuts import Cut
from transformer.errors import UserError, launcher, no_failure
from transformer.files import new_file
from transformer.validation import check_data_info, validate

RECORDED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece")
SHOWN = 6  # settings named in a message


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder of a run. Which of its files exist depends on how far the run got."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def data_info_file(self) -> Path:
        return self.path / "data_info.json"

    @property
    def cuts_file(self) -> Path:
        return self.path / "cuts.json"

    @property
    def record_file(self) -> Path:
        return self.path / "record.json"

    @property
    def vocabulary(self) -> Path:
        return self.path / "vocabulary"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def evaluation_file(self, split: str) -> Path:
        return self.path / "evaluation" / f"{split}.json"

    def outputs_file(self, split: str) -> Path:
        """A line of JSON for each scored example: source, reference and prediction."""
        return self.path / "evaluation" / f"{split}.jsonl"

    def samples_file(self, split: str) -> Path:
        """Some outputs as text, for people."""
        return self.path / "evaluation" / f"{split}.txt"

    def batch_file(self, step: int) -> Path:
        """The file for the batch of an update that was not finite."""
        return self.path / f"not_finite_{step}.npz"

    def config(self) -> Config:
        """The settings that it was made with. UserError: damaged, or not settings of this library."""
        if not self.config_file.is_file():
            raise UserError(f"--workdir={self.path}: it has no {self.config_file.name}, so it is not a workdir")
        where = str(self.config_file)
        config = settings.from_dict(read_json(self.config_file), Config, where)
        try:
            return validate(config)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def keep_variants(self, config: Config) -> None:
        """Copies the user's files that define components, as a record; the copies are never executed."""
        for file in settings.sources(config):
            (self.path / "variants").mkdir(exist_ok=True)
            shutil.copyfile(file, self.path / "variants" / file.name)

    def data_info(self) -> DataInfo:
        """The `DataInfo`. UserError: the file does not exist yet, or is damaged."""
        if not self.data_info_file.is_file():
            raise UserError(
                f"--workdir={self.path}: it has no {self.data_info_file.name} yet; run --mode=train to prepare its data"
            )
        where = str(self.data_info_file)
        return check_data_info(settings.from_dict(read_json(self.data_info_file), DataInfo, where), where)

    def write_data_info(self, data_info: DataInfo) -> None:
        write_json(self.data_info_file, settings.to_dict(data_info))

    def cuts(self) -> list[Cut]:
        """The counts of training data that were dropped, cut or replaced, or none if they are unknown. UserError: damaged."""
        return read_cuts(self.cuts_file, read_json(self.cuts_file)) if self.cuts_file.exists() else []

    def write_cuts(self, found: Sequence[Cut]) -> None:
        write_json(self.cuts_file, cuts.to_json(found))

    def append_record(self, record: Mapping[str, Any]) -> None:
        """Adds a start of the run to the list in `record_file`."""
        write_json(self.record_file, [*self.records(), dict(record)])

    def records(self) -> list[dict[str, Any]]:
        """The records that `append_record` has written. UserError: damaged."""
        records = read_json(self.record_file) if self.record_file.exists() else []
        if not isinstance(records, list) or not all(isinstance(r, dict) and isinstance(r.get("data"), dict) for r in records):
            raise UserError(f"{self.record_file}: not a list of records; move the file away")
        return records


def create(path: str | Path, config: Config, notice: Callable[[str], None]) -> Workdir:
    """The workdir of a run with these settings: a new one, or an old one that was made with the same settings.

    Free settings (they change no result) may differ: the new ones are written, and `notice` is called. UserError: other
    differences, a workdir without its settings, or a folder that cannot be made or written.
    """
    workdir = Workdir(Path(path))
    with no_failure(f"--workdir={path}", "made or written"):
        workdir.path.mkdir(parents=True, exist_ok=True)
    check_writable("--workdir", path)
    if not workdir.config_file.exists():
        left = [part.name for part in (workdir.checkpoints, workdir.data_info_file, workdir.vocabulary) if part.exists()]
        if left:
            raise UserError(
                f"--workdir={path}: it has {' and '.join(left)} of a run but no {workdir.config_file.name}; "
                "choose another --workdir or empty this one"
            )
        write_json(workdir.config_file, settings.to_dict(config))
        workdir.keep_variants(config)
        return workdir
    old = workdir.config()
    if fixed := settings.differences(old, config):
        raise UserError(
            f"--workdir={path} was made with other settings: {_some(fixed)}; choose another --workdir or set the old values"
        )
    if free := settings.differences(old, config, free=True):
        write_json(workdir.config_file, settings.to_dict(config))
        workdir.keep_variants(config)
        notice(f"{workdir.config_file}: changed {_some(free)}")
    return workdir


def open_existing(path: str | Path) -> Workdir:
    """The workdir of a run that was started before. UserError: there is none."""
    workdir = Workdir(Path(path).expanduser())
    with no_failure(f"--workdir={path}", "read"):
        there = workdir.config_file.is_file()
    if not there:
        siblings = {file.parent.name: str(file.parent) for file in workdir.path.parent.glob(f"*/{workdir.config_file.name}")}
        near = difflib.get_close_matches(workdir.path.name, siblings, n=1)  # by name: all have the same parents
        hint = f"; did you mean {siblings[near[0]]!r}?" if near else ""
        what = f"it has no {workdir.config_file.name}" if workdir.path.exists() else "there is no such folder"
        raise UserError(
            f"--workdir={path}: {what}{hint}; {launcher()} --workdir={path} [--config=experiments/X.py] trains a model there"
        )
    return workdir


# Settings that may change in a workdir and that only training uses.
ONLY_TRAINING = (
    *("train.steps", "train.decay_steps", "train.max_skipped", "train.debug_nans", "train.trackers", "train.max_minutes"),
    "checkpoint.every_steps",
)


def with_file(path: str | Path, file: str, wanted: Config, overrides: Mapping[str, str]) -> dict[str, str]:
    """`overrides` for a trained model, with the free settings that differ between an experiment file and the workdir. `wanted`:
    the file's settings with `overrides`.

    UserError: the file's other settings differ from those of the workdir.
    """
    made = settings.override(open_existing(path).config(), overrides)
    if fixed := settings.differences(made, wanted):
        raise UserError(
            f"--config={file}: --workdir={path} was made with other settings: {_some(fixed)}; leave --config out to use those"
        )
    old = settings.plain(made)
    changed = {name: value for name, value in settings.plain(wanted).items() if name not in old or old[name] != value}
    changed = {name: value for name, value in changed.items() if name not in ONLY_TRAINING}
    return {**overrides, **{name: settings.text_of(value) for name, value in changed.items()}}


def check_writable(flag: str, name: str | Path, folder: Path | None = None) -> None:
    """UserError, which names the flag and its value, if nothing can be written to `name`, or to a folder of it.

    Called before long work whose results will be written there. It makes nothing: if a folder is missing, the nearest existing
    parent is tried.
    """
    folder = (Path(name) if folder is None else folder).absolute()
    with no_failure(f"{flag}={name}", "made or written", flag):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryFile(dir=there):  # the only sure way to know whether one may write
            pass


def write_json(path: Path, value: Any) -> None:
    """Writes the file atomically: a reader never sees half a file. UserError: it cannot be written. ValueError: NaN or
    infinity."""
    if wrong := next(_not_finite(value), None):
        raise ValueError(f"{path}: {wrong}, which JSON cannot represent")
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with no_failure(str(path), "written"), new_file(path) as new:
        new.write_text(text, encoding="utf-8")


def read_cuts(path: Path, value: Any) -> list[Cut]:
    """The cuts that `cuts.to_json` wrote to a file. UserError: it is something else."""
    try:
        return cuts.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged, it is not a list of what was cut ({error}); remove the file") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file. UserError: it cannot be read, or is not strict JSON in UTF-8 (with the position)."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    with no_failure(str(path), "read"):
        data = path.read_bytes()
    try:
        return json.loads(data.decode(), parse_constant=refuse)
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except (ValueError, RecursionError) as error:  # also not UTF-8, or nested too deeply
        problem = str(error)
    raise UserError(f"{path}: damaged, {problem}; restore the file, or choose another --workdir")


def run_record(data: Mapping[str, str], command: Sequence[str] | None = None) -> dict[str, Any]:
    """A record of the start of a run: code, versions, machine, `data` (name -> fingerprint), command, UTC time.

    Unknown values are absent. `command`: the words of the command line, this process's if none are given.
    """
    versions = {"python": platform.python_version()}
    for package in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv if command is None else command),
        **_code(Path(__file__).resolve().parents[2]),
        "versions": versions,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": dict(collections.Counter(device.device_kind for device in jax.devices())),
        "data": dict(data),
    }


def _code(root: Path) -> dict[str, Any]:
    """The commit checked out at `root`, and whether tracked files differ from it; empty if `root` is not a checkout."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # An installed package may be inside another project's checkout, whose commit would be misleading.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return {}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _some(differences: Sequence[str]) -> str:
    more = len(differences) - SHOWN
    return ", ".join(differences[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Where `value` has numbers that strict JSON does not allow."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _not_finite(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _not_finite(part, f"{name}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name or 'the value'} is {value}"
