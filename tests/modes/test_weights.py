"""A published model folder through the command line: imported, used, exported."""

import contextlib
import shutil

import folders
import numpy as np
import pytest
import safetensors.numpy
from trained import command

from transformer.runtime.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = folders.byte_bpe(["<|endoftext|>"])
    size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id("<|endoftext|>")
    fields = folders.GPT2_FIELDS | {"vocab_size": size, "bos_token_id": end, "eos_token_id": end}
    tensors = folders.draw(folders.gpt2(size))
    (folder / "gpt2").mkdir()
    folders.make(folder / "gpt2", fields, tensors, tokenizer)
    result = command(
        "--mode=import", f"--source={folder / 'gpt2'}", f"--workdir={folder / 'run'}", "--config.search.max_new_tokens=5"
    )
    assert result.status == 0, result.err
    return folder


def test_models_whose_names_have_a_dot_have_workdirs_of_their_own(imported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(imported / "gpt2", tmp_path / "Small-3.2-1B")
    assert command("--mode=import", "--source=Small-3.2-1B/").status == 0
    assert (tmp_path / "runs" / "Small-3.2-1B" / "config.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_failed_import_can_be_repeated(imported, tmp_path, monkeypatch, error):
    """Whatever is made is removed, but not a folder that was there."""

    def fail(*arguments):
        raise error

    (tmp_path / "run").mkdir()
    arguments = ("--mode=import", f"--source={imported / 'gpt2'}", f"--workdir={tmp_path / 'run'}")
    with monkeypatch.context() as patch, contextlib.suppress(OSError):
        patch.setattr(Checkpoints, "save", fail)
        assert command(*arguments).status != 0
    assert list((tmp_path / "run").iterdir()) == []
    assert command(*arguments).status == 0


def test_other_modes_work_on_what_was_imported(imported):
    result = command("--mode=generate", f"--workdir={imported / 'run'}", "--prompt=a", "--num_samples=2")
    assert result.status == 0 and result.out.count("--- sample") == 2


def test_what_is_exported_is_what_was_imported(imported, tmp_path):
    result = command("--mode=export", f"--workdir={imported / 'run'}", f"--output={tmp_path / 'out'}")
    assert result.status == 0 and result.lines == [str(tmp_path / "out")]
    before, after = (safetensors.numpy.load_file(f / "model.safetensors") for f in (imported / "gpt2", tmp_path / "out"))
    shared = before.keys() & after.keys()
    assert len(shared) > 10 and all(np.array_equal(before[name], after[name]) for name in shared)


def test_imported_weights_are_not_trained_over(imported):
    data = imported / "data"
    data.mkdir()
    for name in ("train", "validation"):
        (data / f"{name}.txt").write_text("a b c\n")
    (imported / "run" / "config.json").write_text(
        (imported / "run" / "config.json")
        .read_text()
        .replace('"source": "number_words"', '"source": "documents"')
        .replace('"test": "test"', '"test": null')
    )
    result = command(f"--workdir={imported / 'run'}", f"--config.data.directory={data}")
    assert result.status == 2 and "holds imported weights: start another run with config.train.init_from" in result.err


def test_missing_parts_are_reported(tmp_path):
    assert "--mode=import needs --source=FOLDER" in command("--mode=import", f"--workdir={tmp_path / 'run'}").err
    result = command("--mode=import", f"--source={tmp_path / 'none'}", f"--workdir={tmp_path / 'run'}")
    assert result.status == 2 and "there is no such folder" in result.err and not (tmp_path / "run").exists()
