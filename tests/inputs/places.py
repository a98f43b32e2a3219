"""Folders that commands use: data and an experiment file, a trained translator, imported weights; copies that
tests may damage."""

import atexit
import contextlib
import ctypes
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import folders
import trained
from trained import command

Prepare = Callable[[Path], object]

# --- what is there -----------------------------------------------------------------------------------------------------


def _data(folder: Path) -> None:
    trained.write_corpus(folder / "data")
    (folder / "tiny.py").write_text(trained.EXPERIMENT)


def _translator(folder: Path) -> None:
    shutil.copytree(trained.run().folder, folder, dirs_exist_ok=True)
    edited("run/config.json", lambda values: values["data"].update(directory="data"))(folder)  # of the copy


def _gpt2(folder: Path) -> None:
    tokenizer = folders.byte_bpe(["<|endoftext|>"])
    size = tokenizer.get_vocab_size()
    fields = folders.GPT2_FIELDS | {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 0}
    folders.make(folder / "theirs", fields, folders.draw(folders.gpt2(size)), tokenizer)


def _bert(folder: Path) -> None:
    tokenizer = folders.word_pieces()
    size = tokenizer.get_vocab_size()
    fields = folders.BERT_FIELDS | folders.LABELS | {"vocab_size": size, "architectures": ["BertForSequenceClassification"]}
    folders.make(folder / "theirs", fields, folders.draw(folders.bert(size, "SequenceClassification")), tokenizer)


def _marian(folder: Path) -> None:
    (folder / "theirs").mkdir()
    size = folders.marian_pair(folder / "theirs")
    fields = folders.BART_FIELDS | {"model_type": "marian", "vocab_size": size, "scale_embedding": True}
    fields |= {"pad_token_id": size - 1, "decoder_start_token_id": size - 1, "activation_function": "swish"}
    folders.make(folder / "theirs", fields, folders.draw(folders.marian(size)))


def _imported(make: Prepare) -> Prepare:
    def prepare(folder: Path) -> None:
        make(folder)
        _data(folder)
        with contextlib.chdir(folder):
            result = command("--mode=import", "--source=theirs", "--workdir=run")
        assert result.status == 0, result.err

    return prepare


PLACES: dict[str, Prepare] = {
    "data": _data,
    "translator": _translator,
    "gpt2": _imported(_gpt2),  # generates; learned positions, 20 of them
    "bert": _imported(_bert),  # classifies
    "marian": _marian,  # a folder to import alone
}


@functools.cache
def _made(name: str) -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    PLACES[name](folder)
    return folder


def copy(name: str, folder: Path) -> None:
    """Copies into `folder`: `data` and `tiny.py`, `run` (a workdir), `theirs` (a Hugging Face folder)."""
    shutil.copytree(_made(name), folder, dirs_exist_ok=True)


# --- what is wrong with it ---------------------------------------------------------------------------------------------


def as_it_is(folder: Path) -> None:
    pass


def file(name: str, content: str | bytes = "") -> Prepare:
    """A file with this content, which replaces an existing one."""

    def prepare(folder: Path) -> None:
        without(name)(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def without(name: str) -> Prepare:
    def prepare(folder: Path) -> None:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)

    return prepare


def a_folder(name: str) -> Prepare:
    def prepare(folder: Path) -> None:
        without(name)(folder)
        (folder / name).mkdir(parents=True)

    return prepare


def edited(name: str, change: Callable[[Any], object]) -> Prepare:
    """A JSON file whose value is changed in place by `change`."""

    def prepare(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return prepare


def cut(name: str, share: float = 0.5) -> Prepare:
    """A file whose end is missing."""

    def prepare(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return prepare


def locked(name: str, mode: int) -> Prepare:
    """A path that cannot be written (0o500) or read (0); see `powerless`."""
    return lambda folder: (folder / name).chmod(mode)


def together(*several: Prepare) -> Prepare:
    def prepare(folder: Path) -> None:
        for each in several:
            each(folder)

    return prepare


@contextlib.contextmanager
def powerless() -> Iterator[None]:
    """Permissions apply in this thread even for root: it gives up the capability to bypass them, and restores it afterwards."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3: effective, permitted, .. twice
    if libc.capget(head, sets):
        raise OSError(ctypes.get_errno(), "capget")
    effective = sets[0]
    sets[0] = effective & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(head, sets):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        sets[0] = effective
        libc.capset(head, sets)
