"""Writes report.md, report.html, the figure and tables from results.csv (and sentences.csv). The same rows give the same files.

The sentences are written here and in verdict_text.py; the numbers come from findings.py.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from transformer import plots
from transformer.errors import counted, no_failure
from transformer.files import new_file
from transformer.statistics.contrasts import Interval
from transformer.studies import figures, flags, resampling, results
from transformer.studies import findings as found
from transformer.studies.findings import Findings, Measured
from transformer.studies.markup import ABSENT, Digits, amount, code, listed, p_value, page, plain, table
from transformer.studies.plan import TOLERANCE, defaults, duration, followed
from transformer.studies.results import Row
from transformer.studies.study import Study
from transformer.studies.verdict_text import claimed, conclusion, effects, power, rule, sentence

FIGURE = "figure"


def write(study: Study, folder: Path) -> list[str]:
    """Writes the report of the results.csv in `folder` into `folder`. Returns the verdicts as sentences or, for a study without
    claims, a sentence about which arms differ. UserError: there is no results.csv, or it cannot be read, or not be written."""
    rows, sentences = results.read(folder / results.NAME, study), resampling.read(folder / resampling.NAME, study)
    findings = found.find(study, rows, sentences, followed(study, folder))
    with no_failure(str(folder), "written"):
        figures.write_tables(findings, folder)
        results.add_curves(folder / results.CURVES, rows, study)
        plots.study_figure(figures.panels(findings), *(folder / f"{FIGURE}{ending}" for ending in (".png", ".svg")))
        text = markdown(findings)
        figure = (folder / f"{FIGURE}.svg").read_text(encoding="utf-8")
        html = page(study.question, text, {f"{FIGURE}.svg": figure})
        for name, content in (("report.md", text), ("report.html", html)):
            with new_file(folder / name) as new:
                new.write_text(content, encoding="utf-8", newline="\n")
    if not study.claims:
        return [conclusion(findings)]
    return [f"{judged.word}: {judged.claim.text} ({judged.claim.source})" for judged in findings.judged]


def markdown(findings: Findings) -> str:
    """The report as Markdown; it names figure.svg."""
    study = findings.study
    size = f"{len(study.arms)} arms, {counted(len(findings.seeds), 'seed')} each"
    metrics = listed([code(metric.label) for metric in study.metrics])
    first = "; a claim is about the first of these unless it names another" if len(study.metrics) > 1 and study.claims else ""
    parts = [
        f"# {plain(study.question)}",
        f"A study of {size}, compared with {code(study.compare_with)} in {metrics}{first}.",
        *(["## The claim" if len(study.claims) == 1 else "## The claims", *_plan(findings)] if study.claims else []),
        *(part for number in range(len(study.claims)) for part in _claim(findings, number)),
        "## Results",
        *([] if study.claims else [conclusion(findings)]),
        f"![each arm's runs, their mean and 95 % interval; learning curves]({FIGURE}.svg)",
        *(part for measured in findings.measured for part in _metric(findings, measured)),
        *_flags(findings),
        *_how_computed(findings),
        *_limits(findings),
        *_unfinished(findings),
        *_search(findings),
        *_costs(findings),
        *_settings(findings),
        *_origin(findings),
    ]
    return "\n\n".join(parts) + "\n"


def _plan(findings: Findings) -> list[str]:
    """Whether the claims were planned."""
    if findings.plan.kept:
        return [findings.plan.text] if findings.plan.text else []
    number = "The verdict is" if len(findings.judged) == 1 else "All verdicts are"
    return [f"{findings.plan.text} {number} exploratory: no confirmation of what was expected before the runs."]


def _claim(findings: Findings, number: int) -> list[str]:
    judged = findings.judged[number]
    claim, unit = judged.claim, code(judged.data.name)
    label = ", exploratory" if judged.exploratory or not findings.plan.kept else ""
    values = [finding.value for finding in judged.verdict.findings if finding.value is not None]
    written = Digits(judged.noise, values)
    able, flagged = power(judged, written), f"Flags: {'; '.join(judged.flags)}. Without these flags: " if judged.flags else ""
    return [
        f"> {plain(claim.text)}\n>\n> After {plain(claim.source)}",
        claimed(claim, findings.study.against(claim.arms[0]), unit),
        f"**Verdict: {judged.word}{label}.** {flagged}{sentence(judged, unit, written)}",
        *effects(judged, written),
        *([able] if able else []),
        f"Rule: {rule(judged)}.",
    ]


def _metric(findings: Findings, measured: Measured) -> list[str]:
    """A metric's table with a row for each arm; with several tasks, a table for each task."""
    parts = [f"### {code(measured.metric.label)}{measured.direction}"]
    for task, arms in measured.groups.items():
        parts += [f"{plain(task)}:"] if task else []
        parts.append(_table(findings, measured, arms))
    return [*parts, *_notes(findings, measured), *_resampled(findings, measured)]


