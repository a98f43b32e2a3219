"""Reports against known or independently computed values; and they need only results.csv."""

import csv
import dataclasses
import html.parser
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import exact_laws as law
import numpy as np
import pytest
import small
import test_runs
import written
from scipy import stats
from test_study import STUDY

from transformer import plots
from transformer.errors import UserError
from transformer.statistics import contrasts
from transformer.studies import figures, findings, report, resampling, results
from transformer.studies import plan as plans
from transformer.studies import study as studies
from transformer.studies.plan import followed
from transformer.studies.study import Claim, Metric, Study

ROOT = Path(__file__).parents[2] / "experiments"
NLL, BLEU = Metric("validation/nll", "lower", scale="linear"), Metric("test/bleu", "higher")
FAST = Metric("validation/nll", "lower", "updates", 0.5)
WORSE = Claim("wide is worse", "here", "worse", ("16",))
NOISE = np.random.default_rng(0).normal(size=(3, 5))


def make(**changes: Any) -> Study:
    """Within seeds, which have an effect in `loss`."""
    usual = {"metrics": (NLL,), "claims": (WORSE,), "seeds": 5, "blocked": True}
    return studies.validate(dataclasses.replace(STUDY, **usual | changes))


def loss(study: Study, **offsets: float) -> list[dict[str, Any]]:
    """Losses around 2, with noise of 0.01 that differs by arm, an effect of the seed of 0.5, and an arm's `offsets`."""

    def score(arm: str, seed: int) -> dict[str, float]:
        arms = list(study.arms)
        return {"validation/nll": 2 + offsets.get(f"a{arm}", 0) + seed / 8 + 0.01 * NOISE[arms.index(arm), seed]}

    return written.all_of(study, score)


def report_text(folder: Path, study: Study, rows: Iterable[Mapping[str, Any]]) -> str:
    path = written.write(folder, study, rows) / "results.csv"
    return report.markdown(findings.find(study, results.read(path, study)))


def written_rows(folder: Path, study: Study) -> list[results.Row]:
    return results.read(folder / "results.csv", study)


