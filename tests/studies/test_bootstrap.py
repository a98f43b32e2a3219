"""Resampled differences against SciPy's bootstrap, SacreBLEU's randomization test, t tests, and simulated coverage."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from transformer.errors import UserError
from transformer.studies import bootstrap


def ratio(sums):
    """A score of a whole test set that is no mean of sentences' scores: right over all."""
    return sums[..., 0] / sums[..., 1]


def sentences(rng, count, rate):
    """Statistics SxK: words that are right, words."""
    words = rng.integers(5, 30, size=count)
    return np.stack([rng.binomial(words, rate), words], axis=1)


def test_two_checkpoints_are_scipys_paired_bootstrap():
    rng = np.random.default_rng(0)
    ours, theirs = sentences(rng, 200, 0.6), sentences(rng, 200, 0.55)
    result = bootstrap.checkpoints(ratio, ours, theirs, level=0.9, samples=4000)

    def difference(a, b, c, d, axis):
        return a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis)

    scipys = stats.bootstrap(
        (*ours.T, *theirs.T), difference, paired=True, method="percentile", confidence_level=0.9, n_resamples=4000, rng=1
    )
    assert result.value == pytest.approx(ratio(ours.sum(0)) - ratio(theirs.sum(0)))
    assert result.interval == pytest.approx(tuple(scipys.confidence_interval), abs=2e-3)
    assert result.about == "these two checkpoints"
    assert bootstrap.checkpoints(ratio, ours, theirs, level=0.9, samples=4000) == result
    assert bootstrap.checkpoints(ratio, ours, theirs, level=0.9, samples=4000, seed=1) != result


def test_p_is_that_of_approximate_randomization():
    """SacreBLEU's two-sided test, on sentences with words that are wrong."""
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(list("abcdefgh"), size=12)) for _ in range(150)]

    def spoiled(share):
        return [" ".join(w if rng.random() > share else "x" for w in line.split()) for line in references]

    one, two = spoiled(0.20), spoiled(0.23)
    metric = BLEU()
    by_sentence = BLEU(effective_order=True)

    def statistics(lines):
        scores = map(by_sentence.sentence_score, lines, ([reference] for reference in references))
        return np.array([_bleu_statistics(score) for score in scores])

    ours = bootstrap.checkpoints(_bleu, statistics(one), statistics(two), samples=2000)
    named = [("two", two), ("one", one)]
    scores = PairedTest(named, {"BLEU": metric}, [references], test_type="ar", n_samples=2000)()[1]["BLEU"]
    assert ours.value == pytest.approx(scores[1].score - scores[0].score)
    assert 0.01 < scores[1].p_value < 0.5
    assert ours.p == pytest.approx(scores[1].p_value, abs=0.04)


def _bleu_statistics(score):
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def _bleu(sums):
    brevity = np.minimum(1.0, np.exp(1 - sums[..., 1] / sums[..., 0]))
    return 100 * brevity * np.exp(np.log(sums[..., 2:6] / sums[..., 6:10]).mean(axis=-1))


def test_arms_with_seeds_that_are_all_alike_is_the_bootstrap_of_sentences():
    rng = np.random.default_rng(0)
    ours, theirs = sentences(rng, 300, 0.6), sentences(rng, 300, 0.55)
    one = bootstrap.checkpoints(ratio, ours, theirs, samples=4000)
    both = bootstrap.arms(ratio, np.stack([ours] * 4), np.stack([theirs] * 4), samples=4000, seed=1)
    assert both.value == pytest.approx(one.value)
    assert both.interval == pytest.approx(one.interval, abs=3e-3)
    assert both.about == "these two arms"


def test_arms_with_sentences_that_are_all_alike_is_the_paired_t_test():
    right_RxS = np.array([[6], [7], [5], [8]]) * np.ones((1, 50))
    theirs_RxS = np.array([[5], [5], [5], [6]]) * np.ones((1, 50))
    ours, theirs = (np.stack([right, np.full_like(right, 10.0)], axis=-1) for right in (right_RxS, theirs_RxS))
    result = bootstrap.arms(ratio, ours, theirs, samples=20_000)
    test = stats.ttest_rel(right_RxS[:, 0] / 10, theirs_RxS[:, 0] / 10)
    expected = test.confidence_interval(0.95)
    assert result.interval == pytest.approx((expected.low, expected.high), rel=0.05)
    assert result.p == pytest.approx(test.pvalue, rel=0.1)


def test_missing_seeds_one_seed_and_no_difference():
    rng = np.random.default_rng(0)
    ours, theirs = (np.stack([sentences(rng, 40, 0.5) for _ in range(3)]).astype(float) for _ in range(2))
    ours[1] = np.nan
    kept = bootstrap.arms(ratio, ours[[0, 2]], theirs[[0, 2]])
    assert bootstrap.arms(ratio, ours, theirs) == kept
    single = bootstrap.arms(ratio, ours[:2], theirs[:2])
    assert single.value == pytest.approx(ratio(ours[0].sum(0)) - ratio(theirs[0].sum(0)))
    assert single.interval is single.p is None
    same = bootstrap.arms(ratio, theirs, theirs)
    assert (same.value, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)
    with pytest.raises(UserError, match="no seed finished"):
        bootstrap.arms(ratio, ours[1:2], theirs[1:2])
    with pytest.raises(UserError, match="same sentences"):
        bootstrap.arms(ratio, ours[:, :39], theirs)
    with pytest.raises(UserError, match="same sentences"):
        bootstrap.checkpoints(ratio, ours[0, :1], theirs[0])  # would broadcast


@pytest.mark.parametrize("by_seed, by_sentence", [(0.3, 1.0), (0.05, 1.0)])
def test_intervals_of_arms_cover(by_seed, by_sentence):
    """Differences that vary by seed, by sentence and by both; truth 0, on new seeds and new sentences each time."""
    covered, R, S = 0, 4, 60
    for study in range(400):
        rng = np.random.default_rng(study)
        ours_RxS = by_seed * rng.normal(size=(R, 1)) + by_sentence * rng.normal(size=S) + 0.3 * rng.normal(size=(R, S))
        ours = np.stack([ours_RxS, np.ones((R, S))], axis=-1)
        theirs = np.stack([np.zeros((R, S)), np.ones((R, S))], axis=-1)
        low, high = bootstrap.arms(ratio, ours, theirs, samples=200, seed=study).interval
        covered += low <= 0 <= high
    assert 0.92 < covered / 400 < 0.98
