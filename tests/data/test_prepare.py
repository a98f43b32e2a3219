"""Prepared data in the workdir: vocabularies learned only from the training split, and cached tokens that depend on their
content."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from transformer.config import Data, DataInfo
from transformer.data import encode, sources
from transformer.data.prepare import Folders, Split, Text, encode_split, load_vocabularies, make_data_info, make_vocabularies
from transformer.data.tokenizers.vocabulary import UNKNOWN, Bytes, Characters
from transformer.errors import UserError

FIELDS = ("source", "target")
DATA_INFO = DataInfo(0, 0, 0, 0)
TEXT = {
    "train.en": "abba\naba\n\nb\n",
    "train.de": "xyx\ny\nx\nyy\n",
    "val.en": "abc\n",  # c, z and so on are in no other split
    "val.de": "xyz\n",
    "test.en": "bd\na\n",
    "test.de": "yw\nx\n",
}


@pytest.fixture
def data(tmp_path) -> Data:
    folder = tmp_path / "text"
    folder.mkdir()
    for name, text in TEXT.items():
        (folder / name).write_text(text)
    return Data(source="text", directory=str(folder), validation="val", vocabulary="characters", vocabulary_size=20)


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders(tmp_path / "run" / "vocabulary", tmp_path / "run" / "tokens", tmp_path / "run" / "data")


def ignore(text: str) -> None:
    pass


def text_of(data: Data, folders: Folders, notice=ignore) -> Text:
    return Text(data, FIELDS, folders.cache, notice)


def make(data: Data, folders: Folders):
    return make_vocabularies(text_of(data, folders), FIELDS, folders)


def split_of(data: Data, name, folders: Folders, vocabularies) -> Split:
    text = text_of(data, folders)
    split = encode_split(text, name, folders, vocabularies, DATA_INFO, encode.texts)
    assert split is not None
    return split


def tokens(split: Split) -> dict[str, list[list[int]]]:
    return {field: [row.tolist() for row in rows] for field, rows in split.tokens.items()}


def known(vocabulary) -> set[str]:
    assert isinstance(vocabulary, Characters)
    return set(vocabulary.characters)


# --- vocabularies ------------------------------------------------------------------------------------------------------


def test_vocabularies_are_learned_from_the_training_split_alone(data, folders):
    joint = make(data, folders)
    assert joint["source"] is joint["target"] and known(joint["source"]) == set("abxy")
    assert os.listdir(folders.vocabulary) == ["joint.characters.json"]


def test_separate_vocabularies_are_learned_from_their_own_side(data, folders):
    data = dataclasses.replace(data, joint_vocabulary=False)
    made = make(data, folders)
    assert known(made["source"]) == set("ab") and known(made["target"]) == set("xy")
    assert sorted(os.listdir(folders.vocabulary)) == ["source.characters.json", "target.characters.json"]
    assert {field: known(v) for field, v in load_vocabularies(data, FIELDS, folders.vocabulary).items()} == {
        field: known(v) for field, v in made.items()
    }


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_vocabularies_are_read_again_and_not_learned(data, folders, joint, kind):
    data = dataclasses.replace(data, joint_vocabulary=joint, vocabulary=kind)
    made = make(data, folders)
    Path(data.directory, "train.en").unlink()
    for again in (make(data, folders), load_vocabularies(data, FIELDS, folders.vocabulary)):
        assert set(again) == set(FIELDS) and (again["source"] is again["target"]) == joint
        for field in FIELDS:
            assert again[field].size == made[field].size
            for text in TEXT.values():
                assert again[field].encode(text) == made[field].encode(text)


def test_notices_of_the_vocabulary_are_passed_on(data, folders):
    notices = []
    make_vocabularies(text_of(dataclasses.replace(data, vocabulary_size=30), folders, notices.append), FIELDS, folders)
    assert notices[-1].startswith("vocabulary: ") and "8" in notices[-1] and "config.data.vocabulary_size" in notices[-1]
    notices.clear()
    apart = dataclasses.replace(data, vocabulary_size=30, joint_vocabulary=False)
    elsewhere = dataclasses.replace(folders, vocabulary=folders.vocabulary.with_name("apart"))
    make_vocabularies(text_of(apart, folders, notices.append), FIELDS, elsewhere)
    assert [line.partition(":")[0] for line in notices[-2:]] == ["source vocabulary", "target vocabulary"]


def test_lowercase_text_makes_a_lowercase_vocabulary(data, folders):
    Path(data.directory, "train.en").write_text("AB\nB\nA\nb\n")
    assert known(make(dataclasses.replace(data, lowercase=True), folders)["source"]) == set("abxy")


def test_without_a_training_split_there_is_nothing_to_learn(data, folders):
    with pytest.raises(UserError, match="config.data.train is none"):
        make(dataclasses.replace(data, train=None), folders)
    assert not folders.vocabulary.exists()


def test_a_vocabulary_that_cannot_be_written_gives_a_one_line_error(data, folders):
    folders.vocabulary.parent.write_text("a file where the workdir should be")
    with pytest.raises(UserError, match=f"^{folders.vocabulary}: cannot write the vocabulary: "):
        make(data, folders)


def test_an_incomplete_workdir_gives_a_one_line_error(data, folders):
    make(data, folders)
    with pytest.raises(UserError, match="there is no vocabulary 'source'"):
        load_vocabularies(dataclasses.replace(data, joint_vocabulary=False), FIELDS, folders.vocabulary)


@pytest.mark.parametrize("joint", [True, False])
def test_data_info_has_the_vocabularies_sizes(data, folders, joint):
    Path(data.directory, "train.de").write_text("xyz\ny\nx\nyy\n")
    data = dataclasses.replace(data, joint_vocabulary=joint)
    data_info = make_data_info(make(data, folders), None, text_of(data, folders), None)
    sizes = (data_info.source_size, data_info.target_size)
    assert sizes == (data_info.source_rows, data_info.target_rows) == ((9, 9) if joint else (6, 7))


# --- splits ------------------------------------------------------------------------------------------------------------


def test_a_split_has_its_text_and_its_tokens(data, folders):
    made = make(data, folders)
    split = split_of(data, "test", folders, made)
    assert [dict(example) for example in split.examples] == [{"source": "bd", "target": "yw"}, {"source": "a", "target": "x"}]
    a, b, x, y = (made["source"].encode(character)[0] for character in "abxy")
    assert tokens(split) == {"source": [[b, UNKNOWN], [a]], "target": [[y, UNKNOWN], [x]]}


def test_each_side_has_its_own_vocabulary(data, folders):
    data = dataclasses.replace(data, joint_vocabulary=False)
    made = make(data, folders)
    assert tokens(split_of(data, "train", folders, made)) == {
        "source": [made["source"].encode(text) for text in ("abba", "aba", "b")],
        "target": [made["target"].encode(text) for text in ("xyx", "y", "yy")],
    }


def test_notices_of_the_source_are_passed_on(data, folders):
    notices = []
    encode_split(text_of(data, folders, notices.append), "train", folders, make(data, folders), DATA_INFO, encode.texts)
    assert (notices[0].count, notices[0].of) == (1, 4) and "line 3" in notices[1]


def test_the_unknown_tokens_of_each_split_are_reported(data, folders):
    notices, made = [], make(data, folders)
    text = text_of(data, folders, notices.append)
    train, test = (encode_split(text, name, folders, made, DATA_INFO, encode.texts) for name in ("train", "test"))
    assert train and test
    assert [(cut.where, cut.count, cut.of) for cut in test.cuts] == [("test", 1, 3), ("test", 1, 3)]
    assert ["(source)" in test.cuts[0].what, "(target)" in test.cuts[1].what] == [True, True]
    assert [each for each in notices if each in test.cuts] == list(test.cuts)
    assert not any("unknown" in cut.what for cut in train.cuts)


def test_a_split_that_no_setting_names_is_none(data, folders):
    made = make(data, folders)
    text = text_of(dataclasses.replace(data, test=None), folders)
    assert encode_split(text, "test", folders, made, DATA_INFO, encode.texts) is None
    assert not folders.tokens.exists()


def test_tokens_are_made_once(data, folders, monkeypatch):
    made = make(data, folders)
    first = split_of(data, "train", folders, made)
    monkeypatch.setattr(encode, "tokenize", None)
    again = split_of(data, "train", folders, load_vocabularies(data, FIELDS, folders.vocabulary))
    assert tokens(again) == tokens(first) and again.fingerprint == first.fingerprint
    assert isinstance(again.tokens["source"].values.base, np.memmap)
    assert len(os.listdir(folders.tokens)) == 1
    for path in Path(data.directory).iterdir():  # the same content elsewhere
        path.rename(path.with_name("moved_" + path.name))
    moved = dataclasses.replace(data, train="moved_train")
    assert tokens(split_of(moved, "train", folders, made)) == tokens(first)


def test_tokens_follow_the_text(data, folders):
    made = make(data, folders)
    old = split_of(data, "validation", folders, made)
    Path(data.directory, "val.de").write_text("yx\n")
    new = split_of(data, "validation", folders, made)
    assert new.fingerprint != old.fingerprint
    assert tokens(new)["source"] == tokens(old)["source"] and tokens(new)["target"] == [made["target"].encode("yx")]
    assert len(os.listdir(folders.tokens)) == 2


def test_tokens_follow_the_direction(data, folders):
    made = make(data, folders)
    there = tokens(split_of(data, "train", folders, made))
    swapped = dataclasses.replace(data, source_language="de", target_language="en")
    back = tokens(split_of(swapped, "train", folders, made))
    assert back == {"source": there["target"], "target": there["source"]} and back != there


def test_tokens_follow_the_vocabulary(data, folders):
    old = tokens(split_of(data, "train", folders, make(data, folders)))
    for path in folders.vocabulary.iterdir():
        path.unlink()
    Bytes().save(folders.vocabulary, "joint")
    data = dataclasses.replace(data, vocabulary="bytes")
    new = tokens(split_of(data, "train", folders, load_vocabularies(data, FIELDS, folders.vocabulary)))
    assert new["source"] == [[byte + 4 for byte in text.encode()] for text in ("abba", "aba", "b")] != old["source"]


def test_tokens_follow_the_contents_of_a_vocabulary(data, folders):
    made = make(data, folders)
    old = tokens(split_of(data, "train", folders, made))
    Characters(made["source"].characters[::-1]).save(folders.vocabulary, "joint")  # type: ignore[attr-defined]
    made = load_vocabularies(data, FIELDS, folders.vocabulary)
    new = tokens(split_of(data, "train", folders, made))
    assert new["source"] == [made["source"].encode(text) for text in ("abba", "aba", "b")] != old["source"]


# --- text, labels, data information -----------------------------------------------------------------------------------


def test_a_split_is_read_once(data, folders, monkeypatch):
    asked, real = [], sources.read
    monkeypatch.setattr(sources, "read", lambda data, name, cache: asked.append(name) or real(data, name, cache))
    text = text_of(data, folders)
    made = make_vocabularies(text, FIELDS, folders)
    data_info = make_data_info(made, None, text, None)
    assert encode_split(text, "train", folders, made, data_info, encode.texts)
    assert asked == ["train"]


@pytest.fixture
def wordy(tmp_path) -> Data:
    words = ["walking", "walked", "talking", "talked", "talks"]
    lines = [" ".join(words[(i + j) % 5] for j in range(6)) + f" {i}" for i in range(40)]
    for name in ("train.en", "train.de", "val.en", "val.de"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return Data(source="text", directory=str(tmp_path), validation="val", test=None, vocabulary_size=60, segmentations=4)


def test_training_texts_have_several_segmentations(wordy, folders):
    text = text_of(wordy, folders)
    made = make_vocabularies(text, FIELDS, folders)
    plain = encode_split(text, "train", folders, made, DATA_INFO, encode.texts)
    split = encode_split(text, "train", folders, made, DATA_INFO, encode.texts, training=True)
    assert plain and split
    for field in FIELDS:
        rows, once = tokens(split)[field], tokens(plain)[field]
        assert len(rows) == 4 * 40 and rows[:40] == once
        assert [made[field].decode(row) for row in rows] == [e[field] for e in plain.examples] * 4
        copies = [str(rows[first : first + 40]) for first in range(0, 160, 40)]
        assert len(set(copies)) == 4 and len(str(rows)) > 4.2 * len(str(once))
    assert tokens(split)["source"] != tokens(split)["target"]  # the two are drawn apart, even where their texts are one
    # Drawn again, in another folder, they are the same; another rate draws others.
    others = dataclasses.replace(folders, tokens=folders.tokens.with_name("other"))
    again = encode_split(text, "train", others, made, DATA_INFO, encode.texts, training=True)
    assert again and tokens(again) == tokens(split)
    text.data = dataclasses.replace(wordy, segmentation_rate=0.3)
    shorter = encode_split(text, "train", folders, made, DATA_INFO, encode.texts, training=True)
    assert shorter and len(str(tokens(shorter))) > 1.1 * len(str(tokens(split)))


def test_a_source_without_the_fields_wanted_says_what_it_has(data, folders):
    with pytest.raises(UserError, match="config.data.source text: its examples have source, target, and .* needs text, label"):
        Text(data, ("text", "pair", "label"), folders.cache, ignore).split("train")


def test_splits_with_different_fields_are_an_error(labelled, folders):
    """Otherwise a model of pairs would be scored on single texts."""
    Path(labelled.directory, "train.tsv").write_text("good\tab\tba\nbad\taa\tb\n")
    text = Text(labelled, ("text", "pair", "label"), folders.cache, ignore)
    text.training()
    with pytest.raises(
        UserError, match="config.data.validation validation: its examples have label, text, .*train label, text, pa"
    ):
        text.split("validation")


@pytest.fixture
def labelled(tmp_path) -> Data:
    for name, lines in {
        "train": "good\tab ba\nbad\taa\n10\tb\n9\tb\n",
        "validation": "bad\tab\n",
        "test": "worse\tb\n",
    }.items():
        (tmp_path / f"{name}.tsv").write_text(lines)
    return Data(source="tsv", directory=str(tmp_path), vocabulary="characters", vocabulary_size=20)


def test_labels_are_those_of_training_numbers_by_value(labelled, folders):
    text = Text(labelled, ("text", "pair", "label"), folders.cache, ignore)
    made = make_vocabularies(text, ("text", "pair"), folders)
    data_info = make_data_info(made, None, text, None)
    assert data_info.labels == ("9", "10", "bad", "good")
    split = encode_split(text, "train", folders, made, data_info, encode.classified)
    assert split is not None and tokens(split)["label"] == [[3], [2], [1], [0]] and "pair" not in split.tokens
    with pytest.raises(
        UserError, match="example 1 of this split or slice has the label 'worse', .* the labels are 9, 10, bad, good"
    ):
        encode_split(text, "test", folders, made, data_info, encode.classified)


def test_a_mask_and_sentinels_come_after_the_vocabulary(data, folders):
    text = text_of(data, folders)
    made = make(data, folders)
    masked, spanned = make_data_info(made, "mask", text, None), make_data_info(made, "sentinels", text, None)
    assert (masked.source_size, masked.mask, masked.sentinels) == (9, 8, 0)
    assert (spanned.target_size, spanned.mask, spanned.sentinels) == (108, None, 100)


def test_a_run_that_starts_from_another_has_its_data_info_and_its_own_labels(labelled, folders):
    text = Text(labelled, ("text", "pair", "label"), folders.cache, ignore)
    base = DataInfo(50, 60, 56, 64, start=7, mask=49, labels=("x",))
    data_info = make_data_info(make_vocabularies(text, ("text", "pair"), folders), None, text, base)
    assert data_info == dataclasses.replace(base, labels=("9", "10", "bad", "good"))


# --- ids of labels, tags and spans -------------------------------------------------------------------------------------

LETTERS = Characters("abcdefghijklmnopqrstuvwxyz ")


def test_a_words_first_token_has_its_tag():
    examples = [{"text": "ab c", "tags": "B-X O"}, {"text": "def", "tags": "O"}]
    made = encode.tagged(examples, {"text": LETTERS}, ("B-X", "O"))
    assert made["tags"][0].tolist() == [0, -1, 1] and made["tags"][1].tolist() == [1, -1, -1]
    assert made["text"][0].tolist() == LETTERS.encode("abc")
    bare = encode.tagged([{"text": "ab c"}], {"text": LETTERS}, ())
    assert bare["tags"][0].tolist() == [0, -1, 0]


def test_a_span_is_the_tokens_that_touch_the_answer():
    texts = {"question": "which", "text": "one two three"}
    examples = [
        texts | {"answer": "two", "start": "4"},
        texts | {"answer": "", "start": "-1"},
        {**texts, "text": "two"} | {"answer": "two", "start": "0"},
    ]
    made = encode.answered(examples, {"question": LETTERS, "text": LETTERS}, ())
    assert [row.tolist() for row in made["span"]] == [[4, 6], [], [0, 2]]


def test_sentence_ends():
    vocabulary = Characters("ab.!?")
    assert encode.sentence_ends(vocabulary, 9).tolist() == [False] * 6 + [True] * 3
