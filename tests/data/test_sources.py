"""Pairs of texts: reading, errors for bad input, and that TensorFlow is not imported."""

import dataclasses
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import num2words
import pytest
import tensorflow_datasets as tfds

from transformer.config import Data
from transformer.cuts import Cut
from transformer.data import sources
from transformer.data.synthetic import number_words, tasks
from transformer.errors import UserError

ROOT = Path(__file__).parents[2]
SPLITS: tuple[sources.SplitName, ...] = ("train", "validation", "test")
SMALL = Data(number_range=(0, 3000), number_train_size=300, number_test_size=40)


def pairs(split: sources.Split | None) -> list[tuple[str, str]]:
    assert split is not None
    return [(example["source"], example["target"]) for example in split.examples]


def message(data: Data, split: sources.SplitName, folder: Path) -> str:
    """The error message of `read`."""
    with pytest.raises(UserError) as error:
        sources.read(data, split, folder)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- two text files ----------------------------------------------------------------------------------------------------


def text_data(folder: Path, en: bytes | None, de: bytes | None, name: str = "train", **settings) -> Data:
    for language, content in (("en", en), ("de", de)):
        if content is not None:
            (folder / f"{name}.{language}").write_bytes(content)
    return Data(source="text", directory=str(folder), **settings)


def test_only_newlines_end_a_line(tmp_path):
    en = "\ufeff one\u2028two \r\nthree\x85four\x0bfive\n\tÄ \nlast".encode()
    data = text_data(tmp_path, en, b"1\n2\n3\n4\n")
    want = [("one\u2028two", "1"), ("three\x85four\x0bfive", "2"), ("Ä", "3"), ("last", "4")]
    assert pairs(sources.read(data, "train", tmp_path)) == want