def _table(findings: Findings, measured: Measured, arms: Sequence[str]) -> str:
    """A table of arms, one of which the others are compared with."""
    number, counting = measured.digits, measured.metric.take == "updates"
    against = findings.study.against(arms[0])
    head = ["arm", "mean", "95 % interval", "runs", f"minus {code(against)}", "interval of the difference", "p", "comparison"]
    head += ["not reached"] if counting else []
    rows = []
    for arm in arms:
        estimate = measured.estimates[arm]
        spread = None if measured.unreached[arm] == estimate.count else estimate.interval  # all updates do not vary
        row = [code(arm), number(estimate.value), number.interval(spread), str(estimate.count)]
        if difference := measured.differences.get(arm):
            row += [number(difference.value), number.interval(difference.interval), p_value(difference.p)]
            row += ["claimed" if difference.planned else "exploratory"]
        row += [ABSENT] * (len(head) - counting - len(row))
        row += [str(measured.unreached[arm])] if counting else []
        rows.append(row + [str(len(findings.runs(arm, status))) for status in ("diverged", "failed")])
    return table([*head, "diverged", "failed"], rows)


def _resampled(findings: Findings, measured: Measured) -> list[str]:
    """The difference of two checkpoints over resampled test sentences, for scores that are sums over sentences: a table."""
    study, number = findings.study, measured.digits
    rows = [row for row in findings.sentences if row.metric == measured.metric.label and row.against == study.against(row.arm)]
    if not rows:
        return []
    first, *others = sorted({row.seed for row in rows})
    lines = [[code(row.arm), *_two(row, number)] for row in rows]
    return [
        ("The intervals above also cover other test sentences. " if measured.data.shared else "")
        + f"Two checkpoints each, of seed {first}{' or a later one' if others else ''}, on resampled test sentences:",
        table(["arm", f"these two checkpoints: minus {code(study.compare_with)}", "95 % interval", "p"], lines),
    ]


def _two(row: resampling.Row, number: Digits) -> list[str]:
    return [number(row.difference), number.interval(Interval(row.low, row.high)), p_value(row.p)]


def _notes(findings: Findings, measured: Measured) -> list[str]:
    """Notes that a reader needs to understand the table of a metric."""
    notes, metric = [], measured.metric
    if len(findings.seeds) == 1:
        notes.append("One seed: there is no interval and no p value, and a difference between two runs may be noise.")
    if measured.limit is not None and metric.take == "updates":
        notes.append("**Ceiling**: no run reached the target, so this metric does not separate the arms.")
    elif measured.limit is not None:
        what = "Ceiling" if measured.limit else "Floor"
        notes.append(
            f"**{what}**: every arm's mean is at an end of the scale, {measured.limit:g}, where arms cannot be distinguished."
        )
    if metric.take == "updates":
        notes.append(
            "Validation runs only every few updates, so the number is that of the first validation at which the target was "
            "reached. A run that never reached it counts with all of its updates; it is neither left out nor counted as 0. So "
            "the mean is a restricted mean (Royston & Parmar 2013), which is lower than the true one. Intervals and p values "
            "include a variance of d² / 12 of each run for d updates between validations."
        )
    if measured.data.ranked:
        notes.append("No p value is below that of a sign test of all seeds and tasks.")
    if measured.without:
        notes.append(f"Left out, because the metric is missing or not finite: {counted(measured.without, 'finished run')}.")
    return [" ".join(notes)] if notes else []


def _flags(findings: Findings) -> list[str]:
    """The flags of arms, the rules by which arms and claims are flagged, and what was not checked."""
    lines = [f"- {code(arm)} {flag.text}" for arm, doubts in findings.flags.items() for flag in doubts]
    flagged = lines or any(judged.flags for judged in findings.judged)
    parts = ["\n".join(lines), flags.RULES if flagged else "", flags.unchecked(findings.study)]
    return ["## Flags", *filter(None, parts)] if any(parts) else []


