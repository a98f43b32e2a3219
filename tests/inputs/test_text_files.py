"""Arbitrary text: any Unicode, line ends and number of lines; one output line per input line, and files are
written atomically."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from trained import ROOT, command, translator

from transformer.data.tokenizers.vocabulary import Bytes
from transformer.inference import predict
from transformer.inference.translate import CHUNK, Output, Translator
from transformer.settings import replace


class Echo(Translator):
    """Says what it reads, through the vocabulary: all of a translator but the model. `most`: lines read before one is out."""

    def __init__(self):
        loaded = translator().loaded
        config = replace(replace(loaded.config, "data.max_source_length", 2**21), "search.batch_size", 8)
        vocabulary = Bytes()
        super().__init__(dataclasses.replace(loaded, config=config, vocabularies={"source": vocabulary, "target": vocabulary}))

    def _chunk(self, texts, first, lengths=None, scored=False):
        sources = self._sources(texts, first)
        result = [
            self.target_vocabulary.decode(ids[:-1]) if text.strip() else "" for text, ids in zip(texts, sources, strict=True)
        ]
        return [[Output(text, 0.0)] for text in result]  # without the end


@pytest.fixture(scope="module")
def echo():
    return Echo()


@pytest.fixture
def use(monkeypatch, echo):
    monkeypatch.setattr(predict, "load", lambda path, overrides=None, mode=None: echo)


ODD = [
    "\0",
    "\u2028",
    "\u2029",
    "\u0085",
    "\x0b",
    "\x0c",
    "\x1c",
    "\r",
    "\t",
    "\ufeff",
    "\u200f",
    "\u202e",
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "שלום",
    "\U0010ffff",
]
LINE = st.lists(st.sampled_from(ODD) | st.characters(exclude_characters="\n", codec="utf-8"), max_size=12).map("".join)


@hypothesis_settings(max_examples=100, derandomize=True, deadline=None)
@given(
    lines=st.lists(LINE, max_size=20),
    ends=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=20, max_size=20),
    last=st.booleans(),
)
@example(lines=["a", "\ufeff", "b\ufeffc"], ends=["\n"] * 20, last=True)
@example(lines=["\0" * 3, "\u2028", "\u0085\u2029"], ends=["\r\n"] * 20, last=False)
@example(lines=["é" * 2**19, "b"], ends=["\n"] * 20, last=False)  # a line of a megabyte
@example(lines=["a"] * (8 * CHUNK + 5), ends=["\n"] * (8 * CHUNK + 5), last=True)
def test_any_text_has_one_line_out_for_one_in(lines, ends, last, echo):
    """Control characters within a line are kept, except for those that other programs treat as separators: these
    become spaces."""
    text = "".join(line + end for line, end in zip(lines, ends, strict=False))
    if not last and lines and lines[-1]:
        text = text.removesuffix(ends[len(lines) - 1])
    wanted = [line.strip().translate({ord("\r"): " ", ord("\t"): " "}) for line in lines]
    if wanted and lines[0].startswith("\ufeff"):  # of a file's first line it is the mark of its bytes' order
        wanted[0] = lines[0][1:].strip().translate({ord("\r"): " ", ord("\t"): " "})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "load", lambda path, overrides=None, mode=None: echo)
        result = command("--mode=translate", "--workdir=any", stdin=text.encode())
    assert (result.status, result.err) == (0, "")
    assert result.lines == wanted


@pytest.mark.parametrize("text", ["ab\0c", "שלום a", "a\u2028b", "👩‍👩‍👧", "e\u0301" * 30, "\u202eab"])
def test_a_real_translator_says_one_line_of_what_it_has_never_seen(text):
    assert [len(outputs) for outputs in translator().translate([text, "ab", text])] == [1] * 3


# --- streams -----------------------------------------------------------------------------------------------------------


def test_lines_are_read_as_they_are_needed(echo):
    """Only a fixed number of lines is kept in memory: an endless file is translated line by line."""
    read = 0

    def endless():
        nonlocal read
        for read in itertools.count(1):  # noqa: B007
            yield f"line {read}"

    held = 8 * CHUNK  # config.search.batch_size
    for number, outputs in enumerate(itertools.islice(echo.translate(endless()), 5 * held), 1):
        assert outputs[0].text == f"line {number}"
        assert read <= number + held


CODE = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import types
from transformer import cli
from transformer.inference import predict
from transformer.inference.translate import Output

class Echo:
    notices = []
    def translate(self, texts, scored):
        for text in texts:
            yield [Output(text.upper(), 0.0)]

predict.load = lambda path, overrides=None, mode=None: Echo()
cli.run()
"""


def test_a_killed_command_leaves_the_old_output_and_a_reader_who_has_enough_is_no_failure(tmp_path):
    """Two processes in parallel, because each takes seconds to start."""
    (tmp_path / "many.txt").write_text("a line\n" * 200_000)
    start = [sys.executable, "-c", CODE, "--mode=translate", "--workdir=any"]
    piped = subprocess.Popen([*start, "--input=many.txt"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output = tmp_path / "out.txt"
    output.write_text("from before\n")
    written = subprocess.Popen([*start, f"--output={output}"], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert written.stdin and piped.stdout and piped.stderr

    written.stdin.write(b"another line\n" * 200_000)  # a pipe holds far less: most of it was read once this returns
    written.stdin.flush()
    parts = [path for path in tmp_path.iterdir() if path.name.startswith(".out.txt.")]
    assert len(parts) == 1 and parts[0].stat().st_size > 0  # it was in the middle
    os.kill(written.pid, signal.SIGKILL)
    assert written.wait() == -signal.SIGKILL
    assert output.read_text() == "from before\n"

    assert piped.stdout.readline() == b"A LINE\n"
    piped.stdout.close()  # as `| head -1` does
    assert piped.stderr.read() == b"" and piped.wait() == 0
