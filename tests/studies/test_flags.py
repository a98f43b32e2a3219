"""Flags: each with rows in which it must be found, and with similar rows in which it must not."""

import dataclasses

import numpy as np
import pytest
import written
from scipy import stats
from test_report import BLEU, FAST, NLL, WORSE, loss, make, report_text, verdict

from transformer.studies import findings, results
from transformer.studies.study import SEARCH_SEED, Claim, Metric, Study

CURVE = "curve of validation/nll"


def judged(folder, study, rows):
    return findings.find(study, results.read(written.write(folder, study, rows) / "results.csv", study)).judged


def flags(folder, study: Study, rows, **columns) -> str:
    """Of the first claim. `columns`: by arm, as a12, what its rows have besides."""
    rows = [row | columns.get(f"a{row['arm']}", {}) for row in rows]
    return "; ".join(judged(folder, study, rows)[0].flags)


def curve(*values: float) -> dict[str, str]:
    return {CURVE: " ".join(f"{10 * step}:{value}" for step, value in enumerate(values, 1))}


def test_a_flag_withholds_the_verdict(tmp_path):
    study = make()
    rows = [row | curve(5, 4, 3.5, 3, 2.5) for row in loss(study, a16=0.2)]
    line = verdict(text := report_text(tmp_path, study, rows))
    assert line.startswith("**Verdict: not decided by this study.** Flags: `8` is still learning: its loss falls by 20 %")
    assert "Without these flags: The runs agree with the claim" in line and "- `24` is still learning" in text
    [found] = judged(tmp_path, study, rows)
    assert (found.word, found.verdict.word) == ("not decided by this study", "agrees")


def test_a_loss_that_falls_steeply(tmp_path):
    """By more than a tenth of itself in the last quarter of the updates, between two points of the curve, unless it is at its
    floor."""
    study, still = make(), curve(3, 2.2, 2.1, 2.1, 2.0)
    rows = loss(study, a16=0.2)
    assert flags(tmp_path, study, rows, a8=still, a16=still) == ""
    assert "`16` is still learning" in flags(tmp_path, study, rows, a8=still, a16=curve(3, 2.5, 2.4, 2.3, 2.0))
    assert flags(tmp_path, study, rows, a8=still, a24=curve(3, 2.5, 2.4, 2.3, 2.0)) == ""  # an arm of no claim
    assert flags(tmp_path, study, rows, a8=still, a16=curve(1, 0.1, 0.05, 0.01, 0.005)) == ""


def test_curves_of_a_perplexity_and_of_no_loss(tmp_path):
    """The loss is the logarithm of a perplexity, in which the same fall looks steeper; an accuracy shows nothing, in words."""
    for name, better, first, last, flagged in (
        ("perplexity", "lower", 3.0, 2.5, "is still learning: its loss falls by 17 %"),
        ("perplexity", "lower", 3.0, 2.8, ""),
        ("token_accuracy", "higher", 30.0, 60.0, ""),
    ):
        metric = Metric(f"validation/{name}", better)
        study = make(metrics=(metric,), seeds=3)
        values = np.exp([first] * 9 + list(np.linspace(first, last, 4))[1:]) if better == "lower" else [first] * 11 + [last]
        column = {f"curve of {metric.name}": " ".join(f"{step}:{value}" for step, value in enumerate(values, 1))}
        rows = written.all_of(study, lambda arm, seed, m=metric, c=column: {m.label: 20 + seed + int(arm), **c})
        text = flags(tmp_path, study, rows)
        assert flagged in text if flagged else "still learning" not in text
        unchecked = f"still learning was not checked: the learning curves are of `{metric.name}`"
        assert (unchecked in report_text(tmp_path, study, rows)) == (name == "token_accuracy")


def test_too_few_validations_to_see_a_fall(tmp_path):
    """Unless the claim is about the number of updates, or about an arm of no claim."""
    study, short = make(metrics=(NLL, FAST)), curve(3, 2.5, 2.4, 2.3)
    rows = [row | {FAST.label: 10 + row["seed"]} for row in loss(study, a16=0.2)]
    assert flags(tmp_path, study, rows, a8=curve(3, 2.1, 2.1, 2.1, 2.0), a24=short) == ""
    text = flags(tmp_path, study, rows, a8=curve(3, 2.1, 2.1, 2.1, 2.0), a16=short)
    assert text == "the runs of `16` have too few validations to see whether they are still learning"
    counting = make(metrics=(NLL, FAST), claims=(dataclasses.replace(WORSE, metric=FAST.label),))
    assert flags(tmp_path, counting, rows, a16=short) == ""