def table(text: str, under: str) -> dict[str, dict[str, str]]:
    """The first table after a heading: cells by arm and column."""
    lines = text[text.index(under) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    assert len({len(line) for line in lines[start : start + len(rows)]}) == 1  # the columns stand under each other
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def verdict(text: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith("**Verdict")]
    return line


# --- the report's text ------------------------------------------------------------------------------------------------------


def test_two_arms_are_a_paired_t_test(tmp_path):
    study = make(arms={"8": {}, "16": {"model.d_model": "16"}})
    rows = loss(study, a16=0.05)
    ours, theirs = ([row["validation/nll"] for row in rows if row["arm"] == arm] for arm in ("16", "8"))
    test: Any = stats.ttest_rel(ours, theirs)
    text = report_text(tmp_path, study, rows)
    row, other = (table(text, "## `validation/nll` (lower is better)")[arm] for arm in ("16", "8"))
    assert numbers(row["mean"]) == pytest.approx([np.mean(ours)], abs=6e-4)
    spread = stats.t.interval(0.95, 4, np.mean(ours), stats.sem(ours))
    assert numbers(row["95 % interval"]) == pytest.approx(spread, abs=6e-4)
    assert numbers(row["minus 8"]) == pytest.approx([np.mean(ours) - np.mean(theirs)], abs=6e-4)
    ends = list(test.confidence_interval(0.95))
    assert numbers(row["interval of the difference"]) == pytest.approx(ends, abs=6e-4)
    assert row["p"] == (f"{test.pvalue:.3f}" if test.pvalue > 0.001 else "< 0.001")
    assert [row["runs"], row["diverged"], row["failed"], row["comparison"]] == ["5", "0", "0", "claimed"]
    assert [other["p"], other["minus 8"], other["comparison"]] == ["–", "–", "–"]
    line = verdict(text)
    assert line.startswith(
        "**Verdict: agrees.** The runs agree with the claim: in `validation/nll`, `16` is worse than `8` by "
    )
    assert numbers(line) == pytest.approx([np.mean(ours) - np.mean(theirs), *ends], abs=6e-4)
    assert "> wide is worse\n>\n> After here" in text and "Tested as: in `validation/nll`, `16` is worse than `8`." in text


SAID = {
    "worse": ("worse", ("16",), 0.0, {}, "agrees", "`16` is worse than `8` by 0.2"),
    "not so much worse": ("worse", ("16",), 0.5, {}, "disagrees", "`16` is worse than `8` by 0.2"),
    "better": ("better", ("16",), 0.0, {}, "disagrees", "`16` is worse than `8` by 0.2"),
    "better, each": ("better", ("16", "24"), 0.0, {"a16": -0.1, "a24": -0.4}, "agrees", "`24` is better than `8` by 0.4"),
    "order": ("order", ("24", "8", "16"), 0.0, {"a24": -0.4}, "agrees", "by 0.4.* and `8` is better than `16` by 0.2"),
    "equal": ("equal", ("24",), 0.1, {}, "agrees", r"`24` differs from `8` by -?0.0"),
    "unequal": ("equal", ("16",), 0.1, {}, "disagrees", "`16` differs from `8` by 0.2"),
    "cannot tell": ("worse", ("24",), 0.0, {}, "cannot tell", "cannot tell whether the claim holds: .*`24` is (better|worse)"),
}


@pytest.mark.parametrize("name", SAID)
def test_a_sentence_for_each_kind(name, tmp_path):
    kind, arms, margin, offsets, word, pattern = SAID[name]
    study = make(claims=(Claim("so it is", "here", kind, arms, margin),))
    line = verdict(report_text(tmp_path, study, loss(study, **{"a16": 0.2, **offsets})))
    assert line.startswith(f"**Verdict: {word}") and re.search(pattern, line), line


@pytest.mark.parametrize("kind, margin, about_zero", [("equal", 0.5, False), ("worse", 0.1, False), ("worse", 0.0, True)])
def test_p_is_about_a_difference_of_zero(kind, margin, about_zero, tmp_path):
    """The test of equality or of a margin would be read as one of no difference."""
    margins = (Claim("so it is", "here", kind, ("16",), margin),)
    for claims, shown in ((margins, about_zero), ((WORSE, *margins), True), ((*margins, WORSE), True)):
        study = make(claims=claims)
        text = report_text(tmp_path, study, loss(study, a16=0.2))
        row = table(text, "## `validation/nll`")["16"]
        assert (row["p"], row["comparison"]) == ("< 0.001" if shown else "–", "claimed")
        [line] = [each for each in figures.summary(findings.find(study, written_rows(tmp_path, study))) if each["arm"] == "16"]
        assert bool(line["p"]) == shown and "about a difference of 0" in text


def test_what_diverged_counts_and_what_failed_does_not(tmp_path):
    """All of an arm's runs lost: if they diverged the claim agrees (Fisher: 2 of 252), if they failed nobody knows."""
    study, lines = make(), {}
    for status in ("diverged", "failed"):
        rows = [
            row | ({"status": status, "validation/nll": "", "error": "no room"} if row["arm"] == "16" else {})
            for row in loss(study)
        ]
        text = report_text(tmp_path, study, rows)
        row = table(text, "## `validation/nll`")["16"]
        assert [row["mean"], row["95 % interval"], row["runs"], row["minus 8"]] == ["–", "–", "0", "–"]
        assert row["p"] == ("0.016" if status == "diverged" else "–")  # twice 2 of 252
        assert [row["diverged"], row["failed"]] == (["5", "0"] if status == "diverged" else ["0", "5"])
        assert f"- `16`, seed 3: {status}, no room" in text
        lines[status] = verdict(text)
    assert "agrees.**" in lines["diverged"] and "5 of its runs diverged, and 0 of the other's" in lines["diverged"]
    assert "cannot tell, exploratory.**" in lines["failed"] and "too few runs to be compared" in lines["failed"]


def test_missing_parts_are_reported(tmp_path):
    study = make(metrics=(NLL, BLEU))
    rows = [row | {"test/bleu": 30.0} for row in loss(study) if (row["arm"], row["seed"]) != ("24", 4)]
    rows[0] |= {"test/bleu": "", "seconds": "", "commit": ""}
    text = report_text(tmp_path, study, rows)
    assert "- `24`, seed 4: not run" in text
    assert table(text, "## `validation/nll`")["24"]["runs"] == "4"
    bleu = table(text, "## `test/bleu` (higher is better)")["8"]
    assert bleu["runs"] == "4" and numbers(bleu["mean"]) == [30.0] and "missing or not finite: 1 finished run" in text
    assert table(text, "# Cost")["8"]["time of a run"] == "0:01:04"  # of seeds 1 to 4: 62 to 65
    assert "- commit: not recorded (1 run); 0123abc (13 runs)" in text


def test_one_seed_has_no_interval(tmp_path):
    study = make(seeds=1)
    text = report_text(tmp_path, study, loss(study, a16=0.2))
    row = table(text, "## `validation/nll`")["16"]
    assert row["95 % interval"] == row["interval of the difference"] == row["p"] == "–" and numbers(row["minus 8"])
    assert "One seed: there is no interval" in text and "Intervals of a mean" not in text
    assert verdict(text).startswith("**Verdict: cannot tell, exploratory.**") and "no interval" in verdict(text)


def test_a_ceiling_is_flagged(tmp_path):
    study = make(metrics=(NLL, BLEU))
    for values, flag in (((100.0, 99.5, 99.9), "**Ceiling**"), ((0.0, 0.1, 0.0), "**Floor**"), ((100.0, 97.0, 100.0), "")):
        rows = [row | {"test/bleu": values[list(study.arms).index(row["arm"])]} for row in loss(study)]
        text = report_text(tmp_path, study, rows)
        assert flag in text if flag else "**Ceiling" not in text and "**Floor" not in text


def test_means_are_taken_on_the_metrics_scale(tmp_path):
    """By hand: the geometric mean of 1 and 4 is 2; a percentage's interval stays above 0 and below 100."""
    study = make(metrics=(dataclasses.replace(NLL, scale=None), BLEU), seeds=2, arms={"8": {}, "16": {"model.d_model": "16"}})
    values = {"8": ((1.0, 90.0), (4.0, 99.0)), "16": ((2.1, 1.0), (2.3, 3.0))}
    labels = (NLL.label, BLEU.label)
    text = report_text(
        tmp_path, study, written.all_of(study, lambda arm, seed: dict(zip(labels, values[arm][seed], strict=True)))
    )
    assert numbers(table(text, f"## `{NLL.label}`")["8"]["mean"]) == pytest.approx([2.0], abs=0.01)
    for arm in values:
        low, high = numbers(table(text, f"## `{BLEU.label}`")[arm]["95 % interval"])
        assert 0 <= low < values[arm][0][1] < values[arm][1][1] < high <= 100
    assert "logarithms and logits of percentages" in text


def test_a_target_that_is_not_reached_counts_as_all_updates(tmp_path):
    """By hand: 10, 20 and twice more than 40 make a mean of 27.5; 10, 10, 20 and 20 make 15."""
    base = small.config(train__evaluate_every=1)
    study = make(metrics=(FAST,), seeds=4, arms={"8": {}, "16": {"model.d_model": "16"}}, base=base)
    updates, never = {"16": [10, 40, 20, 40], "8": [10, 10, 20, 20]}, {("16", 1), ("16", 3)}

    def row(arm: str, seed: int) -> dict[str, object]:
        return {FAST.label: updates[arm][seed], "not_reached": FAST.label if (arm, seed) in never else ""}

    rows = written.all_of(study, row)
    text = report_text(tmp_path, study, rows)
    found = table(text, f"## `{FAST.label}` (lower is better)")
    assert (found["16"]["mean"], found["8"]["mean"]) == ("27.5", "15.0")
    assert [found[arm]["not reached"] for arm in ("16", "8")] == ["2", "0"]
    assert "counts with all of its updates" in text and "Ceiling" not in text
    none = {FAST.label: 40, "not_reached": FAST.label}
    text = report_text(tmp_path, study, written.all_of(study, lambda arm, seed: none))
    assert "**Ceiling**: no run reached the target" in text and table(text, "## `updates")["16"]["95 % interval"] == "–"


def test_a_power_law_is_found_again(tmp_path):
    claim = Claim("it falls", "there", "exponent", ("8", "16", "24"), 0.05, sizes=(1e3, 1e4, 1e5), exponent=0.3)
    study = make(claims=(claim,))
    sizes = dict(zip(claim.arms, claim.sizes, strict=True))

    def score(arm: str, seed: int) -> dict[str, float]:
        return {"validation/nll": 1.5 + 30 * sizes[arm] ** -0.3 + 0.001 * NOISE[list(sizes).index(arm), seed]}

    rows = written.all_of(study, score)
    line = verdict(report_text(tmp_path, study, rows))
    assert line.startswith("**Verdict: agrees.**") and "the published one 0.3" in line
    assert numbers(line)[0] == pytest.approx(0.3, abs=0.01)
    lost = report_text(tmp_path, study, [row | ({"status": "diverged"} if row["arm"] == "8" else {}) for row in rows])
    assert verdict(lost).startswith("**Verdict: cannot tell.**") and "at least three sizes" in verdict(lost)


def test_a_claim_too_small_for_the_study_is_exploratory(tmp_path):
    """Noise of 0.01 and 5 seeds: about 0.02 can be found; 0.001 cannot, whatever the runs say."""
    for effect, word in ((0.1, ""), (0.001, ", exploratory"), (None, "")):
        study = make(claims=(dataclasses.replace(WORSE, effect=effect),))
        text = report_text(tmp_path, study, loss(study, a16=0.2))
        assert verdict(text).startswith(f"**Verdict: agrees{word}.**")
        [able] = [line for line in text.splitlines() if "probability of 80 %" in line]
        assert 0.01 < numbers(able)[0] < 0.03
        assert ("**Exploratory.**" in able) == bool(word) and ("states no size" in able) == (effect is None)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_claim_without_a_plan_before_the_runs_is_exploratory(tmp_path, recorded):
    study = make(claims=(WORSE,))
    written.write(tmp_path, study, loss(study, a16=0.2))
    if recorded:
        plans.record(study, tmp_path, 0)
    report.write(study, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert verdict(text).startswith("**Verdict: agrees.**" if recorded else "**Verdict: agrees, exploratory.**")
    assert ("The verdict is exploratory" in text) != recorded and ("and was followed" in text) == recorded


def test_other_pairs_are_exploratory(tmp_path):
    """Games and Howell's, of three arms, for the arm that no claim names; each arm with its own variance."""
    study = make(blocked=False)
    rows = loss(study)
    for row in rows:
        row["validation/nll"] -= row["seed"] / 8
        if row["arm"] == "24":
            row["validation/nll"] = (2.0, 3.2, 1.0, 2.6, 1.2)[row["seed"]]
    scores = {arm: [row["validation/nll"] for row in rows if row["arm"] == arm] for arm in ("24", "8", "16")}
    contrast = contrasts.contrast(scores, {"24": 1, "8": -1})
    interval, p = contrasts.games_howell(contrast, 3)
    text = report_text(tmp_path, study, rows)
    found = table(text, "## `validation/nll`")["24"]
    assert found["comparison"] == "exploratory" and found["p"] == f"{p:.3f}" and "Games & Howell" in text
    assert numbers(found["interval of the difference"]) == pytest.approx(interval, abs=0.01)
    assert verdict(text) == verdict(
        report_text(tmp_path, study, [row for row in rows if row["arm"] != "24"])
    )  # not of the claim


def test_settings_are_those_that_ran(tmp_path):
    base = small.config(data__directory="/home/someone/corpus", train__learning_rate=None)
    study = make(
        base=base,
        learning_rates=(0.1, 0.2),
        search_seeds=1,
        arms={"8": {}, "pre": {"model.norm_order": "pre"}},
        claims=(),
        compare_with="8",
    )
    rows = loss(study)
    for row in rows:
        row["learning_rate"] = {"8": 0.2, "pre": 0.1}[row["arm"]]
        row["settings"] += f" train.learning_rate={row['learning_rate']}"
    search = [
        written.row(study, arm, studies.SEARCH_SEED, part="search", learning_rate=rate, **{"validation/nll": rate})
        for arm in study.arms
        for rate in study.learning_rates
    ]
    search[0] |= {"status": "diverged", "validation/nll": ""}
    text = report_text(tmp_path, study, [*search, *rows])
    shown = text[text.index("```\n") : text.rindex("\n```")].splitlines()
    assert {"data.directory=corpus", "model.d_model=8", "train.learning_rate=0.2", "train.steps=40"} <= set(shown)
    assert "/home" not in text and not [line for line in shown if line.startswith("train.seed")]
    assert "`model.norm_order=pre` `train.learning_rate=0.1`" in text
    rates = table(text, "# Learning rates")
    assert rates["8"] == {"arm": "8", "0.1": "1 diverged", "0.2": "0.2", "chosen": "0.2"} and rates["pre"]["chosen"] == "0.1"
    assert "- `8` may not be at its best learning rate: the chosen rate is at the end of its grid" in text
    assert table(text, "# Cost")["8"]["time of the search"]


def test_the_lowest_point_is_that_of_the_parabola():
    places = [-8.0, -7.0, -5.5, -4.5]
    curve = {place: 2 + 0.3 * (place + 6.1) ** 2 for place in places}
    assert findings.lowest_point(curve) == pytest.approx(-6.1)
    assert findings.lowest_point({**curve, -7.0: math.inf}) == -5.5  # its neighbour diverged
    assert findings.lowest_point({place: place for place in places}) == -8.0  # at the end of the grid
    assert findings.lowest_point(dict.fromkeys(places, 1.0)) == -8.0 and findings.lowest_point({-7.0: 2.0}) == -7.0


def test_claims_about_the_best_learning_rate(tmp_path):
    """Of parabolas whose lowest points are known: one doubling lower for each doubling of the size, within seeds' noise. The
    slope and its interval are those of a regression of the points of three seeds, with a variance for each size."""
    claims = (
        Claim("it falls", "here", "falls", ("8", "16", "24"), sizes=(8, 16, 32), effect=1.0, rates=True),
        Claim("it is the same", "here", "equal", ("16",), margin=0.2, rates=True),
    )
    rates = tuple(2.0**-power for power in range(4, 11))
    study = make(claims=claims, learning_rates=rates, search_seeds=3, blocked=False)
    best = {arm: -6 - np.log2(int(arm) // 8) + 0.1 * NOISE[n, :3] for n, arm in enumerate(["8", "16"])}
    best["24"] = -8 + 0.1 * NOISE[2, :3]
    search = [
        written.row(study, arm, studies.SEARCH_SEED + seed, part="search", learning_rate=rate, **{NLL.label: loss})
        for arm, points in best.items()
        for seed, point in enumerate(points)
        for rate in rates
        for loss in [2 + 0.05 * (math.log2(rate) - point) ** 2]
    ]
    rows = [row | {"learning_rate": rates[3]} for row in loss(study)]
    path = written.write(tmp_path, study, [*search, *rows]) / "results.csv"
    falls, same = findings.find(study, results.read(path, study)).judged
    means = [best[arm].mean() for arm in ("8", "16", "24")]
    finding = falls.verdict.findings[0]
    assert finding.value == pytest.approx((means[0] - means[2]) / 2) and falls.word == "agrees"
    assert finding.error == pytest.approx(math.sqrt((best["8"].var(ddof=1) + best["24"].var(ddof=1)) / 3) / 2)
    assert finding.excluded == pytest.approx(2 * stats.t.sf(abs(finding.value - 1) / finding.error, finding.freedom))
    assert same.word == "disagrees" and same.verdict.findings[0].value == pytest.approx(means[1] - means[0])
    text = report.markdown(findings.find(study, results.read(path, study)))
    assert "`log2 of the best learning rate`" in text
    assert "### `log2 of the best learning rate`\n" in text and "is at an end of its grid" not in text
    found = findings.find(study, results.read(path, study))
    assert {panel.label for panel in figures.panels(found) if "log2" in panel.label} == {"log2 of the best learning rate"}
    assert {row["better"] for row in figures.summary(found) if "log2" in row["metric"]} == {""}
    low = [row | {NLL.label: row["learning_rate"]} if row["arm"] == "24" else row for row in search]
    written.write(tmp_path, study, [*low, *rows])
    doubts = [judged.flags for judged in findings.find(study, results.read(path, study)).judged]
    flag = "the best learning rate of `24` is at an end of its grid for 3 seeds"
    assert [flag in each for each in doubts] == [True, False]
    written.write(tmp_path, study, [*search, *rows])
    more = dataclasses.replace(study, max_seeds=30, claims=(dataclasses.replace(claims[1], margin=0.05),))
    assert findings.seeds_needed(more, tmp_path) == 5  # seeds of the study do not help
    search[0] |= {"status": "failed", NLL.label: ""}  # it says nothing about the rate, so neither does its seed
    written.write(tmp_path, study, [*search, *rows])
    found = findings.find(study, results.read(path, study))
    [log2] = [each.data.table for each in found.measured if each.metric.label.startswith("log2")]
    assert log2["8"] == [None, *(pytest.approx(point) for point in best["8"][1:])] and None not in log2["16"]


LONG = Metric("test/exact_match@21-40", "higher", scale="linear")
SHORT = Metric("test/exact_match@1-20", "higher", scale="linear")


def test_claims_on_other_metrics_lengths_and_tasks(tmp_path):
    """By hand: per task the wide arm has 30 and 50 points more at long lists, 10 at short ones; it ranks first in both."""
    arms = studies.crossed({"8": {}, "16": {"model.d_model": "16"}}, {"copy": {"model.d_ff": "9"}, "add": {"model.d_ff": "10"}})
    claims = (
        Claim("on the mean of tasks", "here", "better", ("16",), 35.0, effect=40.0),
        Claim("on one", "here", "better", ("16, add",), 45.0),
        Claim("more at long ones", "here", "better", ("16",), 25.0, minus=SHORT.label),
        Claim("more on one task", "here", "better", ("16, add",), 15.0, beyond=("16, copy", "8, copy")),
        Claim("first", "here", "better", ("16",), ranks=True),
        Claim("short ones", "here", "equal", ("16",), 12.0, metric=SHORT.label),
    )
    study = make(arms=arms, tasks=("copy", "add"), metrics=(LONG, SHORT), claims=claims, blocked=False)
    noise = dict(zip(arms, np.random.default_rng(1).normal(size=(4, 5)), strict=True))
    gained = {"16, copy": 30, "16, add": 50}

    def score(arm: str, seed: int) -> dict[str, float]:
        return {
            LONG.label: 20 + gained.get(arm, 0) + noise[arm][seed],
            SHORT.label: 70 + 10 * (arm in gained) + noise[arm][seed],
        }

    text = report_text(tmp_path, study, written.all_of(study, score))
    lines = [line for line in text.splitlines() if line.startswith("**Verdict")]
    assert [re.findall(r"Verdict: ([a-z ]+)", line)[0].split(" by")[0] for line in lines] == ["agrees"] * 6
    for line, value in zip(lines, (40, 50, 30, 20, 0.5, 10), strict=True):
        assert numbers(line)[0] == pytest.approx(value, abs=1.0)
    assert "`test/exact_match@21-40 minus test/exact_match@1-20`" in lines[2]
    ranks = table(text, "## `mean reciprocal rank by test/exact_match@21-40`")
    assert (numbers(ranks["16"]["mean"]), numbers(ranks["8"]["mean"])) == ([1.0], [0.5]) and ranks["16"][
        "comparison"
    ] == "claimed"
    copied = table(text, "copy:")
    assert list(copied) == ["8, copy", "16, copy"] and numbers(copied["16, copy"]["minus 8, copy"])[0] == pytest.approx(
        30, abs=1
    )
    assert "not paired by seed (mean ranks in pairs" in text
    report.write(study, tmp_path)  # with a figure for each task


def test_claims_of_scaling_laws_have_figures_and_intervals(tmp_path):
    """Losses of a known law: N ~ C^0.4375. A convention in which N is squared doubles that; a bend voids the verdicts."""
    sizes, tokens, budgets = (each[::2] for each in (law.SIZES, law.TOKENS, law.BUDGETS))
    exact = 1.2 + 40 / sizes**0.45 + 60 / tokens**0.35
    names = tuple(f"{number}" for number in range(len(sizes)))
    shared = {"arms": names, "tokens": tuple(tokens.tolist()), "margin": 0.15}
    whole = shared | {"budgets": tuple(budgets.tolist())}
    claims = (
        Claim("N ~ C^0.5", "Hoffmann", "isoflop", sizes=tuple(sizes.tolist()), exponent=0.45, **whole),
        Claim("N^2 ~ C", "Kaplan", "isoflop", sizes=tuple((sizes**2).tolist()), exponent=0.45, **whole),
        Claim("by size", "there", "size exponent", sizes=tuple(sizes.tolist()), exponent=0.45, **shared),
    )
    arms = {name: {"model.d_ff": str(9 + int(name))} for name in names}
    study = make(arms=arms, claims=claims, compare_with="0", seeds=3, fair=(), blocked=False)
    noise = np.random.default_rng(0).normal(size=(len(sizes), 3))

    def report_with_bend(bend: float) -> str:
        loss = exact * np.exp(bend * np.sin(3 * np.log(sizes)))
        rows = written.all_of(
            study, lambda arm, seed: {"validation/nll": loss[int(arm)] * np.exp(0.002 * noise[int(arm), seed])}
        )
        return report_text(tmp_path, study, rows)

    text = report_with_bend(0.0)
    assert [word.split(".")[0] for word in re.findall(r"\*\*Verdict: (.*?)\*\*", text)] == ["agrees", "disagrees", "agrees"]
    first, second, _ = (float(found) for found in re.findall(r"the fitted exponent is (\S+) ", text))
    assert first == pytest.approx(0.4375, abs=0.03) and second == pytest.approx(2 * first, abs=0.01)
    assert "by the law in N and D it is 0.4" in text and "**The published exponent, 0.45, is excluded.**" in text
    found = findings.find(study, results.read(tmp_path / "results.csv", study))
    profiles, optima = (panel for panel in figures.panels(found)[1:3])
    assert (
        isinstance(profiles, plots.Profiles)
        and isinstance(optima, plots.Optima)
        and optima.exponent == pytest.approx(first, abs=1e-2)
    )
    assert [len(runs) for runs in profiles.runs] == [21] * 4 and all(
        size in sizes for runs in profiles.runs for size, _ in runs
    )
    plots.study_figure([profiles, optima], tmp_path / "law.svg")
    bent = report_with_bend(0.03)
    assert bent.count("Verdict: not decided by this study") == 3 and bent.count("does not fit the losses") >= 3


def test_seeds_are_added_until_the_claim_could_be_shown(tmp_path):
    """By the variances alone: the same whatever the differences are. Runs of more seeds do not change it."""
    claim = dataclasses.replace(WORSE, effect=0.02)
    study = make(claims=(claim,), max_seeds=30, seeds=3)
    needed = []
    for offset in (0.0, 0.4):
        written.write(tmp_path, study, loss(study, a16=offset))
        needed.append(findings.seeds_needed(study, tmp_path))
    more = dataclasses.replace(study, seeds=5)
    written.write(tmp_path, more, loss(more))
    assert needed[0] == needed[1] == findings.seeds_needed(study, tmp_path) and 3 < needed[0] < 30
    written.write(tmp_path, study, loss(study))
    for effect, seeds in ((1e-6, 30), (5.0, 3), (None, 3)):
        other = dataclasses.replace(study, claims=(dataclasses.replace(claim, effect=effect),))
        assert findings.seeds_needed(other, tmp_path) == seeds
    assert findings.seeds_needed(dataclasses.replace(study, max_seeds=0), tmp_path) == 3
    margin = dataclasses.replace(study, claims=(dataclasses.replace(claim, effect=0.52, margin=0.5),))
    assert findings.seeds_needed(margin, tmp_path) == needed[0]  # what is to be shown is the effect above the margin


def test_words_of_others_are_no_markup(tmp_path):
    arms = {"a|b": {}, "`c` <script>": {"model.d_model": "16"}}
    claim = Claim("*x* <b> | $y$ _z_ d_k\n# no heading", "[here](http://x)", "worse", ("`c` <script>",))
    study = make(question="Is <i>it</i> *so*?", arms=arms, compare_with="a|b", claims=(claim,))
    written.write(tmp_path, study, loss(study))
    report.write(study, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags & {"script", "em", "i", "b", "a"} == set() and page.count("h1") == 1 and page.count("h2") == 6
    assert "*x* <b> | $y$ _z_ d_k # no heading" in page.text and "Is <i>it</i> *so*?" in page.text
    assert [cells[0] for cells in page.rows[1:3]] == ["a|b", "`c` <script>"]


def test_a_damaged_table_is_one_line(tmp_path):
    study = make()
    good = loss(study)
    wrong = {
        "validation/nll is 'x', which is not a number": [good[0] | {"validation/nll": "x"}],
        "validation/nll is 'nan', which is not a number": [good[0] | {"validation/nll": "nan"}],
        "line 3: the study has no arm '61'; did you mean '16'": [good[0], good[1] | {"arm": "61"}],
        "line 2: status is 'done', expected one of finished, diverged, failed": [good[0] | {"status": "done"}],
        "line 2: it has no seed": [good[0] | {"seed": ""}],
        "two rows of the arm '8', seed 0": [good[0], good[0]],
        "curve is 'a', which is not a number": [good[0] | {"curve of validation/nll": "a:1"}],
        "settings cannot be split": [good[0] | {"settings": "a='b"}],
        "it has no 'settings'; --mode=ablate makes the file again": [
            {name: value for name, value in good[0].items() if name != "settings"}
        ],
        "it has no run of the study yet": [good[0] | {"part": "search"}],
    }
    for message, rows in wrong.items():
        with pytest.raises(UserError, match=re.escape(message)):
            report_text(tmp_path, study, rows)
    (tmp_path / "results.csv").write_bytes(b"part,arm\n\xff,8\n")
    with pytest.raises(UserError, match="results.csv: damaged, "):
        results.read(tmp_path / "results.csv", study)
    with pytest.raises(UserError, match="there is no such file; --mode=ablate makes it"):
        report.write(study, tmp_path / "elsewhere")


# --- files -------------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a page has; every tag that opens must close."""

    EMPTY = {"meta", "br", "hr", "path", "use"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.all}

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.all)


def drawn(svg: str) -> list[tuple[str, str, list[float]]]:
    """Each element's name, text and numbers (but those of names, which are hashes)."""
    result = []
    for element in ElementTree.fromstring(svg).iter():
        values = " ".join(value for name, value in element.items() if name in ("d", "x", "y", "transform", "width", "height"))
        result.append(
            (element.tag.rpartition("}")[2], (element.text or "").strip(), [*map(float, re.findall(r"-?\d+\.?\d*", values))])
        )
    return result


def rebuilt(study: Study, kept: Path, folder: Path) -> None:
    """Makes a report again from its tables alone, and compares it with the one that is kept: text to the byte, what is
    drawn to a point, since versions of matplotlib differ by less."""
    folder.mkdir()
    for name in ("results.csv", "sentences.csv", "plan.json"):
        if (kept / name).exists():
            shutil.copy(kept / name, folder)
    report.write(study, folder)
    for name in ("report.md", "summary.tex"):
        assert (folder / name).read_text() == (kept / name).read_text()
    old, new = (drawn((where / "figure.svg").read_text()) for where in (kept, folder))
    assert [element[:2] for element in old] == [element[:2] for element in new]
    for (*_, before), (*_, after) in zip(old, new, strict=True):
        assert before == pytest.approx(after, abs=1.0)
    for name in ("report.md", "figure.svg"):
        assert (kept / name).stat().st_size < 100_000


# A study under way has no report.
KEPT = [path.with_name("results.csv") for path in sorted(ROOT.glob("reports/*/report.md"))]
each_kept = pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.parent.name)


@each_kept
def test_the_text_of_a_report_that_is_kept_can_be_made_again(kept):
    study = studies.read(ROOT / "ablations" / f"{kept.parent.name}.py", {})
    sentences = resampling.read(kept.parent / resampling.NAME, study)
    found = findings.find(study, results.read(kept, study), sentences, followed(study, kept.parent))
    assert report.markdown(found) == (kept.parent / "report.md").read_text()


@pytest.mark.slow
@each_kept
def test_a_report_that_is_kept_can_be_made_again(kept, tmp_path):
    rebuilt(studies.read(ROOT / "ablations" / f"{kept.parent.name}.py", {}), kept.parent, tmp_path / "again")


def test_the_runs_are_not_needed_again(tmp_path):
    """Of runs that are trained, if only by a fake: the same files without their workdirs, and with other paths."""
    made = test_runs.plan(
        {"a": {}, "b": {"model.d_model": "16"}, "d": test_runs.does("diverge"), "f": test_runs.does("fail")},
        metrics=(NLL, BLEU, dataclasses.replace(FAST, target=-0.1)),
        blocked=True,
        claims=(Claim("it is worse", "here", "worse", ("b",)),),
    )
    test_runs.run_all(made, tmp_path / "first")
    report.write(made.study, tmp_path / "first")
    rebuilt(made.study, tmp_path / "first", tmp_path / "second")
    for name in ("report.html", "figure.svg", "figure.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    text, page = (tmp_path / "first" / "report.md").read_text(), (tmp_path / "first" / "report.html").read_text()
    assert str(tmp_path) not in text + page
    # The fake's loss ends at its sum of 1 / (step + width), plus the seed: `a`, the narrower, is worse by the difference.
    ours, theirs = (sum(1 / (step + width) for step in range(4)) for width in (16, 8))
    assert f"`b` is better than `a` by {theirs - ours:.4f}"[:-2] in verdict(text) and "The runs disagree" in verdict(text)
    found = table(text, "## `validation/nll`")
    assert (found["d"]["diverged"], found["f"]["failed"]) == ("2", "2") and "- `f`, seed 1: failed, divide by" in text
    assert [table(text, "## `updates")[arm]["not reached"] for arm in "ab"] == ["1", "1"]  # seed 1 ends above 0

    seen = Page(page)
    assert seen.count("svg") == 1 and {"script", "link", "img", "iframe"} & seen.tags == set()
    for _, attributes in seen.all:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "url(http" not in page and "@import" not in page and 'name="viewport"' in page
    cells = [cell.strip() for line in text.splitlines() if line.startswith("| ") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    shown = [cell for row in seen.rows for cell in row]
    assert shown == [cell.replace("`", "") for cell in cells if not re.fullmatch("-+:?", cell)]


def test_tables_for_papers_have_the_numbers_of_the_report(tmp_path):
    """Number columns hold numbers, or nothing; a name is set as TeX has it; curves are those of results.csv."""
    name, arms = FAST.label, {"8": {}, "16 & more_": {"model.d_model": "16"}}
    study = make(arms=arms, claims=(), metrics=(NLL, FAST))
    rows = loss(study)
    for row in rows:
        row |= {name: 40, "not_reached": name, "curve of validation/nll": "20:3.5 40:2"}
    path = written.write(tmp_path, study, rows)
    report.write(study, path)
    with (path / "summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(file))
    found = table((path / "report.md").read_text(), "## `validation/nll`")["16 & more_"]
    mine = next(row for row in summary if (row["metric"], row["arm"]) == ("validation/nll", "16 & more_"))
    shown = numbers(found["mean"]) + numbers(found["95 % interval"]) + numbers(found["minus 8"]) + numbers(found["p"])
    columns = ("mean", "low", "high", "difference", "p")
    assert [float(mine[column]) for column in columns] == pytest.approx(shown, abs=2e-3)
    words = {"metric", "better", "arm", "against"}
    assert all(not text or math.isfinite(float(text)) for row in summary for column, text in row.items() if column not in words)
    assert {row["not_reached"] for row in summary if row["metric"] == name} == {str(study.seeds)}
    text = (path / "summary.tex").read_text()
    assert "16 \\& more\\_ & $" in text and text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 2
    with (path / "curves.csv").open(newline="") as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 2 * len(rows) and curves[0]["validation/nll"] == "3.5" and curves[0]["update"] == "20"


@pytest.mark.parametrize(("curve", "drawn"), [("1:2", False), ("1:2 2:1.5", True)])
def test_one_point_is_no_curve(tmp_path, curve, drawn):
    """As of studies of what is measured before the first update."""
    study = make(claims=())
    rows = [row | {"curve of validation/nll": curve} for row in loss(study)]
    path = written.write(tmp_path, study, rows) / "results.csv"
    found = figures.panels(findings.find(study, results.read(path, study)))
    assert any(isinstance(panel, plots.Lines) for panel in found) == drawn


def test_a_score_by_length_is_one_panel(tmp_path):
    """From three ranges on, in the order of lengths; what is no range has a panel of its own."""
    names = ("test/bleu@10-19", "validation/nll", "test/bleu@1-9", "test/bleu@20-29", "test/chrf@1-9", "test/chrf@10-19")
    study = make(claims=(), metrics=tuple(Metric(name, "higher") for name in names))
    scores = {name: float(place) for place, name in enumerate(names)}
    path = written.write(tmp_path, study, written.all_of(study, lambda arm, seed: scores)) / "results.csv"
    bleu, *others = figures.panels(findings.find(study, results.read(path, study)))
    assert isinstance(bleu, plots.Ranges) and list(bleu.ranges) == ["1-9", "10-19", "20-29"]
    assert bleu.means["16"] == [2.0, 0.0, 3.0] and bleu.values["8"][2] == [3.0] * 5
    assert bleu.label == "test/bleu (higher is better), by words of the source"
    assert [type(panel) for panel in others] == [plots.Dots] * 3


def test_the_figure_shows_where_runs_are(tmp_path):
    """Read back from the SVG: dots stand where the values are, on one scale, and every arm is named."""
    study = make(claims=())
    rows = loss(study, a16=0.3)
    rows[0]["curve of validation/nll"] = "10:3 20:2.5 30:nan 40:2"
    written.write(tmp_path, study, rows)
    report.write(study, tmp_path)
    svg = (tmp_path / "figure.svg").read_text()
    assert (
        not re.search(r"\d\.\d{3}", re.sub(r">[^<]*<", "><", svg)) and "Date" not in svg and "matplotlib v" not in svg.lower()
    )
    dots = [e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("use") and "opacity" in (e.get("style") or "")]
    where = np.array([float(dot.get("x") or "nan") for dot in dots])
    values = np.array([row["validation/nll"] for arm in study.arms for row in rows if row["arm"] == arm])
    slope, start = np.polyfit(values, where, 1)
    assert slope > 0 and np.abs(slope * values + start - where).max() < 0.02
    words = [text for tag, text, _ in drawn(svg) if tag == "text"]
    assert {"8", "16", "24", "validation/nll (lower is better)", "updates", "8 2"} <= set(words)