def _how_computed(findings: Findings) -> list[str]:
    two = "Two checkpoints are compared by the paired bootstrap (Koehn 2004), which says nothing about other seeds."
    if len(findings.seeds) == 1:
        return [two] if findings.sentences else []
    shared = (
        "Where intervals also cover other test sentences (of the same kind), the variance from resampling the test sentences "
        "that all seeds have in common is added to the variance over seeds. "
    )
    paired = "in pairs with the same seed" if findings.study.blocked else "as independent samples, not paired by seed"
    if not findings.study.blocked and any(measured.data.ranked for measured in findings.measured):
        paired += " (mean ranks in pairs, because ranks of one seed depend on each other)"
    scales = {measured.data.scale for measured in findings.measured}
    named = {"log": "logarithms", "logit": "logits of percentages", "linear": "untransformed values"}
    return [
        "Means and their intervals (Student's t) are computed over finished runs from "
        f"{listed([text for scale, text in named.items() if scale in scales])}, and transformed back; if a value of an arm has "
        "no such transform, the arm is left untransformed, and so are all that it is compared with. Arms are compared "
        f"{paired}, each with its own variance (Welch 1947, with fewer degrees of freedom; the limits of a difference follow "
        "from those of its means: Zou & Donner 2008). "
        "Planned comparisons are those of the claims. Their p values have Holm's (1979) correction. Their intervals are "
        "simultaneous and agree with his decisions (Strassburger & Bretz 2008): an interval that ends exactly at the bound "
        "of its claim excludes that bound. Each p value in a table is about a difference of 0, so a planned comparison with a "
        "margin has none; its interval and its verdict are about the margin. All other comparisons are exploratory: their "
        "intervals and p values allow for all pairs of arms (Games & Howell 1976). All of this is about other seeds on the "
        "same data, not about other test sets.",
        *(
            [(shared if any(measured.data.shared for measured in findings.measured) else "") + two]
            if findings.sentences
            else []
        ),
    ]


def _unfinished(findings: Findings) -> list[str]:
    """The list of runs without a score."""
    lost = [row for row in findings.rows if row.status != "finished"]
    lines = [f"- {code(row.arm)}, seed {row.seed}: {row.status}{f', {plain(row.error)}' if row.error else ''}" for row in lost]
    lines += [f"- {code(arm)}, seed {seed}: not run" for arm, seed in findings.missing]
    note = (
        "A run that diverged is an outcome of its arm: it has no score to average, but it counts in the verdict. A run that "
        "failed or is missing says nothing about its arm."
    )
    return ["## Runs without a score", note, "\n".join(lines)] if lines else []


def _search(findings: Findings) -> list[str]:
    """The search for learning rates: each arm's scores by rate, and whether a check chose the same."""
    study, chooser = findings.study, results.chooser(findings.study)
    if not findings.search:
        trained = study.metrics[0].split != "init"
        return (
            ["## Learning rates", "Not searched: each arm has the rate of its settings, which may not be its best."]
            if trained
            else []
        )
    rates = sorted({row.learning_rate for row in findings.search if row.learning_rate is not None})
    chosen = {row.arm: row.learning_rate for row in findings.rows}
    lines = []
    for part, name in (("search", "{}"), ("check", "{}, all updates")):
        for arm in study.arms:
            ours = [row for row in findings.search if row.part == part and row.arm == arm]
            if not ours:
                continue
            cells = [_searched([row for row in ours if row.learning_rate == rate], chooser.label) for rate in rates]
            taken = f"{chosen[arm]:g}" if chosen.get(arm) else ABSENT
            lines.append([code(name.format(arm)), *cells, taken])
    check = ""
    if study.search_fraction < 1:
        short, whole = flags.checked(study, findings.search)
        same = "the same rate as" if short == whole else "**another rate than**"
        check = f" Note: a search with all updates chooses {same} one with {study.search_fraction:g} of them."
    note = (
        f"The mean {code(chooser.label)} of the runs at each learning rate, with seeds that the study does not use"
        + (f", after {study.search_fraction:g} of the updates" if study.search_fraction < 1 else "")
        + ". The best rate is chosen, or the smallest if all runs diverged."
        + check
    )
    return ["## Learning rates", note, table(["arm", *(f"{rate:g}" for rate in rates), "chosen"], lines)]


def _searched(rows: Sequence[Row], label: str) -> str:
    values = [row.values[label] for row in rows if label in row.values]
    lost = ", ".join(f"{count} {status}" for status, count in Counter(r.status for r in rows if r.status != "finished").items())
    return ", ".join(part for part in (f"{math.fsum(values) / len(values):.4g}" if values else "", lost) if part) or ABSENT


