"""Modes that read and write lines (translate and predict), and generate, which writes samples as they are drawn."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformer import families, streams
from transformer.errors import say
from transformer.inference import predict as predict_lib
from transformer.modes.common import ONE_LINE, lines, reader, writer

BATCH = 1024  # lines that are labelled together


@contextlib.contextmanager
def _opened(
    path: Path, overrides: Mapping[str, str], source: str | None, target: str | None, mode: str
) -> Iterator[tuple[Any, Iterator[str], Callable[[str], Any]]]:
    """The predictor, the lines of `source` (none: stdin), and a function that writes to `target` (none: stdout)."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(reader(source))
        write = stack.enter_context(writer(target))
        predictor = predict_lib.load(path, overrides, mode)
        if file.isatty():
            say("reading lines from the terminal; Ctrl-D ends them")
        yield predictor, lines(file, source or "stdin"), write
        for notice in predictor.notices:
            say(notice)


def translate(path: Path, overrides: Mapping[str, str], source: str | None, target: str | None) -> None:
    """Translates each line of the file `source` to a line of `target`, in order; none: stdin, stdout."""
    with _opened(path, overrides, source, target, "translate") as (predictor, texts, write):
        for outputs in predictor.translate(texts, scored=False):
            write("\t".join(output.text.translate(ONE_LINE) for output in outputs) + "\n")


def predict(path: Path, overrides: Mapping[str, str], source: str | None, target: str | None) -> None:
    """Writes a label, tags, an answer, a text with its masks filled or a vector for each line; tabs separate the fields of a
    line."""
    with _opened(path, overrides, source, target, "predict") as (predictor, texts, write):
        numbers = families.task_of(predictor.config).output == "vector"  # tabs separate its fields
        numbered = enumerate(texts, 1)
        while batch := list(itertools.islice(numbered, BATCH)):
            examples = [predictor.parse(line, number) for number, line in batch]
            for output in predictor.predict(examples, batch[0][0]):
                write((output if numbers else output.translate(ONE_LINE)) + "\n")


def generate(
    path: Path, overrides: Mapping[str, str], prompt: str | None, num_samples: int, seed: int, target: str | None
) -> None:
    """Writes continuations of `prompt` (none: all of stdin) while they are sampled, one sample after another."""
    with writer(target) as write:
        predictor = predict_lib.load(path, overrides, "generate")
        if prompt is None:
            file = streams.stdin("--prompt=TEXT")
            if file.isatty():
                say("reading the prompt from the terminal; Ctrl-D ends it")
            prompt = "\n".join(lines(file, "stdin"))
        if num_samples == 1:
            pieces = predictor.stream(prompt, 1, seed)
            write(prompt)
            for _, piece in pieces:
                write(piece)
                sys.stdout.flush()
            write("\n")
        else:
            for number, text in enumerate(predictor.generate(prompt, num_samples, seed), 1):
                write(f"--- sample {number}\n{prompt}{text}\n")
    for notice in predictor.notices:
        say(notice)
