"""Resampled differences against SciPy's bootstrap, SacreBLEU's randomization test, and simulated coverage."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from transformer.errors import UserError
from transformer.statistics import bootstrap, contrasts


def ratio(sums):
    """A score of a whole test set that is no mean of sentences' scores: right over all."""
    return sums[..., 0] / sums[..., 1]


def sentences(rng, count, rate):
    """Statistics SxK: words that are right, words."""
    words = rng.integers(5, 30, size=count)
    return np.stack([rng.binomial(words, rate), words], axis=1)


def two(ours_SxK, theirs_SxK, level=0.95, score=ratio, **draws):
    ours, theirs = (bootstrap.resample(score, each, **draws) for each in (ours_SxK, theirs_SxK))
    return bootstrap.checkpoints(ours, theirs, level)


def shared_error(ours_RxSxK, theirs_RxSxK, **draws):
    ours, theirs = ([bootstrap.resample(ratio, each, **draws) for each in side] for side in (ours_RxSxK, theirs_RxSxK))
    return bootstrap.shared_error(ours, theirs)


def test_two_checkpoints_are_scipys_paired_bootstrap():
    rng = np.random.default_rng(0)
    ours, theirs = sentences(rng, 200, 0.6), sentences(rng, 200, 0.55)
    result = two(ours, theirs, level=0.9, samples=4000)

    def difference(a, b, c, d, axis):
        return a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis)

    scipys = stats.bootstrap(
        (*ours.T, *theirs.T), difference, paired=True, method="percentile", confidence_level=0.9, n_resamples=4000, rng=1
    )
    assert result.value == pytest.approx(ratio(ours.sum(0)) - ratio(theirs.sum(0)))
    assert result.interval == pytest.approx(tuple(scipys.confidence_interval), abs=2e-3)
    assert two(ours, theirs, level=0.9, samples=4000) == result
    assert two(ours, theirs, level=0.9, samples=4000, seed=1) != result


def test_p_is_that_of_approximate_randomization():
    """SacreBLEU's two-sided test, on sentences with words that are wrong."""
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(list("abcdefgh"), size=12)) for _ in range(150)]

    def spoiled(share):
        return [" ".join(w if rng.random() > share else "x" for w in line.split()) for line in references]

    one, other = spoiled(0.20), spoiled(0.23)
    metric = BLEU()
    by_sentence = BLEU(effective_order=True)

    def of_lines(lines):
        scores = map(by_sentence.sentence_score, lines, ([reference] for reference in references))
        return np.array([_bleu_statistics(score) for score in scores])

    ours = two(of_lines(one), of_lines(other), score=_bleu, samples=2000)
    named = [("two", other), ("one", one)]
    scores = PairedTest(named, {"BLEU": metric}, [references], test_type="ar", n_samples=2000)()[1]["BLEU"]
    assert ours.value == pytest.approx(scores[1].score - scores[0].score)
    assert 0.01 < scores[1].p_value < 0.5
    assert ours.p == pytest.approx(scores[1].p_value, abs=0.04)


def _bleu_statistics(score):
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def _bleu(sums):
    brevity = np.minimum(1.0, np.exp(1 - sums[..., 1] / sums[..., 0]))
    return 100 * brevity * np.exp(np.log(sums[..., 2:6] / sums[..., 6:10]).mean(axis=-1))


def test_sentences_that_move_all_seeds_alike():
    """Seeds that are all alike: the bootstrap of one of them; whose sentences are all alike: nothing; one seed: no answer."""
    rng = np.random.default_rng(0)
    ours, theirs = sentences(rng, 300, 0.6), sentences(rng, 300, 0.55)
    low, high = two(ours, theirs, samples=4000).interval
    shared = shared_error(np.stack([ours] * 4), np.stack([theirs] * 4), samples=4000, seed=1)
    assert shared == pytest.approx((high - low) / 2 / 1.96, rel=0.05)
    constant = np.array([[6, 10], [7, 10], [5, 10]])[:, None] * np.ones((1, 50, 1))
    assert shared_error(constant, constant[::-1]) == pytest.approx(0.0, abs=1e-9)
    assert shared_error(ours[None], theirs[None]) is None


def test_scores_of_other_sentences_are_refused():
    ours, theirs = (np.stack([sentences(np.random.default_rng(0), 40, 0.5)] * 2) for _ in range(2))
    with pytest.raises(UserError, match="same sentences"):
        shared_error(ours[:, :39], theirs)
    with pytest.raises(UserError, match="same sentences"):
        two(ours[0, :1], theirs[0])  # would broadcast


@pytest.mark.parametrize("by_seed, by_sentence, by_both", [(0.3, 1.0, 0.3), (0.05, 1.0, 0.3), (0.05, 0.2, 2.0)])
def test_intervals_of_arms_cover(by_seed, by_sentence, by_both):
    """Differences that vary by seed, by sentence and by both; truth 0, on new seeds and new sentences each time."""
    covered, studies, R, S = 0, 120, 4, 60
    for study in range(studies):
        rng = np.random.default_rng(study)
        right_RxS = by_seed * rng.normal(size=(R, 1)) + by_sentence * rng.normal(size=S) + by_both * rng.normal(size=(R, S))
        ours, theirs = (np.stack([each, np.ones((R, S))], axis=-1) for each in (right_RxS, np.zeros((R, S))))
        shared = shared_error(ours, theirs, samples=200, seed=study)
        table = {"ours": right_RxS.mean(axis=1).tolist(), "theirs": [0.0] * R}
        low, high = contrasts.contrast(table, {"ours": 1, "theirs": -1}, blocked=True, shared=shared).interval()
        covered += low <= 0 <= high
    assert 0.89 < covered / studies < 0.995
