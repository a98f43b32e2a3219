"""What modes share: lines in and out, a split's sums."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from transformer import families
from transformer.config import Config
from transformer.data import pipeline, prepare
from transformer.data.objectives import Corpus, Objective
from transformer.errors import UserError
from transformer.files import new_file
from transformer.runtime.devices import Runtime
from transformer.runtime.workdir import Workdir
from transformer.training import step as step_lib


def token_sums(
    runtime: Runtime, loss: families.Loss, objective: Objective, tokens: Corpus, config: Config
) -> Callable[[Any], dict[str, float]]:
    """A function from placed parameters to the loss's sums over a split, every example counted once."""
    micro = config.train.batch_tokens // config.train.accumulate
    tokens = objective.arrange(tokens)
    seed, rows = config.train.seed, runtime.count
    batches, _ = pipeline.plan(tokens, objective, config.data, micro, rows, seed, training=False, share=runtime.share)
    step = runtime.compile_eval(step_lib.make_eval_step(loss))

    def sums(params: Any) -> dict[str, float]:
        total: dict[str, float] = {}
        parts = [step(params, runtime.place_batch(batch)) for batch in pipeline.read(batches, 0, len(batches), 0)]
        for part in map(runtime.fetch, parts):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    return sums


def folders(workdir: Workdir) -> prepare.Folders:
    return prepare.Folders(workdir.vocabulary, workdir.tokens, workdir.path / "data")


ONE_LINE = str.maketrans("\n\r\t", "   ")  # what a vocabulary of bytes may say, and a reader of lines would stumble over


def lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8, without their ends; only a newline ends a line."""
    for number in itertools.count(1):
        try:
            if not (line := file.readline()):
                return
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: line {number} is not UTF-8; convert it, for example with iconv") from error
        except OSError as error:
            raise UserError(f"{name}: line {number} cannot be read: {error.strerror}; name a file that can be read") from error


@contextlib.contextmanager
def reader(path: str | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115  (closed below: here the caller's own errors are not for us)
    except OSError as error:
        raise UserError(f"--input={path}: {error.strerror}; name a file that can be read") from error
    with file:
        yield file


@contextlib.contextmanager
def writer(path: str | None) -> Iterator[Callable[[str], Any]]:
    if path is None:
        yield sys.stdout.write
        return
    try:
        with new_file(Path(path)) as where, where.open("w", encoding="utf-8") as file:
            yield file.write
    except OSError as error:
        raise UserError(f"--output={path}: {error.strerror}; name a file that can be written") from error
