"""Lines in and out through the command line: one output line per input line, in order, whatever the lines contain."""

import io
import os
import threading

import pytest
import trained
from trained import command, translator

from transformer import modes
from transformer.inference.translate import Output


def translated(*sources: str) -> list[str]:
    return [outputs[0].text for outputs in translator().translate(sources)]


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"ab\nfed\n", ["ab", "fed"]),
        (b"ab\nfed", ["ab", "fed"]),
        (b"ab\r\nfed\r\n", ["ab", "fed"]),
        (b"\xef\xbb\xbfab\nfed\n", ["ab", "fed"]),
        (b"\n\nab\n \t \nfed\n\n", ["", "", "ab", "", "fed", ""]),
        ("ab\u2028c\nfe\x0bd\x85a\n".encode(), ["ab\u2028c", "fe\x0bd\x85a"]),
        (b"ab\n" * 11 + b"fedcba\n", ["ab"] * 11 + ["fedcba"]),
    ],
)
def test_one_output_line_per_input_line(text, sources, loaded):
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", stdin=text)
    assert (result.status, result.err) == (0, "")
    assert result.lines == translated(*sources)
    assert [line == "" for line in result.lines] == [source == "" for source in sources]


def test_translations_differ():
    """The other tests would be meaningless if translations did not differ."""
    assert len(set(translated("ab", "fed", "fedcba", "c", "dddd"))) == 5


def test_files_in_and_out(tmp_path, loaded):
    source, target = tmp_path / "in.txt", tmp_path / "new" / "out.txt"
    source.write_bytes("ab\n\nfédé\n".encode())
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", f"--input={source}", f"--output={target}")
    assert (result.status, result.out) == (0, "") and "in.txt" not in result.err
    assert target.read_text().split("\n") == [*translated("ab", "", "fédé"), ""]
    assert [path.name for path in target.parent.iterdir()] == ["out.txt"]


def test_a_sentence_too_long_has_a_notice_and_a_line(loaded):
    lines = "ab\n" + "abc" * 13 + "\n" + "d" * 40 + "\n" + "abc" * 20 + "\n"
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", stdin=lines.encode())
    assert result.status == 0 and len(result.lines) == 4 and all(result.lines)
    cut, ended = result.err.splitlines()
    assert cut == "2 of 4 sentences were cut to 40 tokens (config.data.max_source_length), the first of them number 3"
    assert ended.startswith("2 of 4 outputs ended at the limit") and "config.search.max_extra" in ended
    assert result.lines[3] == translated("abc" * 13)[0]  # 39 letters and the end fit


def test_input_that_is_not_utf8(tmp_path, loaded):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(b"ab\nfed\n\xff\nab\n")
    target.write_text("from before\n")
    workdir = f"--workdir={trained.run().workdir}"
    result = command("--mode=translate", workdir, f"--input={source}", f"--output={target}")
    assert (result.status, result.out) == (2, "")
    assert result.err == f"launch.py: {source}: line 3 is not UTF-8; convert it, for example with iconv\n"
    assert target.read_text() == "from before\n" and len(list(tmp_path.iterdir())) == 2
    assert command("--mode=translate", workdir, stdin=b"\xe9\n").err.startswith("launch.py: stdin: line 1 is not UTF-8")


@pytest.mark.parametrize("by_file", [False, True])
def test_a_closed_pipe_is_quiet(tmp_path, loaded, by_file):
    reading, writing = os.pipe()
    os.close(reading)
    (tmp_path / "in.txt").write_text("ab\n" * 9)
    more = [f"--input={tmp_path / 'in.txt'}"] if by_file else []
    with os.fdopen(writing, "w") as pipe:
        workdir = f"--workdir={trained.run().workdir}"
        result = command("--mode=translate", workdir, *more, stdin=b"ab\n" * 9, stdout=pipe)
    assert (result.status, result.err) == (0, "")


def test_a_pipe_as_output_stays_a_pipe(tmp_path, loaded):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", f"--output={pipe}", stdin=b"ab\n")
    reader.join()
    assert result.status == 0 and pipe.is_fifo() and got == [translated("ab")[0] + "\n"]


def test_line_separators_become_spaces(monkeypatch, loaded):
    fake_outputs = [[Output("a\nb\rc\td", 0.0), Output("e", -1.0)]]
    monkeypatch.setattr(translator(), "translate", lambda lines, scored: (fake_outputs[0] for _ in lines))
    assert command("--mode=translate", f"--workdir={trained.run().workdir}", stdin=b"x\n").out == "a b c d\te\n"


def test_a_terminal_gets_a_prompt_for_input(monkeypatch, capsys, loaded):
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Terminal(b"ab\n")))
    modes.translate(trained.run().workdir, {}, None, None)
    shown = capsys.readouterr()
    assert shown.out == translated("ab")[0] + "\n"
    assert shown.err == "reading lines from the terminal; Ctrl-D ends them\n"


def test_translate_end_to_end(monkeypatch, tmp_path):
    """Without shared fixtures: settings of the search, several hypotheses per line, from another folder."""
    monkeypatch.chdir(tmp_path)
    few = ["--config.search.n_best=2", "--config.search.batch_size=2"]
    result = command("--mode=translate", f"--workdir={trained.run().workdir}", *few, stdin=b"ab\n\nfed\n")
    assert (result.status, result.err) == (0, "")
    first, second = zip(*(line.split("\t") for line in result.lines), strict=True)
    assert list(first) == translated("ab", "", "fed")
    assert second[1] == "" and second[0] != first[0] and second[2] != first[2]
