"""A user's files: documents, TSV, CoNLL, SQuAD, slices, mixtures, prefixes, and the error for each mistake in them."""

import collections
import dataclasses
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from transformer.config import Data
from transformer.cuts import Cut
from transformer.data import sources
from transformer.data.sources import labelled, pairs
from transformer.errors import UserError


def data(folder: Path, source: Any, content: str | bytes, name: str = "train", **settings) -> Data:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Data(source=source, directory=str(folder), **settings)


def examples(data: Data, split: sources.SplitName = "train") -> list[dict[str, str]]:
    found = sources.read(data, split, Path("/nowhere"))
    assert found is not None
    return [dict(example) for example in found.examples]


def texts(data: Data, split: sources.SplitName = "train") -> list[str]:
    return [example["text"] for example in examples(data, split)]


def message(data: Data, split: sources.SplitName = "train") -> str:
    with pytest.raises(UserError) as error:
        sources.read(data, split, Path("/nowhere"))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- documents ---------------------------------------------------------------------------------------------------------

ODD = " First\r\nline \u2028\x85\x0b two\n\n\n\tsecond \u00e4\r\n \t \r\nthird\n"


def test_a_file_is_kept_exactly(tmp_path):
    assert texts(data(tmp_path, "documents", ODD, document="file")) == [ODD]
    assert texts(data(tmp_path, "documents", "\ufeff" + ODD, document="file")) == [ODD]


def test_paragraphs_and_lines(tmp_path):
    found = data(tmp_path, "documents", ODD, document="paragraph")
    assert texts(found) == [" First\r\nline \u2028\x85\x0b two", "\tsecond \u00e4", "third"]
    lines = dataclasses.replace(found, document="line")
    assert texts(lines) == [" First", "line \u2028\x85\x0b two", "\tsecond \u00e4", "third"]
    assert texts(dataclasses.replace(lines, lowercase=True))[0] == " first"