@pytest.mark.parametrize("ahead, crossed", [((3, 2.5, 2.1, 1.9, 2.1), True), ((2, 1.9, 2.2, 2.2, 2.1), False)])
def test_curves_that_cross_at_the_end(tmp_path, ahead, crossed):
    study, rows = make(), []
    for row in loss(study, a16=0.2):
        noise, base = 0.001 * row["seed"], (3, 2.4, 2.05, 2.0, 2.0)
        rows.append(row | curve(*(value + noise for value in (ahead if row["arm"] == "16" else base))))
    assert ("`16` still cross" in flags(tmp_path, study, rows)) == crossed


def test_ends_of_scales(tmp_path):
    """Both arms must be there, but any arm of an interaction; below 0.02 nats a loss is at its floor."""
    claims = (Claim("", "", "worse", ("16",)), Claim("", "", "worse", ("16",), against="24", beyond=("24", "8")))
    for metric, values, expected in (
        (BLEU, {"8": 99.5, "16": 99.2, "24": 50.0}, "are at the ceiling of `test/bleu`"),
        (BLEU, {"8": 99.5, "16": 90.0, "24": 50.0}, ""),
        (NLL, {"8": 0.01, "16": 0.015, "24": 2.0}, "are at the floor of `validation/nll`"),
        (NLL, {"8": 0.01, "16": 0.2, "24": 2.0}, ""),
    ):
        study = make(metrics=(metric,), claims=claims, blocked=False)
        rows = written.all_of(study, lambda arm, seed, m=metric, v=values: {m.label: v[arm] + 1e-4 * seed})
        one, interaction = judged(tmp_path, study, rows)
        assert expected in "; ".join(one.flags) if expected else not one.flags
        assert "at an end" in "; ".join(interaction.flags)


def test_a_target_that_no_run_reached_is_an_end_of_the_scale(tmp_path):
    study = make(metrics=(FAST,), claims=(Claim("", "", "equal", ("16",), 100.0),), blocked=False)

    def score(late: str):
        return lambda arm, seed: {FAST.label: 40, "not_reached": FAST.label if arm in late.split() else ""}

    [found] = judged(tmp_path, study, written.all_of(study, score("8 16")))
    assert found.flags == [f"`16` and `8` are at the ceiling of `{FAST.label}`"] and found.word != "agrees"
    assert judged(tmp_path, study, written.all_of(study, score("16")))[0].flags == []


def test_sizes_that_the_loss_does_not_have(tmp_path):
    for changes, flagged in (
        ({"margin": 1.9}, ""),
        ({"margin": 2.9}, "the margin, 2.9"),
        ({"effect": 3.0}, "published effect, 3"),
    ):
        study = make(claims=(dataclasses.replace(WORSE, **changes),))
        assert flagged in (text := flags(tmp_path, study, loss(study))) and bool(text) == bool(flagged)


def test_what_was_not_learned(tmp_path):
    low = Metric("test/nll", "lower", learned=0.1)
    study = make(metrics=(NLL, low))
    text = flags(tmp_path, study, [row | {low.label: 0.2} for row in loss(study)])
    assert "`16` has not learned its task: test/nll is 0.2 (required: at most 0.1)" in text
    learned = Metric("test/exact_match@1-9", "higher", learned=99.0)
    study = make(metrics=(NLL, learned))
    for score, flagged in ((99.1, ""), (98.0, "`16` has not learned its task: test/exact_match@1-9 is 98")):
        rows = [row | {learned.label: score if row["arm"] == "16" else 99.5} for row in loss(study)]
        assert flagged in (text := flags(tmp_path, study, rows)) and bool(text) == bool(flagged)


