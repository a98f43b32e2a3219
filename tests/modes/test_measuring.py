"""A user's own measure of a trained model: where it is reported, and what happens if it is wrong."""

import dataclasses
import json

import numpy as np
import pytest
import small
import trained
from trained import command, write_corpus

from experiments.measures.first_token import FirstToken
from transformer import registry, settings
from transformer.api import TrainedModel
from transformer.config import Config
from transformer.errors import UserError
from transformer.modes import measuring
from transformer.modes.scoring import check_evaluate, reported

MEASURES = """
import dataclasses

from transformer.components.measures import Measure
from transformer.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths(Measure):
    names = ("words", "read")
    most: int = setting(3, "examples", at_least=1)

    def values(self, model, examples):
        some = [example["source"] for example in examples[: self.most]]
        return {"words": sum(len(text.split()) for text in some), "read": len(model.n_best(some))}


class Fails(Lengths):
    def values(self, model, examples):
        return {"words": 1 / (len(examples) - 20), "read": 0}


class Forgets(Lengths):
    def values(self, model, examples):
        return {"words": 1}


class Takes(Lengths):
    names = ("nll",)


class Misnames(Lengths):
    names = ("a b",)


class Text(Lengths):
    names = ("first")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "measures.py"
    path.write_text(MEASURES)
    yield path
    registry.forget(path)


def with_measure(file, name):
    return settings.override(small.config(), {"evaluate.measure": f"{file}:{name}"})


def test_its_numbers_are_written_beside_the_scores(tmp_path, file):
    copy = trained.run().copy(tmp_path)
    most = "--config.evaluate.measure.most=2"
    result = command("--mode=evaluate", f"--workdir={copy}", f"--config.evaluate.measure={file}:Lengths", most)
    assert result.status == 0, result.err
    [written] = (copy / "evaluation").glob("test-*.json")
    found = json.loads(written.read_text())["scores"]
    texts = (trained.run().folder / "data" / "test.en").read_text().splitlines()[:2]
    assert found["read"] == 2 and found["words"] == sum(len(text.split()) for text in texts)
    assert found["nll"] == json.loads((copy / "evaluation" / "test.json").read_text())["scores"]["nll"]
    assert "  words " in result.out


def test_scores_are_printed_though_it_fails(tmp_path, file):
    """The split has 20 examples, so the measure divides by 0."""
    copy = trained.run().copy(tmp_path)
    result = command("--mode=evaluate", f"--workdir={copy}", "--split=validation", f"--config.evaluate.measure={file}:Fails")
    assert result.status == 2 and result.err.count("ZeroDivisionError in line 20: division by zero") == 1
    assert "  nll " in result.out and not list((copy / "evaluation").glob("validation*"))


def test_a_fault_is_found_before_the_training(tmp_path, file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data")
    changes = {"model.num_encoder_layers": 1, "model.num_decoder_layers": 1, "model.d_model": 8, "model.d_ff": 8}
    changes |= {"model.num_heads": 2, "data.source": "text", "data.directory": "data", "data.vocabulary": "characters"}
    changes |= {"train.steps": 1, "train.batch_tokens": 512, "search.beam_size": 1, "data.vocabulary_size": 16}
    given = [f"--config.{name}={value}" for name, value in changes.items()]
    result = command("--workdir=run", *given, f"--config.evaluate.measure={file}:Forgets")
    assert result.status == 2 and "values() gives words; names has words, read" in result.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

    result = command("--workdir=run", *given, f"--config.evaluate.measure={file}:Lengths")
    assert result.status == 0, result.err
    assert json.loads((tmp_path / "run" / "evaluation" / "test.json").read_text())["scores"]["read"] == 3
    commands = result.err.split("next:\n")[1].splitlines()[:-1]
    assert commands and all("--workdir=run --variants=measures.py" in each for each in commands)


def test_its_file_may_change(file):
    written = settings.to_dict(with_measure(file, "Lengths"))
    file.write_text(MEASURES + "\n# another line\n")
    registry.load_file(file, "here", changed=True)
    assert settings.from_dict(written, Config).evaluate.measure.names == ("words", "read")


NAMES = {"Takes": "the name nll is taken", "Misnames": "names has 'a b'", "Text": r"names is a text; write \('first',\)"}


@pytest.mark.parametrize(("name", "why"), NAMES.items())
def test_names_that_cannot_be(file, name, why):
    with pytest.raises(UserError, match=why):
        check_evaluate(with_measure(file, name))


def test_a_study_can_use_it_as_a_metric(file):
    config = with_measure(file, "Lengths")
    assert set(reported(config)) - set(reported(small.config())) == {"test/words", "test/read"}
    assert settings.differences(small.config(), config) == []  # a trained model may be measured in another way
    other = settings.override(config, {"evaluate.measure.most": "4"})
    assert settings.differences(config, other) == []
    assert settings.differences(config, other, free=True) == ["evaluate.measure.most: 3 -> 4"]


def test_the_weight_on_the_first_token():
    loaded = trained.translator().loaded
    model, pairs = TrainedModel(loaded), [("abc", "ab"), ("ac b", "cab"), ("b", "c")]
    examples = [{"source": source, "target": target} for source, target in pairs]
    weights = []
    for source, target in pairs[:2]:
        for found in model.attention(source, target):
            if found.name.endswith("self attention"):
                layers, heads, queries, _ = found.weights_LxHxTxS.shape
                weights += [found.weights_LxHxTxS[place][0] for place in np.ndindex(layers, heads, queries) if place[2]]
    config = dataclasses.replace(
        loaded.config, evaluate=dataclasses.replace(loaded.config.evaluate, measure=FirstToken(texts=2))
    )
    found = measuring.of_split(dataclasses.replace(loaded, config=config), "test", examples)
    assert found == {"first_token": pytest.approx(np.mean(weights), rel=1e-5)} and 0 < found["first_token"] < 1