def test_gzip_reads_as_plain(tmp_path):
    data = text_data(tmp_path, b"One\nTwo\n", b"Eins\nZwei\n")
    plain = sources.read(data, "train", tmp_path)
    for path in list(tmp_path.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = sources.read(data, "train", tmp_path)
    assert plain and packed and pairs(plain) == pairs(packed) == [("One", "Eins"), ("Two", "Zwei")]
    assert plain.fingerprint == packed.fingerprint


@pytest.mark.parametrize(
    "other", [(b"One\nTwo\n", b"Eins\nDrei\n"), (b"OneTwo\n", b"EinsZwei\n"), (b"one\ntwo\n", b"eins\nzwei\n")]
)
def test_fingerprint_tells_contents_apart(tmp_path, other):
    first = sources.read(text_data(tmp_path, b"One\nTwo\n", b"Eins\nZwei\n"), "train", tmp_path)
    second = sources.read(text_data(tmp_path, *other), "train", tmp_path)
    assert first and second and first.fingerprint != second.fingerprint


def test_lowercase(tmp_path):
    data = text_data(tmp_path, "ONE Ö\n".encode(), b"Eins\n")
    kept, lowered = (sources.read(dataclasses.replace(data, lowercase=x), "train", tmp_path) for x in (False, True))
    assert pairs(kept) == [("ONE Ö", "Eins")] and pairs(lowered) == [("one ö", "eins")]
    assert kept and lowered and kept.fingerprint != lowered.fingerprint


def test_blank_pairs_are_skipped_in_training_alone(tmp_path):
    sides = b"a\n\nc\n \ne\n", b"A\nB\n\t\n\nE\n"
    data = text_data(tmp_path, *sides)
    text_data(tmp_path, *sides, name="validation")
    text_data(tmp_path, *sides, name="test")
    train = sources.read(data, "train", tmp_path)
    assert pairs(train) == [("a", "A"), ("e", "E")]
    assert train and train.notices[0] == Cut(3, 5, "pairs have a blank side and were left out", "train")
    assert train.notices[1:] == (f"{tmp_path / 'train.en'}: the first pair with a blank side is in line 2",)
    for kept in (sources.read(data, "validation", tmp_path), sources.read(data, "test", tmp_path)):
        assert kept and kept.notices == ()
        assert pairs(kept) == [("a", "A"), ("", "B"), ("c", ""), ("", ""), ("e", "E")]


def test_no_directory_is_the_current_one(tmp_path, monkeypatch):
    data = dataclasses.replace(text_data(tmp_path, b"a\n", b"b\n", name="mine"), directory=None, train="mine", test=None)
    monkeypatch.chdir(tmp_path)
    assert pairs(sources.read(data, "train", tmp_path)) == [("a", "b")]
    assert sources.read(data, "test", tmp_path) is None


@pytest.mark.parametrize(
    ("en", "de", "words"),
    [
        (None, b"a\n", ["train.en: there is no such file", "train.en.gz", "config.data.directory"]),
        (b"a\n", None, ["train.de: there is no such file", "config.data.target_language"]),
        (b"", b"", ["train.en: the file is empty"]),
        (b"a\nb\n", b"a\n", ["train.en has 2 lines", "train.de has 1"]),
        (b"a\nb\n", b"a\n\xe4\n", ["train.de: line 2 is not UTF-8", "0xe4"]),
        ("a\n".encode("utf-16"), b"a\n", ["train.en: line 1 is not UTF-8"]),
        (b"a\n \n", b"\nb\n", ["train.en", "train.de", "no pair of lines"]),
    ],
)
def test_bad_text(tmp_path, en, de, words):
    error_text = message(text_data(tmp_path, en, de), "train", tmp_path)
    assert all(word in error_text for word in words), error_text


def test_missing_file_names_the_nearest(tmp_path):
    data = text_data(tmp_path, b"a\n", b"b\n", validation="trian")
    assert "did you mean 'train.en'" in message(data, "validation", tmp_path)


DAMAGED = [b"no gzip", gzip.compress(b"a\n" * 999)[:-9], gzip.compress(b"a\n")[:12] + b"\xff" * 20]


@pytest.mark.parametrize("damage", DAMAGED, ids=["no gzip", "cut", "wrong"])
def test_damaged_gzip(tmp_path, damage):
    data = text_data(tmp_path, None, b"a\n")
    (tmp_path / "train.en.gz").write_bytes(damage)
    assert "train.en.gz: cannot be read" in message(data, "train", tmp_path)


# --- numbers in words --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    sources.read(SMALL, "train", folder)
    return folder


def test_numbers_on_disk(small_cache):
    numbers_builder: Any = tasks.prepare(SMALL, small_cache)
    numbers: dict[str, set[int]] = {}
    for split, size in zip(SPLITS, (300, 40, 40), strict=True):
        records = list(numbers_builder.as_data_source(split))
        numbers[split] = {int(record["number"]) for record in records}
        assert len(records) == len(numbers[split]) == size
        assert numbers[split] <= set(range(3000))
        want = [tuple(num2words.num2words(int(r["number"]), lang=language) for language in ("en", "de")) for r in records]
        assert want == pairs(sources.read(SMALL, split, small_cache))
    assert len(numbers["train"] | numbers["validation"] | numbers["test"]) == 380


def test_a_prepared_data_set_is_used_again(small_cache, monkeypatch):
    monkeypatch.setattr(number_words, "draw", lambda data: pytest.fail("prepared again"))
    split = sources.read(SMALL, "train", small_cache)
    assert split and len(split.examples) == 300
    assert "300 of 3,000 numbers (10.0%)" in split.notices[0]


def test_slices_indices_and_iteration_agree(small_cache):
    split = sources.read(SMALL, "test", small_cache)
    assert split is not None
    examples = split.examples
    everything = list(examples)
    assert everything == [examples[i] for i in range(40)] == examples[:]
    assert examples[5:9] == everything[5:9] and examples[-1] == everything[-1]
    with pytest.raises(IndexError):
        examples[40]


@pytest.mark.parametrize(
    "change",
    [{"target_language": "fr"}, {"number_train_size": 299}, {"number_range": (1, 3000)}, {"number_test_range": (0, 2000)}],
)
def test_other_settings_are_another_data_set(small_cache, change):
    changed = dataclasses.replace(SMALL, **change)
    assert number_words.name(changed) != number_words.name(SMALL)
    first, second = (sources.read(data, "test", small_cache) for data in (SMALL, changed))
    assert first and second and first.fingerprint != second.fingerprint


def test_a_stopped_preparation_leaves_nothing_broken(tmp_path, monkeypatch):
    def stop(number):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(number_words, "speller", lambda *_: stop)
        sources.read(SMALL, "train", tmp_path)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*array_record*"))
    (tmp_path / "number_words" / number_words.name(SMALL) / "incomplete.AAAAAA_1.0.0").mkdir(parents=True)  # as kill -9 does
    assert len(pairs(sources.read(SMALL, "train", tmp_path))) == 300


def test_two_runs_may_prepare_at_once(tmp_path, monkeypatch):
    prepare: Any = tasks.Synthetic.download_and_prepare

    def late(self, **arguments):
        prepare(self, **arguments)
        raise OSError("the folder is there")

    monkeypatch.setattr(tasks.Synthetic, "download_and_prepare", late)
    assert len(pairs(sources.read(SMALL, "train", tmp_path))) == 300


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    error_text = message(SMALL, "train", tmp_path / "file")
    assert "file: cannot write the data set" in error_text and "config.data.directory" in error_text
    assert (
        len(pairs(sources.read(dataclasses.replace(SMALL, directory=str(tmp_path / "own")), "test", tmp_path / "file"))) == 40
    )


def test_the_draw_does_not_change():
    # Runs are compared over years: who draws otherwise must raise the version of the data set.
    splits = number_words.draw(Data())
    assert [splits[split][:3] for split in ("train", "validation", "test")] == [
        [673892, 871485, 37792],
        [885440, 403958, 794772],
        [770974, 261299, 599322],
    ]
    fewer = number_words.draw(Data(number_train_size=100, number_train_range=(0, 5000)))
    assert fewer["test"] == splits["test"] and max(fewer["train"]) < 5000


def test_test_numbers_are_even_and_short_ones_trained_on():
    splits = number_words.draw(Data())
    for split in ("validation", "test"):
        tenths = [sum(n // 100_000 == tenth for n in splits[split]) for tenth in range(10)]
        assert all(150 < count < 250 for count in tenths), tenths  # 200 expected, standard deviation 13
    held = {*splits["validation"], *splits["test"]}
    assert set(range(100)) - held <= set(splits["train"])
    assert sum(n < 100_000 for n in splits["train"]) < 9_000  # the others are drawn evenly: 3,500, and 4,200 short ones


def test_test_numbers_by_digits_and_trained_ones():
    """Each number of digits is equally frequent, but at most a quarter of its numbers is in both splits together; splits are
    disjoint."""
    data = Data(number_test_range=(100, 1_000_000), number_test_by_digits=1.0, number_train_by_digits=0.5)
    splits = number_words.draw(data)
    counts = {d: sum(len(str(n)) == d for n in splits["test"]) for d in range(1, 7)}
    assert counts[1] == counts[2] == 0 and 80 < counts[3] < 150 and all(450 < counts[d] < 1000 for d in (4, 5, 6))
    held = {*splits["validation"], *splits["test"]}
    assert len(held) == 4000 and not held & set(splits["train"]) and sum(n < 1000 for n in held) <= 275
    assert number_words.draw(dataclasses.replace(data, number_train_size=500))["test"] == splits["test"]
    trained = number_words.trained(data)
    assert [example["number"] for example in trained] == list(range(100)) and trained[4]["target"] == "vier"
    copied = number_words.draw(dataclasses.replace(data, number_small_copies=3))
    assert copied["test"] == splits["test"] and len(copied["train"]) == len(splits["train"]) == 40_000
    assert all(copied["train"].count(n) == (3 if n < 100 else 1) for n in [0, 99, *copied["train"][:50]])


def test_ranges():
    data = Data(
        number_range=(0, 100),
        number_train_range=(0, 50),
        number_test_range=(50, 100),
        number_train_size=50,
        number_test_size=25,
    )
    splits = number_words.draw(data)
    assert sorted(splits["train"]) == list(range(50))
    assert sorted(splits["validation"] + splits["test"]) == list(range(50, 100))
    overlapping = number_words.draw(Data(number_range=(90, 120), number_train_size=20, number_test_size=5))
    assert sorted(sum(overlapping.values(), [])) == list(range(90, 120))
    huge = number_words.draw(Data(number_range=(0, 10**18), number_train_size=50, number_test_size=5))
    assert max(huge["train"]) > 10**17


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"number_train_size": 2921}, ["number_train_size 2921", "number_train_range 0,3000", "2,920"]),
        ({"number_small_copies": 40, "number_test_range": (100, 3000)}, ["number_small_copies 40", "number_train_size 300"]),
        ({"number_train_range": (0, 100)}, ["number_train_size 300", "number_train_range 0,100"]),
        ({"number_test_size": 1501}, ["number_test_size 1501", "3002", "number_test_range 0,3000"]),
        ({"number_range": (0, 10**18 + 1)}, ["number_range", "10^18"]),
        ({"target_language": "en_GB"}, ["config.data.target_language en_GB", "did you mean"]),
        ({"source_language": "xx"}, ["config.data.source_language xx", "de, "]),
        ({"target_language": "am"}, ["config.data.target_language am", "cannot write"]),
        ({"train": "trian"}, ["config.data.train trian", "did you mean 'train'"]),
        ({"train": "train[:0]"}, ["config.data.train train[:0]", "the split is empty", "train, validation, test"]),
    ],
)
def test_bad_numbers(small_cache, change, words):
    error_text = message(dataclasses.replace(SMALL, **change), "train", small_cache)
    assert all(word in error_text for word in words), error_text


