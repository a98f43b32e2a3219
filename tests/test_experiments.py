"""Every shipped experiment is valid, and trains: one update at a small size, on a few lines of text."""

import random
from pathlib import Path

import pytest

from transformer import config as config_lib
from transformer import modes
from transformer.config import Config

FILES = sorted(path for path in (Path(__file__).parents[1] / "experiments").glob("*.py") if path.stem != "__init__")

# What makes a run small without making it another: kinds of layers, optimiser, batches and so on stay.
SMALL = {
    "model.num_encoder_layers": "1",
    "model.num_decoder_layers": "1",
    "model.d_model": "16",
    "model.d_ff": "16",
    "model.num_heads": "2",
    "data.vocabulary_size": "60",
    "data.number_train_size": "60",
    "data.number_test_size": "5",
    "data.buckets": "1",
    "data.workers": "0",
    "train.batch_tokens": "512",
    "train.steps": "1",
}


def text(folder: Path, config: Config) -> None:
    """Stand-in for the data that the configuration names."""
    draw, data = random.Random(0), config.data
    for split, count in ((data.train, 40), (data.validation, 5), (data.test, 5)):
        for language, words in ((data.source_language, "one two three"), (data.target_language, "eins zwei drei")):
            lines = [" ".join(draw.choices(words.split(), k=draw.randint(1, 6))) for _ in range(count)]
            (folder / f"{split}.{language}").write_text("\n".join(lines) + "\n")


def test_there_are_some():
    assert {"number_words", "multi30k", "parallel_text", "wmt14_base"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment(path, tmp_path, monkeypatch):
    config = config_lib.validate(config_lib.from_file(path))
    assert config_lib.from_dict(config_lib.to_dict(config)) == config
    stand_in = {} if config.data.source == "number_words" else {"data.source": "text", "data.directory": str(tmp_path)}
    text(tmp_path, config)
    small = config_lib.validate(config_lib.override(config, SMALL | stand_in))
    finished = []
    # These are tested elsewhere, and compile for long.
    monkeypatch.setattr(modes, "_finish", lambda *arguments: finished.append(arguments))
    monkeypatch.setattr(modes, "_token_sums", lambda *arguments: lambda params: {"loss_sum": 3.0, "weight_sum": 2.0})
    modes.train(small, tmp_path / "run")
    assert finished and (tmp_path / "run" / "checkpoints" / "1").is_dir()
    rows = modes.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert 0 < rows[0]["train/loss"] < 10 and rows[0]["train/gradient_norm"] > 0 and rows[1]["validation/loss"] == 1.5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_head_says_what_and_how(path):
    assert path.read_text().startswith('"""')