def test_a_rate_at_the_end_of_its_grid(tmp_path):
    study = make(learning_rates=(0.1, 0.2, 0.4), search_seeds=1)
    rows = [row | {"learning_rate": 0.4 if row["arm"] == "16" else 0.2} for row in loss(study)]
    scores = {(arm, rate): (arm == "16") * -rate + abs(rate - 0.2) for arm in study.arms for rate in study.learning_rates}
    rows += [
        written.row(study, arm, SEARCH_SEED, part="search", learning_rate=rate, **{NLL.label: score})
        for (arm, rate), score in scores.items()
    ]
    end = "`16` may not be at its best learning rate: the chosen rate is at the end of its grid"
    assert flags(tmp_path, study, rows) == end
    missing = "`16` may not be at its best learning rate: a run of its search failed or is missing"
    [last] = [
        number for number, row in enumerate(rows) if (row["part"], row["arm"], row["learning_rate"]) == ("search", "16", 0.1)
    ]
    for left in (rows[:last] + rows[last + 1 :], [row | {"status": "failed"} if row is rows[last] else row for row in rows]):
        assert flags(tmp_path, study, left) == f"{end}; {missing}"
    [beyond] = [row for row in rows if (row["part"], row["arm"], row["learning_rate"]) == ("search", "16", 0.4)]
    failed = [*rows, beyond | {"learning_rate": 0.8, "status": "failed", NLL.label: ""}]
    assert flags(tmp_path, study, failed) == f"{end}; {missing}"  # a rate that failed has not been tried


def test_a_count_of_updates_needs_the_best_rate_but_not_the_end_of_a_curve(tmp_path):
    study = make(metrics=(FAST, NLL), learning_rates=(0.1, 0.2, 0.4), search_seeds=1, blocked=False)
    still = curve(3, 2.5, 2.4, 2.3, 2.0)
    rows = [row | still | {"learning_rate": 0.4, FAST.label: 10 * int(row["arm"]) + row["seed"]} for row in loss(study)]
    rows += [
        written.row(study, arm, SEARCH_SEED, part="search", learning_rate=rate, **{NLL.label: 2 - rate})
        for arm in study.arms
        for rate in study.learning_rates
    ]
    text = flags(tmp_path, study, rows)
    assert "`16` may not be at its best learning rate" in text and "still learning" not in text


def test_the_published_effect_is_tested_too(tmp_path):
    """Against SciPy's paired t test of the published difference; twice the p of the smaller of two by Holm."""
    study = make(claims=(dataclasses.replace(WORSE, effect=0.25), Claim("", "", "worse", ("24",), effect=0.2)))
    rows = loss(study, a16=0.2, a24=0.2)
    score = {arm: np.array([row["validation/nll"] for row in rows if row["arm"] == arm]) for arm in study.arms}
    ps = [stats.ttest_1samp(score[arm] - score["8"], size).pvalue for arm, size in (("16", 0.25), ("24", 0.2))]
    first, second = judged(tmp_path, study, rows)
    assert first.verdict.findings[0].excluded == pytest.approx(2 * ps[0]) and 2 * ps[0] < ps[1]
    assert second.verdict.findings[0].excluded == pytest.approx(ps[1])
    text = report_text(tmp_path, study, rows)
    assert "**The published effect, 0.25, is excluded.**" in text and "**The published effect, 0.2, is not excluded.**" in text
    assert "over 2 published effects" in text


@pytest.mark.parametrize("bend, flagged", [(0.0, False), (0.05, True)])
def test_a_power_law_that_does_not_fit(tmp_path, bend, flagged):
    """Losses that lie on the curve, but for two sizes in the middle."""
    arms = {str(width): {"model.d_model": str(width)} for width in (8, 16, 24, 32, 40)}
    sizes = (1e3, 1e4, 1e5, 1e6, 1e7)
    law = Claim("", "", "exponent", tuple(arms), 0.1, sizes=sizes, exponent=0.3)
    study, noise = make(arms=arms, claims=(law,)), np.random.default_rng(2).normal(size=(5, 5))

    def score(arm: str, seed: int) -> dict[str, float]:
        at = list(arms).index(arm)
        exact = 1.5 + 30 * sizes[at] ** -0.3 + bend * (at in (2, 3)) * (-1) ** at
        return {NLL.label: exact * (1 + 0.005 * noise[at, seed])}

    assert ("does not fit" in flags(tmp_path, study, written.all_of(study, score))) == flagged