@pytest.mark.parametrize(
    ("number", "english", "german"),
    [
        (0, "zero", "null"),
        (1, "one", "eins"),
        (21, "twenty-one", "einundzwanzig"),
        (1_000, "one thousand", "eintausend"),
        (21_005, "twenty-one thousand and five", "einundzwanzigtausendfünf"),
        (
            999_999,
            "nine hundred and ninety-nine thousand, nine hundred and ninety-nine",
            "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
        ),
    ],
)
def test_words(number, english, german):
    assert number_words.speller("en", "source_language", 1_000_000)(number) == english
    assert number_words.speller("de", "target_language", 1_000_000)(number) == german


# am fails on most numbers; tet writes a number in one way or another depending on those before.
@pytest.mark.parametrize("language", sorted(set(num2words.CONVERTER_CLASSES) - {"am", "tet"}))
def test_the_fast_speller_writes_what_num2words_does(language):
    few = [0, 1, 7, 10, 21, 80, 99, 100, 101, 999, 1000, 1001, 2000, 12_345, 70_071, 100_000, 880_412, 999_999]
    for below in (1_000_000, 1_000_001, 10**10):
        spell = number_words.speller(language, "target_language", below)
        for number in [*few, below - 1]:
            assert spell(number) == " ".join(num2words.num2words(number, lang=language).split()), number


