"""Where code divides text or tells characters apart, Unicode has more white space, line ends and digits than ASCII."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from transformer.config import Config, Data
from transformer.data import encode, sources
from transformer.data.text import lines, tagged_words
from transformer.data.tokenizers.vocabulary import Bytes, Characters
from transformer.inference import scores
from transformer.inference.loading import clean
from transformer.modes import common
from transformer.runtime.checkpoints import _is_step
from transformer.studies import resampling

# No-break, ideographic and thin spaces; and what `str.splitlines` takes for line ends, though no line counter does.
SPACES = ("\u00a0", "\u3000", "\u2009")
BREAKS = ("\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")
INVISIBLE = ("\u200b", "\u00ad", "\u2060", "\u200f")
ODD = (*SPACES, *BREAKS, *INVISIBLE)
odd = pytest.mark.parametrize("character", ODD, ids=ascii)


@odd
def test_only_newlines_end_lines(character, tmp_path):
    """Of data, of the command line's input, and of the outputs that studies resample."""
    line = f"a{character}b"
    assert lines(f"{line}\r\n{line}\n\n") == [line, line, ""] and lines("") == []
    assert list(common.lines(io.BytesIO(f"{line}\r\n{line}\n".encode()), "stdin")) == [line, line]
    for side in ("en", "de"):
        (tmp_path / f"train.{side}").write_text(f"{line}\n{line}\n", encoding="utf-8")
    (tmp_path / "train.txt").write_text(f"{line}\n\n{line}\n", encoding="utf-8")
    pairs = sources.read(Data(source="text", directory=str(tmp_path)), "train", tmp_path)
    documents = sources.read(Data(source="documents", directory=str(tmp_path), document="line"), "train", tmp_path)
    assert pairs and [example["source"] for example in pairs.examples] == [line] * 2
    assert documents and [example["text"] for example in documents.examples] == [line] * 2


@odd
def test_outputs_are_resampled_line_by_line(character, tmp_path, monkeypatch):
    text = f"a{character}b"
    row = {"source": text, "prediction": text, "reference": text}
    monkeypatch.setattr(resampling.Workdir, "outputs_file", lambda workdir, split: tmp_path / "test.jsonl")
    (tmp_path / "test.jsonl").write_text(2 * (json.dumps(row, ensure_ascii=False) + "\n"), encoding="utf-8")
    run = SimpleNamespace(folder=lambda root: tmp_path, config=Config())
    found = resampling._outputs(run, tmp_path, "test", "exact_match", "prediction")  # type: ignore[arg-type]
    assert found and np.array_equal(found.statistics_SxK, [[1, 1], [1, 1]])


@odd
def test_a_word_that_has_a_tag_may_have_any_of_them(character, tmp_path):
    """From the file over its tokens to the score."""
    word = f"10{character}000"
    assert tagged_words(f" {word} \t b\n") == [word, "b"]
    (tmp_path / "train.conll").write_text(f"{word} B-NUM\nb O\n", encoding="utf-8")
    split = sources.read(Data(source="conll", directory=str(tmp_path)), "train", tmp_path)
    assert split and dict(split.examples[0]) == {"text": f"{word} b", "tags": "B-NUM O"}
    made = encode.tagged(split.examples, {"text": Characters(sorted({*word, "b"}))}, encode.find_labels(split.examples))
    assert made["tags"][0].tolist() == [0, -1, -1, -1, -1, -1, 1]
    assert scores.score("entity_f1", ["B-NUM O"], [split.examples[0]["tags"]]).value == 100


@pytest.mark.parametrize("character", (*SPACES, *BREAKS), ids=ascii)
def test_white_space_is_stripped_and_separates_counted_words(character):
    """As in training, so in use. What is invisible but no white space stays."""
    assert clean(Config(), f"{character}a b{character}") == "a b"
    assert scores.count_words([f"a{character}b", f"{character}c"]) == 3
    assert Characters([character]).starts_word()[4]
    assert all(clean(Config(), each) == each and scores.count_words([f"a{each}b"]) == 1 for each in INVISIBLE)
    assert Bytes().starts_word()[[4 + 0x20, 4 + 0x0A, 4 + 0xA0, 4 + 0x85]].tolist() == [True, True, False, False]


@pytest.mark.parametrize("digit", ["\u00b2", "\u2460", "\u0663", "\u00bd", "\uff13"], ids=ascii)
def test_digits_of_other_scripts(digit):
    """Of labels those of a decimal system are numbers, others text; a checkpoint's folder has ASCII's alone."""
    examples = [{"label": label} for label in ("10", digit, "9", "a")]
    numbers = ["9", "10"] if not digit.isdecimal() else [digit, "9", "10"]
    assert encode.find_labels(examples) == (*numbers, *sorted({digit, "a"} - set(numbers)))
    assert not _is_step(digit) and _is_step("100") and not _is_step("")
    assert scores.bucket(f"{digit}-9") == (range(int(digit), 10) if digit.isdecimal() else None)


@odd
def test_invisible_characters_are_shown_by_name(character):
    assert Characters([character]).pieces([4]) == [repr(character)[1:-1]]
