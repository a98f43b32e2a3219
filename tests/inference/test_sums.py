"""Scores from sums over sentences equal the scores of the whole, and can be resampled."""

import numpy as np
import pytest

from transformer.inference import scores, sums

WORDS = ["a", "b", "cat", "dog,", "it's", "Zwei", "x-y", "."]


def lines(seed: int, count: int = 60) -> tuple[list[str], list[str]]:
    """References, and outputs with missing, wrong or extra words; some are correct, one is empty."""
    draw = np.random.default_rng(seed)
    references = [" ".join(draw.choice(WORDS, draw.integers(1, 15))) for _ in range(count)]
    outputs = []
    for line in references:
        words = [w if draw.random() > 0.2 else draw.choice(WORDS) for w in line.split() if draw.random() > 0.05]
        outputs.append(line if draw.random() < 0.2 else " ".join(words + ["b"] * draw.integers(0, 2)))
    return ["", *outputs[1:]], references


@pytest.mark.parametrize("name", sums.SUMS)
@pytest.mark.parametrize("tokenize", ["13a", "none"])
def test_scores_of_all_and_of_resampled_sentences(name, tokenize):
    outputs, references = lines(0)
    statistics_SxK = sums.of_sentences(name, outputs, references, tokenize)
    of, options = sums.SUMS[name].score, scores.Options(tokenize)
    assert of(statistics_SxK.sum(axis=0)) == pytest.approx(scores.score(name, outputs, references, options).value)
    drawn = np.random.default_rng(1).integers(len(outputs), size=(3, len(outputs)))
    found = of(statistics_SxK[drawn].sum(axis=1))
    for row, value in zip(drawn, found, strict=True):
        some = ([lines[i] for i in row] for lines in (outputs, references))
        assert value == pytest.approx(scores.score(name, *some, options).value)


def test_bleu_without_a_common_phrase_of_four_words_is_smoothed_in_both():
    outputs, references = [*["a b c x e f g"] * 12, "the cat"], [*["a b c d e f g"] * 12, "the cat"]
    wanted = scores.score("bleu", outputs, references).value
    assert wanted > 20
    statistics_SxK = sums.of_sentences("bleu", outputs, references, "13a")
    assert sums.SUMS["bleu"].score(statistics_SxK.sum(axis=0)) == pytest.approx(wanted)


def test_empty_references_score_100():
    assert sums.SUMS["word_accuracy"].score(sums.of_sentences("word_accuracy", [""], [""], "none").sum(axis=0)) == 100