def test_lowercase_numbers(tmp_path):
    data = dataclasses.replace(SMALL, number_range=(0, 40), number_train_size=5, number_test_size=2, target_language="tr")
    split = sources.read(data, "test", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(number_words, "speller", lambda *_: lambda number: f"N{number}")
        shouted = dataclasses.replace(data, target_language="de", lowercase=True)
        lowered = sources.read(shouted, "test", tmp_path)
    assert lowered and all(a.startswith("n") and a == b for a, b in pairs(lowered))
    again = sources.read(dataclasses.replace(data, lowercase=True), "test", tmp_path)
    assert split and again and split.fingerprint != again.fingerprint


def test_tensorflow_is_not_imported_and_nothing_is_printed(tmp_path):
    program = f"""
import sys
from pathlib import Path
from transformer.config import Data
from transformer.data import sources
assert "tensorflow_datasets" not in sys.modules, "TFDS is imported before it is needed"
data = Data(number_range=(0, 500), number_train_size=50, number_test_size=5)
for _ in range(2):
    examples = sources.read(data, "train", Path({str(tmp_path)!r})).examples
    assert len(list(examples)) == 50 and examples[0]["source"]
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# --- the TFDS catalogue ------------------------------------------------------------------------------------------------


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """A substitute for a translation data set of the catalogue, such as ted_hrlr_translate."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="de_to_en")]
    url_infos = None

    def _info(self):
        pair = tfds.features.Translation(languages=("de", "en"))
        return tfds.core.DatasetInfo(builder=self, features=pair, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "dev": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"de": f" Straße {number}\n", "en": f"Street {number}"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    tfds.disable_progress_bar()
    TinyPairs(data_dir=folder, config="de_to_en", file_format="array_record").download_and_prepare()
    return folder


def tfds_data(folder: Path, **changes) -> Data:
    data = Data(
        source="tfds", tfds_name="tiny_pairs/de_to_en", directory=str(folder), source_language="de", target_language="en"
    )
    return dataclasses.replace(data, validation="dev", test="train[3:]", **changes)


def test_catalogue(catalogue):
    splits = [sources.read(tfds_data(catalogue), split, catalogue) for split in SPLITS]
    want = [(f"Straße {number}", f"Street {number}") for number in range(5)]
    assert [pairs(split) for split in splits] == [want, want[:2], want[3:]]
    assert len({split.fingerprint for split in splits if split}) == 3
    turned = sources.read(tfds_data(catalogue, source_language="en", target_language="de", lowercase=True), "train", catalogue)
    assert pairs(turned)[4] == ("street 4", "straße 4")
    assert turned and splits[0] and turned.fingerprint != splits[0].fingerprint
    assert pairs(sources.read(tfds_data(catalogue, tfds_name="tiny_pairs/de_to_en:1.2.0"), "train", catalogue)) == want


def test_a_record_that_cannot_be_read_is_named(catalogue, tmp_path):
    """By its file and its number there; those before it can."""
    shutil.copytree(catalogue, tmp_path / "data")
    [file] = (tmp_path / "data").rglob("*-train.array_record*")
    whole = file.read_bytes()
    file.write_bytes(b"")
    for split, first in (("train", 0), ("test", 3)):
        with pytest.raises(UserError) as failure:
            sources.read(tfds_data(tmp_path / "data"), split, tmp_path).examples[:2]
        assert str(failure.value).startswith(f"{file}, record {first}, cannot be read (ArrayRecord file should be")
        assert str(failure.value).endswith(f"delete {file.parent} and prepare the data set again")
    damaged = bytearray(whole)
    damaged[whole.index(b"Street 4")] ^= 1
    file.write_bytes(damaged)
    examples = sources.read(tfds_data(tmp_path / "data"), "train", tmp_path).examples
    assert [example["target"] for example in examples[:4]] == [f"Street {number}" for number in range(4)]
    with pytest.raises(UserError, match="record 4, cannot be read .*hash mismatch"):
        list(examples)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tfds_name": None}, ["config.data.tfds_name is not set"]),
        ({"tfds_name": "tiny_pair/de_to_en"}, ["tiny_pair/de_to_en: not prepared", "did you mean 'tiny_pairs/de_to_en'"]),
        ({"tfds_name": "tiny_pairs/de_to_en:9.0.0"}, ["not prepared"]),
        ({"tfds_name": "a b"}, ["a b: not prepared"]),
        (
            {"tfds_name": "wmt14_translate/de-en"},
            ["TensorFlow", "tfds build wmt14_translate/de-en --file_format=array_record --data_dir=DIR"],
        ),
        ({"directory": "/nowhere"}, ["not prepared in /nowhere"]),
        ({"source_language": "fr"}, ["config.data.source_language fr", "tiny_pairs/de_to_en/1.2.0", "de, en"]),
        ({"train": "trains"}, ["config.data.train trains", "did you mean 'train'"]),
    ],
)
def test_bad_catalogue(catalogue, change, words):
    error_text = message(tfds_data(catalogue, **change), "train", catalogue)
    assert all(word in error_text for word in words), error_text


def test_another_format(catalogue, tmp_path):
    shutil.copytree(catalogue, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.rglob("dataset_info.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"}))
    error_text = message(tfds_data(tmp_path), "train", tmp_path)
    assert "tfrecord" in error_text
    assert f"tfds convert_format --out_file_format=array_record --dataset_version_dir={path.parent}" in error_text
