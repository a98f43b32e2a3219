"""Head statistics of known weights, and of a run."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import trained

from experiments.variants.differential import Differential
from transformer import settings
from transformer.config import Config
from transformer.data.synthetic import number_words
from transformer.data.tokenizers.vocabulary import Characters
from transformer.errors import UserError
from transformer.modes import scoring
from transformer.probes import alignment, head_statistics

LETTERS = Characters("abcdefghijklmnopqrstuvwxyzüß ,-")


@dataclasses.dataclass
class Stub:
    """A predictor with known weights. A token is a letter; source and target have one more token at the end."""

    config: Config
    found: dict
    lengths: Any = None
    source_vocabulary: Any = LETTERS
    target_vocabulary: Any = LETTERS
    longest: int = 999

    def fits(self, pairs):
        return [len(source) < self.longest for source, _ in pairs]

    def weights(self, pairs):
        self.pairs = pairs
        return self.found, self.lengths


def test_statistics_of_known_weights(monkeypatch):
    """Four numbers. One of the encoder's three heads attends to the previous token, one to the token itself, one uniformly. One
    head of cross-attention attends to the translation of a word, the other to the first token."""
    monkeypatch.setattr(alignment, "SENTENCES", 4)
    config = settings.override(
        Config(), {"data.number_range": "20,100", "data.number_test_size": "4", "data.number_train_size": "9"}
    )
    pairs, sentences = alignment.numbers(Stub(config, {}), "validation")
    fewer, _ = alignment.numbers(Stub(settings.replace(config, "data.max_source_length", 11), {}), "validation")
    assert 0 < len(fewer) < len(pairs) and all(len(source) < 11 for source, _ in fewer)  # tokens are characters
    spell = number_words.speller("de", "target_language", 100)
    assert [target for _, target in pairs] == [spell(n) for n in number_words.draw(config.data)["validation"]]
    lengths = np.array([len(source) + 1 for source, _ in pairs])
    size, height = max(lengths), max(len(target) + 1 for _, target in pairs)
    own = np.zeros((1, 4, 3, size, size))
    cross = np.zeros((1, 4, 2, height, size))
    for text, (length, sentence) in enumerate(zip(lengths, sentences, strict=True)):
        own[0, text, 0, :length, :length] = np.eye(length, k=-1)
        own[0, text, 0, 0, 0] = 1
        own[0, text, 1, :length, :length] = np.eye(length)
        own[0, text, 2, :length, :length] = 1 / length
        cross[0, text, 1, :, 0] = 1
        cross[0, text, 0, :, length - 1] = 1
        for source, target in sentence.known.links:
            first, last = sentence.known.target[target]
            cross[0, text, 0, first:last] = np.eye(size)[sentence.known.source[source][0]]
    stub = Stub(config, {"encoder/self": own, "decoder/self": own, "decoder/cross": cross}, lengths)
    found = head_statistics.of_split(stub, "validation", [])
    assert stub.pairs == pairs and list(found) == head_statistics.names(config)
    assert found["previous_token_head"] == found["same_token_head"] == 1
    even = sum((length - 1) / length for length in lengths) / sum(lengths - 1)
    assert found["next_token_head"] == pytest.approx(even)
    assert found["alignment_head_error_rate"] == 0 and found["alignment_head_mass"] == pytest.approx(1)
    assert 0.5 < found["head_distance"] < 1
    stub.longest = 0
    assert head_statistics.of_split(stub, "validation", []) == {}  # none fits the table of positions


def test_languages_whose_words_are_not_aligned():
    config = settings.replace(Config(), "data.target_language", "fr")
    assert head_statistics.names(config) == ["previous_token_head", "same_token_head", "next_token_head", "head_distance"]


def test_weights_that_are_no_distribution_have_no_distance():
    config = settings.replace(Config(), "model.attention", Differential())
    assert "head_distance" not in head_statistics.names(config) and "same_token_head" in head_statistics.names(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "recurrent"},
        {"family": "encoder_only", "objective.kind": "tag"},
        {"family": "decoder_only", "objective.kind": "causal_lm"},
    ],
)
def test_models_without_such_heads(changes):
    config = settings.override(Config(), changes)
    head_statistics.check(config)
    with pytest.raises(UserError, match="config.evaluate.head_statistics: .*leave it off"):
        scoring.check_evaluate(settings.replace(config, "evaluate.head_statistics", True))


def test_statistics_are_printed_with_the_scores(tmp_path):
    run = trained.run().copy(tmp_path)
    asked = ("--config.evaluate.head_statistics=true", "--config.evaluate.scores=exact_match", "--config.search.beam_size=1")
    assert trained.command("--mode=evaluate", f"--workdir={run}", *asked).status == 0
    [file] = (run / "evaluation").glob("test-*.json")
    found = json.loads(file.read_text())["scores"]
    used = trained.translator()
    assert set(head_statistics.names(used.config)) <= found.keys()
    sides = [(trained.run().folder / "data" / f"test.{side}").read_text().split() for side in ("en", "de")]
    weights, lengths = used.weights(list(zip(*sides, strict=True)))
    before = [weights["encoder/self"][0, text, :, range(1, n), range(n - 1)] for text, n in enumerate(lengths)]
    assert found["previous_token_head"] == pytest.approx(np.concatenate(before).mean(axis=0).max(), rel=1e-4)
    named = settings.override(used.config, {"evaluate.head_statistics": "true", "evaluate.scores": "exact_match"})
    assert {name.removeprefix("test/") for name in scoring.reported(named) if name.startswith("test/")} == set(found)