def _costs(findings: Findings) -> list[str]:
    """Time, FLOPs, parameters, and what is equal in all arms."""

    def median(values: Sequence[float | None]) -> float | None:  # a run that was paused, or had company, has a long time
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    rows = []
    for arm in findings.study.arms:
        runs = findings.runs(arm)
        seconds = median([row.seconds for row in runs if row.status == "finished"])
        parameters, flops = (median(values) for values in ([row.parameters for row in runs], [row.flops for row in runs]))
        rows.append([code(arm), amount(parameters), amount(flops), ABSENT if seconds is None else duration(seconds)])
    equal = [fair + (f" (within {100 * TOLERANCE[fair]:g} %)" if TOLERANCE[fair] else "") for fair in findings.study.fair]
    fair = (
        f"Checked to be equal in all arms before anything was trained: {listed(equal)}."
        if equal
        else "No cost was required to be equal."
    )
    head = ["arm", "parameters", "training FLOP", "time of a run"]
    if findings.search:
        head.append("time of the search")
        for row, arm in zip(rows, findings.study.arms, strict=True):
            known = [each.seconds for each in findings.search if each.arm == arm and each.seconds is not None]
            row.append(duration(math.fsum(known)) if known else ABSENT)
    return [
        "## Cost",
        table(head, rows),
        f"{fair} Times are medians of finished runs and include start, compilation and scoring.",
    ]


def _settings(findings: Findings) -> list[str]:
    """All settings of the comparison arm that differ from the defaults, and in what each other arm differs from it."""
    study, default = findings.study, defaults()
    first = {arm: runs[0].settings for arm in study.arms if (runs := findings.runs(arm))}
    shown = next(iter(study.cells(study.compare_with)))
    shown = shown if shown in first else next(iter(first))
    base = first[shown]

    def changes(arm: str) -> str:
        if arm not in first:
            return ABSENT
        names = [name for name in sorted({*base, *first[arm]}) if base.get(name) != first[arm].get(name)]
        return " ".join(code(f"{name}={first[arm].get(name, default.get(name, 'default'))}") for name in names) or ABSENT

    lines = "\n".join(f"{name}={text}" for name, text in base.items())
    return [
        "## Settings",
        f"Settings of {code(shown)} that differ from the defaults of the commit below (as `--config.base.NAME=VALUE`):",
        f"```\n{lines}\n```",
        "The other arms differ from it in:",
        table(["arm", "settings"], [[code(arm), changes(arm)] for arm in study.arms if arm != shown], texts=2),
    ]


def _origin(findings: Findings) -> list[str]:
    """Seeds, commit, machine and versions."""

    def listed_by(name: str, value: Callable[[Row], str]) -> str:
        counts = Counter(value(row) or "not recorded" for row in findings.rows)
        texts = [plain(text) + (f" ({counted(count, 'run')})" if len(counts) > 1 else "") for text, count in counts.items()]
        return f"- {name}: {'; '.join(texts)}"

    return [
        "## Where it was run",
        "\n".join(
            [
                f"- seeds: {', '.join(map(str, findings.seeds))}",
                listed_by("commit", lambda row: row.commit),
                listed_by("machine", lambda row: row.machine),
                listed_by("versions", lambda row: row.versions),
            ]
        ),
        f"This report is computed from {code(results.NAME)}, which has a row for each run"
        + (f", and {code(resampling.NAME)}." if findings.sentences else "."),
    ]


# --- dropped, cut or replaced ------------------------------------------------------------------------------------------


def _limits(findings: Findings) -> list[str]:
    """Empty if no run reports any."""
    kinds = list(dict.fromkeys((cut.where, cut.what) for row in findings.rows for cut in row.cuts))
    if not kinds:
        return []
    return [
        "## Dropped, cut or replaced",
        "Counts for one run; if runs differ, the smallest and the largest count. Where arms differ in these counts, "
        "differences of scores also reflect these limits.",
        "\n".join(_limit(findings, *kind) for kind in kinds),
    ]


def _limit(findings: Findings, where: str, what: str) -> str:
    by_arm = {
        arm: _counts_of([_count(row, where, what) for row in runs])
        for arm in findings.study.arms
        if (runs := [row for row in findings.runs(arm) if row.status == "finished"])
    }
    name = f"{plain(where)}: {plain(what)}" if where else plain(what)
    if len(set(by_arm.values())) == 1:
        return f"- {name}: {next(iter(by_arm.values()))} in every arm"
    return f"- {name}: " + ", ".join(f"{code(arm)} {text}" for arm, text in by_arm.items())


def _count(row: Row, where: str, what: str) -> tuple[int, int]:
    return next(((cut.count, cut.of) for cut in row.cuts if (cut.where, cut.what) == (where, what)), (0, 0))


def _counts_of(counts: Sequence[tuple[int, int]]) -> str:
    least, most, of = min(n for n, _ in counts), max(n for n, _ in counts), max(of for _, of in counts)
    number = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{number} of {of:,}" if of else number
