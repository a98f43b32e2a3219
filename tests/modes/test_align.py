"""The table of alignment, for known weights and for a predictor with known outputs."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import trained

from transformer.config import Config
from transformer.data.encode import touching
from transformer.data.synthetic import number_alignment
from transformer.data.tokenizers.vocabulary import Characters
from transformer.errors import UserError
from transformer.modes import alignment as mode
from transformer.probes import alignment as probe

LETTERS = Characters("abcdefghijklmnopqrstuvwxyzüß ,-")
PAIRS = [
    ("twenty-one", "einundzwanzig"),
    ("three hundred and five", "dreihundertfünf"),
    ("forty-two thousand and six", "zweiundvierzigtausendsechs"),
]
NUMBERS = (21, 305, 42_006)
SENTENCES = [
    probe.Words(number_alignment.align(n), LETTERS.spans(source), LETTERS.spans(target))
    for n, (source, target) in zip(NUMBERS, PAIRS, strict=True)
]


def perfect(sentence, length: int, width: int) -> np.ndarray:
    """Token weights that are all on the translation of a word, or on the end if there is none. Padding may be anywhere."""
    weights = np.zeros((length, width))
    weights[:, len(sentence.source_tokens)] = 1
    for source, target in sentence.known.links:
        on = touching(sentence.source_tokens, sentence.known.source[source])
        for row in touching(sentence.target_tokens, sentence.known.target[target]):
            weights[row] = 0
            weights[row, on] = 1 / len(on)
    weights[len(sentence.target_tokens) + 1 :] = 7  # padding
    return weights


def test_correct_wrong_and_mixed_heads():
    length, width = 1 + max(len(t) for _, t in PAIRS), 1 + max(len(s) for s, _ in PAIRS)
    right = np.stack([perfect(s, length, width) for s in SENTENCES])
    wrong = np.zeros_like(right)
    wrong[:, :, 0] = 1  # the first word, for all targets
    table = mode._agreement(np.stack([right, wrong], axis=1)[None], SENTENCES)
    found = {row["name"]: (row["alignment_error_rate"], row["mass"]) for row in table}
    assert list(found) == ["even weights", "layer 1, head 1", "layer 1, head 2", "layer 1, mean of heads"]
    assert found["layer 1, head 1"] == pytest.approx((0, 1))
    # The first English word is aligned to the first German one in two of ten German words.
    links = sum(len(s.known.links) for s in SENTENCES)
    first = sum(1 for s in SENTENCES for source, _ in s.known.links if source == 0)
    assert found["layer 1, head 2"][1] == pytest.approx(first / links)
    assert found["layer 1, mean of heads"][1] == pytest.approx((1 + first / links) / 2)
    assert 0 < found["even weights"][1] < 0.5


@dataclasses.dataclass
class Stub:
    """Each token costs 1, plus 10 for each hidden source token, or 100 if it is also hidden from the encoder."""

    asked: list

    def target_nll(self, pairs, hidden=None, encoder=False):
        self.asked.append((pairs, hidden, encoder))
        cost = [0] * len(pairs) if hidden is None else [(100 if encoder else 10) * len(places) for places in hidden]
        return [np.full(len(target) + 1, 1.0 + c) for (_, target), c in zip(pairs, cost, strict=True)]


def test_the_word_and_another_word_are_hidden():
    stub = Stub([])
    found = mode._hidden(stub, PAIRS, SENTENCES)
    assert list(found) == ["all of the source", "hidden from attention", "hidden from the encoder too"]
    assert found["all of the source"]["aligned"] == found["all of the source"]["other"]
    for (_, aligned, _), (_, other, _) in zip(stub.asked[1::2], stub.asked[2::2], strict=True):
        for sentence, one, two in zip(SENTENCES, aligned, other, strict=True):
            words = [
                [n for n, w in enumerate(sentence.known.source) if set(touching(sentence.source_tokens, w)) & set(t)]
                for t in (one, two)
            ]
            assert len(words[0]) == len(words[1]) == 1 and words[0] != words[1]
            assert any(source == words[0][0] for source, _ in sentence.known.links)
    # A word's nats are the sum of its tokens'.
    assert found["all of the source"]["aligned"] >= 1


def test_without_a_sentence_of_two_words_nothing_is_hidden(capsys):
    assert mode._hidden(Stub([]), [], []) == {}
    mode._print([], [], {})
    assert "nats" not in capsys.readouterr().out


def test_other_data_has_no_known_alignment():
    result = trained.command("--mode=align", f"--workdir={trained.run().workdir}")
    assert result.status == 2 and "only config.data.source number_words has a known alignment, not text" in result.err


@dataclasses.dataclass
class Reads(Stub):
    """A decoder-only model, whose source and target are one text."""

    config: Any = Config(family="decoder_only")
    source_vocabulary: Any = LETTERS
    target_vocabulary: Any = LETTERS

    def weights(self, pairs):
        return {"decoder/self": np.ones((1, len(pairs), 1, 9, 9))}, np.full(len(pairs), 9)


def test_decoder_only_models_have_no_alignment(monkeypatch, capsys):
    monkeypatch.setattr(mode.predict, "load", lambda *arguments: Reads([]))
    with pytest.raises(UserError, match="run has no cross-attention"):
        mode.align(trained.run().workdir, {})
    assert "256 of 2,000" in capsys.readouterr().out  # how much of the split is read, with the table
