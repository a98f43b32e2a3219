"""A tiny translator, trained once per test process through the command line, and this command line, called in
the same process."""

import atexit
import contextlib
import dataclasses
import functools
import io
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from transformer.cli import flags, main
from transformer.inference import predict
from transformer.inference.translate import Translator

ROOT = Path(__file__).parents[1]
EXPERIMENT = """
from transformer.components.rotary import Rotary
from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train

def get_config():
    return Config(
        model=Model(
            num_encoder_layers=1, num_decoder_layers=1, d_model=32, d_ff=32, num_heads=2, dropout_rate=0.0, positions=Rotary()
        ),
        data=Data(
            source="text", directory="data", vocabulary="characters", vocabulary_size=16, max_source_length=40,
            max_target_length=40,
        ),
        train=Train(
            steps=150, batch_tokens=1024, learning_rate=0.01, schedule="constant", warmup_steps=5, log_every=50,
            evaluate_every=50,
        ),
        evaluate=Evaluate(scores=("exact_match", "chrf"), average=2, samples=100),
        search=Search(beam_size=2, batch_size=4, max_extra=5),
        checkpoint=Checkpoint(every_steps=50, keep_last=2),
    )
"""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a command. `out` is its stdout, `err` its stderr."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.removesuffix("\n").split("\n") if self.out else []


def command(*arguments: Any, stdin: bytes = b"", stdout: Any = None) -> Result:
    """`python launch.py ARGUMENTS`, where neither stdout nor stderr is a terminal and the locale is ASCII."""
    out, err = stdout or io.TextIOWrapper(io.BytesIO(), "ascii"), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    streams = {"stdin": io.TextIOWrapper(io.BytesIO(stdin), "ascii"), "stdout": out, "stderr": err}
    status: Any = 0
    for flag in flags.FLAGS.get_key_flags_for_module(flags):
        flag.unparse()
    # A processor's speed is measured for seconds; that is tested elsewhere.
    known = mock.patch("transformer.modes.training.peak_flops", lambda devices: 1e11)
    with known, mock.patch.multiple(sys, argv=["launch.py", *map(str, arguments)], **streams):
        try:
            main.run()
        except SystemExit as end:
            status = end.code or 0
    err.flush()
    stderr = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if stdout is not None:
        return Result(status, "", stderr)
    out.flush()
    return Result(status, out.buffer.getvalue().decode(), stderr)


def write_corpus(folder: Path, seed: int = 0) -> Path:
    """Letters, and the same letters in upper case: train.en, train.de and so on."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 200), ("validation", 20), ("test", 12)):
        lines = ["".join(draw.choices("abcdef", k=draw.randint(1, 20))) for _ in range(count)]
        (folder / f"{name}.en").write_text("".join(line + "\n" for line in lines))
        (folder / f"{name}.de").write_text("".join(line.upper() + "\n" for line in lines))
    return folder


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder with `data`, the experiment file `tiny.py`, the workdir `run`, and the output of its training."""

    folder: Path
    result: Result

    @property
    def experiment(self) -> Path:
        return self.folder / "tiny.py"

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    def copy(self, folder: Path) -> Path:
        """A copy of the workdir that a test may damage."""
        return Path(shutil.copytree(self.workdir, folder / "run"))


@functools.cache
def translator(beam: int = 2, size: int = 4) -> Translator:
    """The run's translator, compiled once for each kind of search, with the run's settings by default."""
    return predict.load(run().workdir, {"search.beam_size": str(beam), "search.batch_size": str(size)})


@functools.cache
def run() -> Run:
    """Tests must not write into it."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_corpus(folder / "data")
    (folder / "tiny.py").write_text(EXPERIMENT)
    with contextlib.chdir(folder):
        return Run(folder, command("--config=tiny.py", "--workdir=run"))
