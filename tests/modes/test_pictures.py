"""Figures of attention maps, through the command line."""

import re
import shutil
from pathlib import Path

import drawn
import pytest
import trained
from trained import command, translator

from transformer import families, settings
from transformer.config import Config, Recurrent
from transformer.data import prepare
from transformer.data.tokenizers.vocabulary import Characters
from transformer.inference import predict
from transformer.inference.translate import Translator
from transformer.modes import pictures, training
from transformer.modes.common import file_name, kept_as
from transformer.runtime.workdir import Workdir


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("target", [None, "ABCD", ""])
def test_attention_maps(tmp_path, loaded, target):
    more = [] if target is None else [f"--target={target}"]
    workdir, folder = trained.run().workdir, tmp_path / "maps"
    result = command("--mode=attend", f"--workdir={workdir}", "--source=abc", f"--output={folder}", *more)
    assert result.status == 0
    translation = next(translator().translate(["abc"]))[0].text if target is None else target
    assert result.err == f"attention maps of: abc → {translation}\n"
    assert {Path(line).name for line in result.lines} == {
        "attention_encoder_self_attention.png",
        "attention_decoder_self_attention.png",
        "attention_decoder_cross_attention.png",
        "cross_attention.png",
        "attention.html",
    }
    assert sorted(result.lines) == sorted(map(str, folder.iterdir())) and all(is_png(Path(line)) for line in result.lines[:-1])


def test_attention_maps_are_in_the_workdir_and_a_long_source_is_cut(tmp_path, loaded):
    copy = trained.run().copy(tmp_path)
    shutil.rmtree(copy / "pictures")
    result = command("--mode=attend", f"--workdir={copy}", "--source=" + "ab" * 30, "--target=A")
    assert result.status == 0 and "1 of 1 sentences were cut to 40 tokens" in result.err
    assert len(list((copy / "pictures").glob("abab*/*.png"))) == 4
    command("--mode=attend", f"--workdir={copy}", "--source=ab", "--target=A")
    assert {path.parent.name for path in (copy / "pictures").glob("*/*.png")} >= {"ab_A"}
    assert len(list((copy / "pictures").glob("*/*.png"))) == 8


def test_names_of_results():
    """A name without information loss is unchanged; a name that another text could have gets a hash."""
    assert [file_name(text) for text in ("twenty-one", "ein Hund", "naïve")] == ["twenty-one", "ein_Hund", "naïve"]
    odd = ["a/b", "a b.", "a?b", "../..", "", "x" * 999, "ü" * 999, "x" * 998]
    names = [file_name(text) for text in odd]
    assert len(set(names)) == len(odd) and all(len(name.encode()) < 140 and "/" not in name for name in names)
    used = settings.override(Config(), {"search.beam_size": "1", "evaluate.head_statistics": "true", "search.batch_size": "3"})
    name, changed = kept_as("test", Config(), used)
    assert name == "test-head_statistics=true-beam_size=1" and changed == {
        "evaluate.head_statistics": True,
        "search.beam_size": 1,
    }


def test_a_model_without_attention_says_so(tmp_path, monkeypatch):
    letters = Characters("abc")
    config = drawn.changed(translator().config, family="recurrent", model__recurrent=Recurrent(attention="none"))
    used = Translator(drawn.loaded(config, {"source": letters, "target": letters}))
    monkeypatch.setattr(predict, "load", lambda *arguments: used)
    result = command("--mode=attend", f"--workdir={trained.run().workdir}", "--source=a", "--target=b", f"--output={tmp_path}")
    assert (result.status, result.out, result.err.count("\n"), list(tmp_path.iterdir())) == (2, "", 1, [])
    assert "this model has no attention to draw" in result.err


def test_nothing_after_the_scores_fails_a_run(tmp_path, monkeypatch, capsys):
    """Neither user errors nor bugs: each gives one line, and the next steps continue."""
    workdir = trained.run().copy(tmp_path)
    (workdir / "metrics.jsonl").write_text("{")
    splits = {"test": prepare.Split([{"source": "ab", "target": "AB"}], {}, "")}

    class Broken:
        config = settings.replace(translator().config, "data.source", "number_words")

        def translate(self, texts):
            raise ZeroDivisionError("of nothing")

    training._show(Workdir(workdir), families.task_of(translator().config), splits, Broken(), {})
    stderr = capsys.readouterr().err
    assert "ZeroDivisionError: of nothing (test_pictures.py:" in stderr and "--mode=translate" in stderr
    files = re.findall(r"--config=(\S+)", stderr)  # the default job leads to one's own text, and to a study
    assert len(files) == 2 and all((trained.ROOT / file).is_file() for file in files)
    monkeypatch.setattr(pictures, "_readability", lambda source: 1 / 0)
    training._show(Workdir(workdir), families.task_of(translator().config), splits, Broken(), {})
    assert "ZeroDivisionError" in capsys.readouterr().err
