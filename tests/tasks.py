"""A tiny run of each task, trained once per test process through the command line, on files that are written here."""

import atexit
import contextlib
import dataclasses
import functools
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import trained
from trained import Result, command

from transformer import families
from transformer.inference import predict

EXPERIMENT = """
from transformer.components.rotary import Rotary
from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train

def get_config():
    return Config(
        model=Model(
            num_encoder_layers=1, num_decoder_layers=1, d_model=16, d_ff=16, num_heads=2, dropout_rate=0.0, positions=Rotary(),
        ),
        data=Data(
            directory="data", train="train", validation="validation", test="test", vocabulary="characters",
            vocabulary_size=40, max_source_length=48, max_target_length=48, batching="bucketed", buckets=1,
        ),
        train=Train(
            steps=3, batch_tokens=512, learning_rate=0.01, schedule="constant", warmup_steps=1, log_every=1, evaluate_every=3,
            label_smoothing=0.0,
        ),
        evaluate=Evaluate(samples=4),
        search=Search(beam_size=1, batch_size=8, max_extra=3),
        checkpoint=Checkpoint(every_steps=3),
    )
"""
SIZES = {"train": 40, "validation": 6, "test": 7}
PEOPLE, THINGS = ["ann", "ben", "cat"], ["egg", "fan", "hen"]


def _lines(write: Callable[[random.Random], str], ending: str, between: str = "") -> Callable[[Path], None]:
    def files(folder: Path) -> None:
        draw = random.Random(0)
        for name, count in SIZES.items():
            (folder / f"{name}{ending}").write_text("".join(write(draw) + "\n" + between for _ in range(count)))

    return files


def _document(draw: random.Random) -> str:
    return " ".join(f"{draw.choice(PEOPLE)} has {draw.choice(THINGS)}." for _ in range(draw.randint(1, 5)))


def _labelled(draw: random.Random) -> str:
    who = draw.choice(PEOPLE)
    return f"{draw.choice(['yes', 'no'])}\t{who} has {draw.choice(THINGS)}"


def _tagged(draw: random.Random) -> str:
    return f"{draw.choice(PEOPLE)} B-PER\nhas O\n{draw.choice(THINGS)} O"


def _questions(folder: Path) -> None:
    draw = random.Random(0)
    for name, count in SIZES.items():
        paragraphs = []
        for _ in range(count):
            who, what = draw.choice(PEOPLE), draw.choice(THINGS)
            answers = [{"text": what, "answer_start": len(who) + 5}]
            context = f"{who} has {what} and more ."
            paragraphs.append({"context": context, "qas": [{"id": "1", "question": f"what has {who} ?", "answers": answers}]})
        (folder / f"{name}.json").write_text(json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}))


@dataclasses.dataclass(frozen=True)
class Task:
    """`settings` in addition to those of the experiment; `files` writes the data; `scores`: the scores of the test split."""

    settings: dict[str, str]
    files: Callable[[Path], Any]
    scores: tuple[str, ...]


DOCUMENTS = _lines(_document, ".txt", between="\n")
TOKENS = ("loss", "nll", "token_accuracy", "perplexity")
TEXTS = (*TOKENS, "perplexity_per_word", "bleu", "chrf")

TASKS: dict[str, Task] = {  # by objective; of translating, which has a run of its own, by family
    "recurrent": Task(
        {"family": "recurrent", "data.source": "text", "model.positions": "sinusoidal"}, trained.write_corpus, TEXTS
    ),
    "decoder_only": Task(
        {"family": "decoder_only", "data.source": "text", "model.tying": "two_way"}, trained.write_corpus, TEXTS
    ),
    "prefix_lm": Task({"family": "encoder_decoder", "data.source": "documents"}, DOCUMENTS, TOKENS),
    "span_corruption": Task(
        {"family": "encoder_decoder", "data.source": "documents", "data.vocabulary_size": "140"}, DOCUMENTS, TOKENS
    ),
    "causal_lm": Task(
        {
            "family": "decoder_only",
            "data.source": "documents",
            "data.batching": "packed",
            "evaluate.stride": "20",
            "search.max_new_tokens": "12",
        },
        DOCUMENTS,
        (*TOKENS, *(f"sliding_{name}" for name in ("nll", "perplexity", "bits_per_character", "bits_per_byte"))),
    ),
    "masked_lm": Task({"family": "encoder_only", "model.token_types": "2", "data.source": "documents"}, DOCUMENTS, TOKENS),
    "classify": Task(
        {"family": "encoder_only", "model.token_types": "2", "data.source": "tsv"},
        _lines(_labelled, ".tsv"),
        (*TOKENS, "accuracy", "macro_f1"),
    ),
    "tag": Task(
        {"family": "encoder_only", "model.token_types": "2", "data.source": "conll"},
        _lines(_tagged, ".conll", between="\n"),
        (*TOKENS, "entity_f1"),
    ),
    "answer": Task(
        {"family": "encoder_only", "model.token_types": "2", "data.source": "squad"},
        _questions,
        (*TOKENS, "squad_exact_match", "squad_f1"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder with `data`, `tiny.py` and the workdir `run`; the output of training; and the predictor made at its end, with
    its compiled programs."""

    folder: Path
    arguments: list[str]
    result: Result
    predictor: Any

    @property
    def workdir(self) -> Path:
        return self.folder / "run"


def arguments(task: str, **more: str) -> list[str]:
    given = {"objective.kind": "translate" if task in families.FAMILIES else task} | TASKS[task].settings | more
    return [f"--config.{name}={value}" for name, value in given.items()]


@functools.cache
def run(task: str) -> Run:
    """Tests must not write into it."""
    folder, made, load = Path(tempfile.mkdtemp()), [], predict.load
    atexit.register(shutil.rmtree, folder)
    (folder / "data").mkdir()
    TASKS[task].files(folder / "data")
    (folder / "tiny.py").write_text(EXPERIMENT)
    given = ["--config=tiny.py", *arguments(task)]
    with contextlib.chdir(folder), mock.patch.object(predict, "load", lambda *a: made.append(load(*a)) or made[-1]):
        result = command(*given, "--workdir=run")
    return Run(folder, given, result, made[-1] if made else None)