@pytest.mark.parametrize("percent", [1, 7, 50, 89, 90, 99])
@pytest.mark.parametrize("length", [7, 10, 99, 1003])
def test_slices_are_exact(tmp_path, percent, length):
    text = "".join(chr(0x100 + i) for i in range(length))  # two bytes each: characters count
    given = data(tmp_path, "documents", text, "input.txt", document="file")

    def part(name: str) -> str:
        try:
            return texts(dataclasses.replace(given, train=name))[0]
        except UserError:
            return ""

    at = length * percent // 100
    first, rest = part(f"input.txt[:{percent}%]"), part(f"input.txt[{percent}%:]")
    assert len(first) == at and first + rest == text
    assert part(f"input.txt[{percent}%:100%]") == rest and part("input.txt[:]") == text
    middle = part(f"input.txt[{percent // 2}%:{percent}%]") if percent > 1 else ""
    assert middle == (text[length * (percent // 2) // 100 : at] if percent > 1 else "")


def test_names_may_lack_their_endings(tmp_path):
    given = data(tmp_path, "documents", "a", "train.txt", document="file")
    data(tmp_path, "documents", gzip.compress(b"b"), "validation.gz")
    data(tmp_path, "documents", gzip.compress(b"c"), "test.txt.gz")
    assert [texts(given, split) for split in ("train", "validation", "test")] == [["a"], ["b"], ["c"]]
    assert texts(dataclasses.replace(given, train="train.txt")) == ["a"]


@pytest.mark.parametrize(
    ("train", "content", "words"),
    [
        ("input.txt[:0.9]", "a", ["config.data.train input.txt[:0.9]", "NAME[:90%]"]),
        ("input.txt[:101%]", "a", ["whole percents"]),
        ("input.txt[50%:20%]", "a", ["the first smaller"]),
        ("input.txt[20%:20%]", "a", ["the first smaller"]),
        ("input.txt[90%]", "a", ["NAME[10%:20%]"]),
        ("[:90%]", "a", ["[:90%]"]),
        (
            "input.txt[:10%]",
            "123456789",
            ["config.data.train input.txt[:10%]: this slice contains none of the text", "input.txt"],
        ),
        ("input.txt", " \n\t\n", ["no text"]),
        ("input.txt", "", ["input.txt: the file is empty"]),
        ("input.txt", b"a\nb\xe4\n", ["input.txt: line 2 is not UTF-8", "0xe4"]),
        ("inptu.txt[:90%]", "a", ["inptu.txt: there is no such file", "inptu.txt.gz", "did you mean 'input.txt'"]),
    ],
)
def test_bad_documents(tmp_path, train, content, words):
    error_text = message(data(tmp_path, "documents", content, "input.txt", train=train))
    assert all(word in error_text for word in words), error_text


def test_fingerprints_tell_documents_apart(tmp_path):
    variants = [("a\nb", "file"), ("a\nb", "line"), ("a\\nb", "file"), ("ab", "file"), ("a\n\nb", "paragraph")]
    prints = []
    for text, document in variants:
        split = sources.read(data(tmp_path, "documents", text, document=document), "train", tmp_path)
        assert split is not None
        prints.append(split.fingerprint)
    assert prints[1] == prints[4] and len(set(prints)) == 4  # the same documents, however they were parted


# --- TSV ---------------------------------------------------------------------------------------------------------------


def test_tsv(tmp_path):
    given = data(tmp_path, "tsv", 'good\t A fine\u2028film \r\nbad\tNo "good"\n', "train.tsv")
    assert examples(given) == [{"label": "good", "text": "A fine\u2028film"}, {"label": "bad", "text": 'No "good"'}]
    assert examples(dataclasses.replace(given, train="train.tsv[:50%]", lowercase=True)) == [
        {"label": "good", "text": "a fine\u2028film"}
    ]
    pair = data(tmp_path, "tsv", gzip.compress(b"Yes\tA\tB\nNo\tC\tD"), "test.tsv.gz", lowercase=True)
    assert examples(pair, "test") == [{"label": "Yes", "text": "a", "pair": "b"}, {"label": "No", "text": "c", "pair": "d"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\tb\nc\n", ["train: line 2 has 1 field", "label TAB text TAB pair"]),
        ("a\tb\n\n", ["train: line 2 has 1 field"]),
        ("a\tb\tc\td\n", ["train: line 1 has 4 fields"]),
        ("a\tb\nc\td\te\n", ["train: line 2 has 3 fields, line 1 has 2"]),
        ("a\tb\n \tc\n", ["train: line 2: the label is empty"]),
        ("a\tb\nc\t\n", ["train: line 2: the text is empty"]),
        ("a\tb\tc\nd\te\t \n", ["train: line 2: the pair is empty"]),
        (b"a\tb\nc\t\xff\n", ["train: line 2 is not UTF-8"]),
    ],
)
def test_bad_tsv(tmp_path, content, words):
    error_text = message(data(tmp_path, "tsv", content))
    assert all(word in error_text for word in words), error_text


def test_a_slice_without_examples_is_named(tmp_path):
    tsv = data(tmp_path, "tsv", "a\tb\nc\td\n", "train.tsv", train="train.tsv[:10%]")
    assert "config.data.train train.tsv[:10%]: this slice contains none of the 2 examples" in message(tsv)
    given = data(tmp_path, "squad", json.dumps(squad()), "train.json", train="train.json[:10%]")
    assert "config.data.train train.json[:10%]: this slice contains none of the questions" in message(given)


# --- CoNLL -------------------------------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP {}
rejects VBZ B-VP O
German JJ B-NP {}

Peter\tNNP\tB-NP\t{}
Blackburn NNP I-NP {}
Paris NNP I-NP {}

-DOCSTART- -X- -X- O
Rome NN X O"""


def test_conll(tmp_path):
    given = data(tmp_path, "conll", CONLL.format("B-ORG", "B-MISC", "B-PER", "I-PER", "B-PER"))
    split = sources.read(given, "train", tmp_path)
    assert split and split.notices == ()
    assert list(split.examples) == [
        {"text": "EU rejects German", "tags": "B-ORG O B-MISC"},
        {"text": "Peter Blackburn Paris", "tags": "B-PER I-PER B-PER"},
        {"text": "Rome", "tags": "O"},
    ]
    assert examples(dataclasses.replace(given, lowercase=True))[0] == {"text": "eu rejects german", "tags": "B-ORG O B-MISC"}
    assert [e["text"] for e in examples(dataclasses.replace(given, train="train[50%:]"))] == ["Peter Blackburn Paris", "Rome"]


def test_iob1_becomes_bio(tmp_path):
    given = data(tmp_path, "conll", CONLL.format("I-ORG", "I-MISC", "I-PER", "I-PER", "B-PER"))
    split = sources.read(given, "train", tmp_path)
    assert split and [e["tags"] for e in split.examples] == ["B-ORG O B-MISC", "B-PER I-PER B-PER", "O"]
    assert isinstance(split.notices[0], Cut) and split.notices[0].count == 3 and split.notices[0].where == "train"
    sliced = sources.read(dataclasses.replace(given, train="train[50%:]"), "train", tmp_path)
    assert sliced and isinstance(sliced.notices[0], Cut) and (sliced.notices[0].count, sliced.notices[0].of) == (1, 4)
    mixed = ["I-A", "I-A", "B-A", "I-B", "O", "I-B", "B-B", "I-B"]
    assert labelled.to_bio(mixed) == ["B-A", "I-A", "B-A", "B-B", "O", "B-B", "B-B", "I-B"]
    assert labelled.to_bio(labelled.to_bio(mixed)) == labelled.to_bio(mixed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a O\nb\n", ["train: line 2 has one column"]),
        ("a O\n\nb X O\n", ["train: line 3 has 3 columns, but the lines before it have 2"]),
        ("a X O\nb O\n", ["train: line 2 has 2 columns"]),
        ("a O\nb B-\n", ["train: line 2: the tag B- "]),
        ("a S-PER\n", ["train: line 1: the tag S-PER", "B-PER"]),
        ("a PER\n", ["train: line 1: the tag PER"]),
        ("a o\n", ["train: line 1: the tag o "]),
        ("\n\n-DOCSTART- O\n", ["config.data.train train", "no example"]),
        (b"a O\n\xff O\n", ["train: line 2 is not UTF-8"]),
    ],
)
def test_bad_conll(tmp_path, content, words):
    error_text = message(data(tmp_path, "conll", content))
    assert all(word in error_text for word in words), error_text


# --- SQuAD -------------------------------------------------------------------------------------------------------------

CONTEXT = " The \u0130stanbul ferry \U0001f600 leaves at noon, at noon."


def squad() -> dict[str, Any]:
    def answer(text: str, start: int) -> dict[str, Any]:
        return {"text": text, "answer_start": start}

    second = CONTEXT.index("at noon", 30)
    first = {
        "id": "q1",
        "question": " When? ",
        "answers": [answer("at noon", second), answer("noon", second + 3), answer("at noon", second)],
    }
    other = {"id": "q2", "question": "Which ferry?", "answers": [answer("\u0130stanbul ferry", 5)], "is_impossible": False}
    none = {"id": "q3", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": [answer("noon", 1)]}
    article = {"title": "Ferries", "paragraphs": [{"context": CONTEXT, "qas": [first, other]}]}
    return {"version": "v2.0", "data": [article, {"paragraphs": [{"context": "None.", "qas": [none]}]}]}


def test_squad(tmp_path):
    given = data(tmp_path, "squad", json.dumps(squad()), "train.json")
    first, other, none = examples(given)
    assert first["question"] == "When?" and first["text"] == CONTEXT and first["answer"] == "at noon"
    assert int(first["start"]) == CONTEXT.rindex("at noon") and json.loads(first["answers"]) == ["at noon", "noon"]
    assert CONTEXT[int(other["start"]) :].startswith("\u0130stanbul ferry")
    assert none == {"question": "Why?", "text": "None.", "answer": "", "start": "-1", "answers": '[""]'}
    assert examples(dataclasses.replace(given, train="train[50%:]")) == [none]


def test_squad_in_lower_case(tmp_path):
    """The lower case of \u0130 has two characters, so what follows moves."""
    first, other, none = examples(data(tmp_path, "squad", json.dumps(squad()), lowercase=True))
    assert first["text"] == CONTEXT.lower() and len(first["text"]) == len(CONTEXT) + 1
    for example in (first, other):
        start = int(example["start"])
        assert example["text"][start : start + len(example["answer"])] == example["answer"]
    assert first["answer"] == "at noon" and int(first["start"]) == CONTEXT.lower().rindex("at noon")
    assert other["answer"] == "\u0130stanbul ferry".lower() == json.loads(other["answers"])[0]
    assert none["start"] == "-1" and first["question"] == "when?"


QUESTION = "data[0].paragraphs[0].qas[1]"


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ((), [], ["the file is not an object"]),
        (("data",), None, ["data is not a list"]),
        (("data",), [], ["no question"]),
        (("data", 1), 3, ["data[1] is not an object"]),
        (("data", 1, "paragraphs"), {}, ["data[1].paragraphs is not a list"]),
        (("data", 0, "paragraphs", 0, "context"), 1, ["data[0].paragraphs[0].context is not a string"]),
        (("data", 0, "paragraphs", 0, "context"), "a\ud83d", ["data[0].paragraphs[0].context", "surrogate"]),
        (("data", 0, "paragraphs", 0, "qas", 1, "question"), None, [QUESTION + ".question is not a string"]),
        (("data", 0, "paragraphs", 0, "qas", 1, "answers"), [], [QUESTION + " has no answers", "is_impossible: true"]),
        (("data", 0, "paragraphs", 0, "qas", 1, "is_impossible"), True, [QUESTION + " is_impossible and has answers"]),
        (("data", 0, "paragraphs", 0, "qas", 1, "is_impossible"), 1, [QUESTION + ".is_impossible is neither"]),
        (("data", 0, "paragraphs", 0, "qas", 1, "answers", 0), "at", [QUESTION + ".answers[0] is not an object"]),
        (
            ("data", 0, "paragraphs", 0, "qas", 1, "answers", 0),
            {"text": "a"},
            [QUESTION + ".answers[0].answer_start is missing"],
        ),
        (("data", 0, "paragraphs", 0, "qas", 1, "answers", 0, "text"), " ", [QUESTION + ".answers[0].text is blank"]),
        (("data", 0, "paragraphs", 0, "qas", 1, "answers", 0, "answer_start"), "5", ["answer_start is not a whole number"]),
        (("data", 0, "paragraphs", 0, "qas", 1, "answers", 0, "answer_start"), True, ["answer_start is not a whole number"]),
        (
            ("data", 0, "paragraphs", 0, "qas", 1, "answers", 0, "answer_start"),
            6,
            ["id q2", "not at character 6", ".answers[0]"],
        ),
        (("data", 0, "paragraphs", 0, "qas", 1, "answers", 0, "answer_start"), 4000, ["id q2", "not at character 4000"]),
        (
            ("data", 0, "paragraphs", 0, "qas", 0, "answers", 1, "answer_start"),
            -5,
            ["id q1", "not at character -5", ".answers[1]"],
        ),
    ],
)
def test_bad_squad(tmp_path, where, value, words):
    content: Any = squad()
    if not where:
        content = value
    else:
        place = content
        for key in where[:-1]:
            place = place[key]
        place[where[-1]] = value
    error_text = message(data(tmp_path, "squad", json.dumps(content), "train.json"))
    assert all(word in error_text for word in ["train.json", *words]), error_text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"data": [\n  1,]}', ["train: line 2, column", "not JSON"]),
        ("[" * 100_000, ["train: not JSON"]),
        ('{"data": ' + "1" * 10_000 + "}", ["train: not JSON"]),
        (b"{}\n\xff", ["train: line 2 is not UTF-8"]),
        ("{}", ["train: data is missing"]),
    ],
)
def test_no_json(tmp_path, content, words):
    error_text = message(data(tmp_path, "squad", content))
    assert all(word in error_text for word in words), error_text


# --- mixtures and prefixes ---------------------------------------------------------------------------------------------


def mixture(folder: Path, sizes: dict[str, int], *rates: str, **settings) -> Data:
    for task, size in sizes.items():
        (folder / task).mkdir()
        for split in ("train", "test"):
            for language in ("en", "de"):
                lines = [f"{task[0].upper()}{i} {language}" for i in range(size)]
                (folder / task / f"{split}.{language}").write_text("\n".join(lines) + "\n")
    return Data(source="text", directory=str(folder), mixture=rates, **settings)


def test_mixture(tmp_path):
    given = mixture(tmp_path, {"one_task": 20, "two": 60, "six": 20}, "one_task:1", "two:1.5", "six:2.5")
    found = examples(given)
    counts = collections.Counter(example["source"].rsplit(" ", 2)[0] for example in found)
    assert counts == {"one task:": 20, "two:": 30, "six:": 50}  # 1 : 1.5 : 2.5 of 100
    for example in found:
        task, sentence = example["source"].split(": ")
        assert sentence.endswith(" en") and example["target"] == sentence.replace(" en", " de")
        assert sentence[0] == task[0].upper()
    each = collections.Counter(example["target"] for example in found)
    assert {each[f"O{i} de"] for i in range(20)} == {1}  # all of it once
    assert [each[f"T{i} de"] for i in range(60)] == [1, 0] * 30  # every other one
    assert sorted(each[f"S{i} de"] for i in range(20)) == [2] * 10 + [3] * 10  # repeated evenly
    assert found == examples(given)
    split = sources.read(given, "train", tmp_path)
    assert split and split.examples[5:9] == found[5:9] and split.examples[-1] == found[-1]
    assert "an epoch has 100 examples, the same in each: 20 of one_task (which has 20), 30 of two" in str(split.notices[-1])
    [unread] = split.notices[:-1]
    assert isinstance(unread, Cut) and (unread.count, unread.of, unread.where) == (30, 60, "train") and "two" in unread.what
    test = [example["target"] for example in examples(given, "test")]
    assert test == [f"{t}{i} de" for t, n in (("O", 20), ("T", 60), ("S", 20)) for i in range(n)]


def test_blank_pairs_of_all_tasks_are_one_count(tmp_path):
    given = mixture(tmp_path, {"a": 3, "b": 4}, "a:2", "b:2")
    for task, text in (("a", "\nx\ny\n"), ("b", "x\n\n\ny\n")):
        (tmp_path / task / "train.en").write_text(text)
    split = sources.read(given, "train", tmp_path)
    assert split and split.notices[0] == Cut(3, 7, "pairs have a blank side and were left out", "train")
    assert ["line 1" in str(split.notices[1]), "line 2" in str(split.notices[2])] == [True, True]


def test_the_largest_remainders_are_rounded_up():
    assert pairs.shares(7, {"a": 0.1, "b": 0.2, "c": 0.7}) == {"a": 1, "b": 1, "c": 5}  # of 0.7, 1.4, 4.9


@pytest.mark.parametrize(("total", "rates"), [(10, (1, 1, 1)), (7, (0.1, 0.2, 0.7)), (1, (1, 2, 4)), (1000, (1, 1e-6, 3))])
def test_shares(total, rates):
    found = pairs.shares(total, dict(zip("abc", rates, strict=True)))
    assert sum(found.values()) == total and list(found) == ["a", "b", "c"]
    assert all(abs(n - total * rate / sum(rates)) < 1 for n, rate in zip(found.values(), rates, strict=True))


def test_lines_are_joined_one_two_three_in_turn(tmp_path):
    given = mixture(tmp_path, {"a": 8}, "a:1")
    plain = dataclasses.replace(given, mixture=(), directory=str(tmp_path / "a"))
    before, found = (examples(dataclasses.replace(plain, join=join)) for join in (1, 3))
    for side in ("source", "target"):
        lines = [pair[side] for pair in before]
        groups = [lines[:1], lines[1:3], lines[3:6], lines[6:7], lines[7:]]
        assert [pair[side] for pair in found] == [" ".join(group) for group in groups]


def test_mixture_rates_are_in_the_fingerprint(tmp_path):
    given = mixture(tmp_path, {"a": 4, "b": 4}, "a:1", "b:1")
    prints = set()
    for change in ({}, {"mixture": ("a:1", "b:3")}, {"mixture": ("b:1", "a:1")}, {"lowercase": True}, {"prefix": "x"}):
        split = sources.read(dataclasses.replace(given, **change), "train", tmp_path)
        assert split is not None
        prints.add(split.fingerprint)
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (("a",), ["config.data.mixture a:", "NAME:RATE"]),
        (("a:",), ["config.data.mixture a::", "NAME:RATE"]),
        ((":2",), ["NAME:RATE"]),
        (("a:0",), ["above 0"]),
        (("a:-1",), ["above 0"]),
        (("a:nan",), ["above 0"]),
        (("a:inf",), ["above 0"]),
        (("a:1", "a:2"), ["a is there twice"]),
        (("a:1", "bb:2"), ["config.data.mixture bb", "no folder", "did you mean 'b'"]),
        (("a:1", "empty:1"), ["empty/train.en: there is no such file"]),
    ],
)
def test_bad_mixture(tmp_path, rates, words):
    (tmp_path / "empty").mkdir()
    error_text = message(mixture(tmp_path, {"a": 2, "b": 2}, *rates))
    assert all(word in error_text for word in words), error_text


def test_prefix(tmp_path):
    given = mixture(tmp_path, {"A_b": 2}, "A_b:1", prefix="Now ")
    assert [example["source"] for example in examples(given)] == ["Now A b: A0 en", "Now A b: A1 en"]
    assert examples(dataclasses.replace(given, lowercase=True))[0] == {"source": "now a b: a0 en", "target": "a0 de"}
    (tmp_path / "test.en").write_text("One\n\n")
    (tmp_path / "test.de").write_text("Eins\nZwei\n")
    plain = dataclasses.replace(given, mixture=(), prefix="translate: ")
    assert examples(plain, "test") == [{"source": "translate: One", "target": "Eins"}, {"source": "", "target": "Zwei"}]


def test_slices_of_pairs(tmp_path):
    given = mixture(tmp_path, {"a": 10}, "a:1", train="train[:70%]", test="train[70%:]")
    whole = [f"A{i} de" for i in range(10)]
    assert [example["target"] for split in ("train", "test") for example in examples(given, split)] == whole
    assert "this slice contains none" in message(dataclasses.replace(given, train="train[:5%]"))
    (tmp_path / "a" / "train.en").write_text("\nx\ny\n\n")
    (tmp_path / "a" / "train.de").write_text("\nx\ny\nz\n")
    split = sources.read(dataclasses.replace(given, train="train[50%:]"), "train", tmp_path)
    assert split and len(split.examples) == 1 and isinstance(split.notices[0], Cut) and "line 4" in str(split.notices[1])


# --- real files --------------------------------------------------------------------------------------------------------

REAL = Path(os.environ.get("TRANSFORMER_DATA", "/nowhere"))


@pytest.mark.skipif(not (REAL / "shakespeare").is_dir(), reason="needs TRANSFORMER_DATA")
def test_shakespeare():
    given = Data(source="documents", directory=str(REAL / "shakespeare"), document="file")
    given = dataclasses.replace(given, train="input.txt[:90%]", validation="input.txt[90%:]")
    (train,), (validation,) = texts(given), texts(given, "validation")
    whole = (REAL / "shakespeare" / "input.txt").read_bytes().decode()
    assert train == whole[: int(0.9 * len(whole))] and train + validation == whole


@pytest.mark.skipif(not (REAL / "listops").is_dir(), reason="needs TRANSFORMER_DATA")
def test_listops():
    (path,) = (REAL / "listops").glob("*.gz")
    given = Data(source="tsv", directory=str(path.parent), train=path.name + "[:80%]", test=path.name.split(".")[0] + "[80%:]")
    train, test = examples(given), examples(given, "test")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert len(train) == len(lines) * 80 // 100
    assert [f"{example['label']}\t{example['text']}" for example in train + test] == lines
    assert {example["label"] for example in train} == set("0123456789")
