"""Ragged rows, tokenization, and the cache of token ids on disk."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data import corpus
from transformer.data.corpus import Ragged, cached, concatenated_ranges, tokenize
from transformer.data.objectives.base import cut
from transformer.data.sources import Examples
from transformer.data.tokenizers.vocabulary import Bytes
from transformer.errors import UserError

ROOT = Path(__file__).parents[2]
SOME = settings(max_examples=50, derandomize=True, deadline=None, database=None)
ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=6)
FIRST, SECOND = [[1, 2], [], [3]], [[4], [5, 6], []]


def lists(rows: Ragged) -> list[list[int]]:
    return [row.tolist() for row in rows]


def made() -> dict[str, Ragged]:
    return {"first": Ragged.of(FIRST), "second": Ragged.of(SECOND)}


def never() -> dict[str, Ragged]:
    raise AssertionError("built again")


# --- ragged rows -------------------------------------------------------------------------------------------------------


@SOME
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 6)), max_size=8))
def test_concatenated_ranges(ranges):
    starts, lengths = np.array(ranges, np.int64).reshape(-1, 2).T
    found = concatenated_ranges(starts, lengths)
    assert found.tolist() == [i for start, length in ranges for i in range(start, start + length)]
    assert found.dtype == np.int64


@SOME
@given(ROWS)
def test_rows_survive_a_round_trip(rows):
    ragged = Ragged.of(rows)
    assert len(ragged) == len(rows) and lists(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert (ragged.values.dtype, ragged.offsets.dtype) == (np.int32, np.int64)
    for index in (-1, len(rows)):
        with pytest.raises(IndexError):
            ragged[index]


def test_rows_of_another_type():
    assert Ragged.of([[0.5], []], np.float32).values.dtype == np.float32
    assert Ragged.of([], np.float32).values.dtype == np.float32


def test_a_worker_receives_file_names_instead_of_tokens(tmp_path):
    built = {"first": Ragged.of([range(100_000)])}
    rows = cached(tmp_path / "tokens", lambda: built)["first"]
    sent = pickle.dumps(rows)
    assert len(sent) < 1000 < len(pickle.dumps(built["first"]))
    for again in (pickle.loads(sent), pickle.loads(pickle.dumps(built["first"]))):  # noqa: S301
        assert lists(again) == [list(range(100_000))]


def test_a_worker_receives_the_places_of_chunks_instead_of_their_tokens(tmp_path):
    built = {"first": Ragged.of([range(100_000), range(7)])}
    rows = cached(tmp_path / "tokens", lambda: built)["first"]
    chunks = cut(rows, 1000)["text"]
    sent = pickle.dumps(chunks)
    assert len(sent) < 2000
    assert lists(pickle.loads(sent)) == lists(chunks) == lists(cut(built["first"], 1000)["text"])  # noqa: S301
    assert lists(pickle.loads(pickle.dumps(cut(built["first"], 1000)["text"]))) == lists(chunks)  # noqa: S301


# --- text to rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("kind", ["list", "fetched"])
def test_every_example_is_tokenised_in_order(monkeypatch, chunk, kind):
    monkeypatch.setattr(corpus, "CHUNK", chunk)
    texts = [("eins zwei", ""), ("", "Ä"), ("3", "four"), ("", ""), ("5", "fünf"), ("6", "6"), ("7", "sieben")]
    examples = [{"source": source, "target": target} for source, target in texts]
    if kind == "fetched":
        rows = examples
        examples = Examples(len(rows), lambda indices: [rows[i] for i in indices])
    found = tokenize(examples, {"target": Bytes(), "source": Bytes()})
    assert list(found) == ["target", "source"]
    for number, field in enumerate(("source", "target")):
        assert lists(found[field]) == [[byte + 4 for byte in pair[number].encode()] for pair in texts]
        assert (found[field].values.dtype, found[field].offsets.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("count", [0, 2])
def test_no_text_is_no_tokens(count):
    found = tokenize([{"source": ""}] * count, {"source": Bytes()})
    assert lists(found["source"]) == [[]] * count


# --- the cache ---------------------------------------------------------------------------------------------------------


def test_built_once_and_read_again(tmp_path):
    path = tmp_path / "tokens" / "train"
    for found in (cached(path, made), cached(path, never)):
        assert {field: lists(rows) for field, rows in found.items()} == {"first": FIRST, "second": SECOND}
        for rows in found.values():
            assert rows.values.dtype == np.int32
            assert isinstance(rows.values.base, np.memmap)  # paged in as it is used
    assert os.listdir(path.parent) == ["train"]


def test_rows_without_a_token_are_kept_too(tmp_path):
    for build in (lambda: {"none": Ragged.of([]), "blank": Ragged.of([[], []])}, never):
        found = cached(tmp_path / "tokens", build)
        assert {field: lists(rows) for field, rows in found.items()} == {"none": [], "blank": [[], []]}


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match="built again"):
        cached(tmp_path / "tokens", never)
    save, saved = np.save, []

    def full(path, *arguments, **options):
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(path, *arguments, **options)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="tokens: cannot write the tokens: No space left on device"):
        cached(tmp_path / "tokens", made)
    assert len(saved) == 2 and os.listdir(tmp_path) == []


def test_a_killed_build_leaves_nothing_that_is_read(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
import numpy as np
from transformer.data.corpus import Ragged, cached
save = np.save
def killed(*arguments, **options):
    save(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
np.save = killed
cached(Path({str(tmp_path)!r}) / "tokens", lambda: {{"first": Ragged.of([[7]])}})
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "tokens").exists()
    assert lists(cached(tmp_path / "tokens", made)["first"]) == FIRST


def test_two_processes_may_build_at_once(tmp_path):
    both, found = threading.Barrier(2), {}

    def run(number: int) -> None:
        def build() -> dict[str, Ragged]:
            both.wait(timeout=30)  # neither has found the folder
            return made()

        found[number] = cached(tmp_path / "tokens", build)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert {field: lists(rows) for field, rows in found[number].items()} == {"first": FIRST, "second": SECOND}
    assert os.listdir(tmp_path) == ["tokens"]


DAMAGE = {
    "cut": lambda content: content[:-1],
    "cut in its head": lambda content: content[:20],
    "empty": lambda content: b"",
    "something else": lambda content: b"tokens" * 50,
    "a pickle": pickle.dumps,
    "lost": None,
}


@pytest.mark.parametrize("name", ["first.values.npy", "second.offsets.npy"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_an_unreadable_cache_gives_a_one_line_error(tmp_path, name, damage):
    path = tmp_path / "tokens"
    cached(path, made)
    content = (path / name).read_bytes()
    (path / name).unlink()
    if change := DAMAGE[damage]:
        (path / name).write_bytes(change(content))
    with pytest.raises(UserError) as error:
        cached(path, never)
    message = str(error.value)
    assert message.startswith(f"{path}: cannot read the cached tokens") and "delete the folder" in message
    assert "\n" not in message


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/tokens: cannot write the tokens: .*; free space or choose another workdir"):
        cached(tmp_path / "file" / "tokens", made)
