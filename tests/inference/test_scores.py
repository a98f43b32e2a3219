"""Scores against sacrebleu called directly and against values worked by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
import sacrebleu

from transformer.errors import UserError
from transformer.inference import scores

REFERENCES = ["ein mann schläft auf einer bank .", "zwei hunde laufen über das gras .", "eine frau , die singt !", "ja"]
HYPOTHESES = ["ein mann schläft auf der bank .", "zwei hunde rennen durch das gras .", "eine frau , die singt !", "nein"]


@pytest.mark.parametrize("tokenize", ["13a", "none", "intl", "char"])
def test_bleu_is_sacrebleus(tokenize):
    wanted = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], tokenize=tokenize, force=True)
    found = scores.score("bleu", HYPOTHESES, REFERENCES, tokenize)
    assert found.value == pytest.approx(wanted.score, abs=1e-12) and 30 < found.value < 90
    assert found.signature == f"nrefs:1|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{sacrebleu.__version__}"


def test_bleu_by_hand():
    """Precisions 4/5, 3/4, 2/3, 1/2 and no brevity penalty: 100 * (1/5)^(1/4)."""
    found = scores.score("bleu", ["a b c d e"], ["a b c d f"], "none")
    assert found.value == pytest.approx(100 * 0.2**0.25)


def test_bleu_tokenisation_matters():
    hypotheses, references = ["a b c d, e"], ["a b c d , e"]
    assert scores.score("bleu", hypotheses, references, "13a").value == pytest.approx(100)
    assert scores.score("bleu", hypotheses, references, "none").value < 90


def test_bleu_of_tokenised_text_is_quiet(caplog):
    scores.score("bleu", ["a b c d ."] * 200, ["a b c d ."] * 200, "none")
    assert not caplog.records
    scores.score("bleu", ["a b c d ."] * 200, ["a b c d ."] * 200, "13a")  # here the warning is deserved
    assert any("tokenized period" in record.getMessage() for record in caplog.records)


def test_chrf_is_sacrebleus():
    found = scores.score("chrf", HYPOTHESES, REFERENCES)
    assert found.value == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score, abs=1e-12)
    assert found.signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"


def test_exact_match_by_hand():
    assert scores.score("exact_match", HYPOTHESES, REFERENCES) == scores.Result(25.0, None)
    assert scores.score("exact_match", ["a", "B "], ["A", "B"]).value == 0.0


def test_hypotheses_and_references_are_not_swapped():
    """A hypothesis cut short is punished by brevity, a long one by precision."""
    short = scores.score("bleu", ["a b c d"], ["a b c d e f g h"], "none").value
    assert short == pytest.approx(100 * math.exp(1 - 8 / 4))


@pytest.mark.parametrize("name", scores.SCORES)
def test_perfect_is_best(name):
    assert scores.score(name, REFERENCES, REFERENCES).value == pytest.approx(100)
    assert scores.SCORES[name].higher_is_better


def test_bad_input():
    with pytest.raises(UserError, match="no score 'blue'; did you mean 'bleu'"):
        scores.score("blue", ["a"], ["a"])
    with pytest.raises(UserError, match="2 hypotheses but 1 reference"):
        scores.score("chrf", ["a", "b"], ["a"])
    with pytest.raises(UserError, match="no hypotheses and no references"):
        scores.score("exact_match", [], [])
    with pytest.raises(UserError, match="no tokenisation '13b'; did you mean '13a'"):
        scores.score("bleu", ["a"], ["a"], "13b")


def test_token_scores_by_hand():
    """Four tokens, of 1/2, 1/2, 1/4 and 1/8 probability: 7 ln 2 in sum; two words."""
    sums = {"loss_sum": 6.0, "nll_sum": 7 * math.log(2), "correct_sum": 3.0, "weight_sum": 4.0}
    assert scores.token_scores(sums, 2) == pytest.approx(
        {"loss": 1.5, "nll": 1.75 * math.log(2), "perplexity": 2**1.75, "perplexity_per_word": 2**3.5, "token_accuracy": 75.0}
    )


def test_absent_is_absent():
    full = {"loss_sum": 0.0, "nll_sum": 0.0, "correct_sum": 0.0, "weight_sum": 0.0}
    assert scores.token_scores(full, 5) == {}
    assert scores.token_scores({}, 5) == {}
    assert scores.token_scores({"loss_sum": 2.0, "weight_sum": 4.0}, 5) == {"loss": 0.5}
    without_words = scores.token_scores({**full, "weight_sum": 1.0}, 0)
    assert without_words == {"loss": 0.0, "nll": 0.0, "perplexity": 1.0, "token_accuracy": 0.0}
    assert "perplexity_per_word" not in scores.token_scores({**full, "weight_sum": 1.0})


def test_hopeless_perplexity_is_infinite():
    assert scores.token_scores({"nll_sum": 1e6, "weight_sum": 1.0}, 1)["perplexity"] == math.inf


def test_token_scores_are_plain_numbers():
    sums: Any = {"loss_sum": np.float32(2), "nll_sum": np.float32(2), "correct_sum": np.float32(1), "weight_sum": np.float32(2)}
    json.dumps(scores.token_scores(sums, 1))


def test_count_words():
    assert scores.count_words(["a  b", "", " c\td "]) == 4
