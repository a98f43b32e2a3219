"""The sentences of a verdict and of its evidence."""

from collections.abc import Mapping

from transformer.errors import counted
from transformer.statistics.contrasts import Interval
from transformer.statistics.scaling_laws import Exponent, Law, Optimal
from transformer.studies.findings import Findings, Judged
from transformer.studies.markup import Digits, amount, code, listed, p_value
from transformer.studies.study import LAWS, Claim
from transformer.studies.verdicts import AGREES, CANNOT_TELL, DISAGREES, Finding

SAYS = {
    AGREES: "the runs agree with the claim",
    DISAGREES: "the runs disagree with the claim",
    CANNOT_TELL: "the runs cannot tell whether the claim holds",
}


def claimed(claim: Claim, against: str, unit: str) -> str:
    """The claim as a statement about arms. `against`: the arm that they are compared with, unless the claim names one."""
    arms, margin = listed([code(arm) for arm in claim.arms]), f"{claim.margin:g}"
    each, other, than = "each of " if len(claim.arms) > 1 else "", code(claim.against or against), ""
    more = f" by more than {margin}" if claim.margin else ""
    if claim.beyond and claim.kind in ("better", "worse"):
        ours, theirs = map(code, claim.beyond)
        than = f" by more than {ours} is {claim.kind} than {theirs}{f' plus {margin}' if claim.margin else ''}"
    elif claim.beyond and claim.kind in ("equal", "not worse"):
        than = f", after subtracting the difference of {code(claim.beyond[0])} and {code(claim.beyond[1])}"
    elif claim.beyond:
        than = f", compared with {listed([code(arm) for arm in claim.beyond])} of the same sizes"
    slope = f"over {arms}, whose sizes are {listed([amount(size) for size in claim.sizes])}, it"
    runs = f"{counted(len(claim.arms), 'arm')} of {counted(len(set(claim.sizes)), 'size')}"
    texts: Mapping[str, str] = {
        "better": f"{each}{arms} is better than {other}{than or more}",
        "worse": f"{each}{arms} is worse than {other}{than or more}",
        "equal": f"{each}{arms} differs from {other} by less than {margin}{than}",
        "not worse": f"{each}{arms} is worse than {other} by less than {margin}, if at all{than}",
        "order": f"each of {arms} is better than the next{more}",
        "rises": f"{slope} rises{more} with each doubling{than}",
        "falls": f"{slope} falls{more} with each doubling{than}",
        "exponent": f"{slope} falls as E + A / N^a, with a within {margin} of {claim.exponent}",
        "isoflop": f"over {runs} the size N of the lowest value at a budget C, found by a parabola in log N, is proportional "
        f"to C^a, with a within {margin} of {claim.exponent}",
        "size exponent": f"over {runs} it falls as E + A / N^a + B / D^b, with a within {margin} of {claim.exponent}",
        "data exponent": f"over {runs} it falls as E + A / N^a + B / D^b, with b within {margin} of {claim.exponent}",
    }
    published = f"; the published difference is {claim.effect:g}" if claim.effect is not None else ""
    return f"Tested as: in {unit}, {texts[claim.kind]}{published}."


def sentence(judged: Judged, unit: str, digits: Digits) -> str:
    """The verdict and its evidence in numbers."""
    claim, verdict = judged.claim, judged.verdict
    if verdict.problem:
        evidence = verdict.problem
    elif claim.kind in LAWS:
        evidence = _exponent(claim, verdict.findings[0], judged)
    else:
        evidence = f"in {unit}, {listed([_compared(claim, finding, digits) for finding in verdict.findings])}"
    seeds = " These intervals are about other seeds, not about other test sentences." if judged.of_seeds else ""
    return f"{SAYS[verdict.word][0].upper()}{SAYS[verdict.word][1:]}: {evidence}.{seeds}"


def effects(judged: Judged, digits: Digits) -> list[str]:
    """A sentence for each published effect: the interval of the runs, and whether it excludes the effect."""
    result = []
    for finding in judged.verdict.findings:
        published = judged.claim.exponent if finding.comparison.law else judged.claim.effect
        if published is None or finding.excluded is None or finding.value is None or finding.alone is None:
            continue
        arm = next((arm for arm in judged.claim.arms if arm in finding.comparison.weights), "")
        what = "exponent" if finding.comparison.law else "effect"
        of = f" of {code(arm)}" if len(judged.verdict.findings) > 1 else ""
        says = "is excluded" if finding.excluded <= 0.05 else "is not excluded"
        number = (lambda value: f"{value:.3g}") if finding.comparison.law else digits
        interval = f"{number(finding.alone.low)} to {number(finding.alone.high)}"
        many = f", with Holm's correction over {counted(judged.verdict.effects, 'published effect')}"
        result.append(
            f"**The published {what}{of}, {published:g}, {says}"
            + (", but this study does not decide it" if judged.flags else "")
            + f".** The runs have {number(finding.value)} (95 % interval {interval}; p {p_value(finding.excluded)}"
            + (many if judged.verdict.effects > 1 else "")
            + ")."
        )
    return result


def rule(judged: Judged) -> str:
    """The rule that decides the verdict."""
    margin, tests = judged.claim.margin, counted(judged.verdict.tests, "comparison")
    if judged.claim.kind in LAWS:
        what = f"the exponent is shown to be within {margin:g} of {judged.claim.exponent:g}, disagrees if it is shown not to be"
        lost = "runs that diverged are left out of the fit"
    elif judged.claim.kind == "equal":
        what = f"every difference is shown to be less than {margin:g} in either direction, disagrees if one is shown to be more"
        lost = "if an arm diverges more often, its remaining runs do not show that it is equal"
    elif judged.claim.beyond or judged.claim.kind in ("rises", "falls"):
        what = f"every such contrast is shown to be above {judged.bound:g}, disagrees if one is shown to be below"
        lost = "an interaction or a slope is unknown if a run of its arms diverged"
    else:
        what = f"every advantage is shown to be above {judged.bound:g}, disagrees if one is shown to be below"
        lost = "an arm that diverges more often (Fisher's exact test) is worse by any margin"
    family = f"with Holm's correction over the {tests} of all claims" if judged.verdict.tests > 1 else "without correction"
    return f"agrees if {what}, at 5 % {family}; {lost}"


def _contrast(claim: Claim, finding: Finding, digits: Digits) -> str:
    """An interaction or a slope, with the sign of the claim."""
    if claim.kind in ("rises", "falls"):
        what = f"the {'rise' if claim.kind == 'rises' else 'fall'} with each doubling"
        what += ", minus that of the other arms," if claim.beyond else ""
    else:
        arm = next(arm for arm in claim.arms if arm in finding.comparison.weights)
        sense = {"worse": "disadvantage", "equal": "difference"}.get(claim.kind, "advantage")
        what = f"the {sense} of {code(arm)}, minus that of {code(claim.beyond[0])} against {code(claim.beyond[1])},"
    if finding.value is None:
        return f"{what} is not known: there are too few runs"
    lost = "; a run diverged" if any(finding.diverged) else ""
    return f"{what} is {digits(finding.value)} ({_within(finding.interval, finding.alone, digits)}{lost})"


def _within(interval: Interval | None, alone: Interval | None, digits: Digits) -> str:
    within = f"simultaneous 95 % interval {digits.interval(interval)}" if interval else "too few runs: no interval"
    return within + (f", alone {digits.interval(alone)}" if alone and alone != interval else "")


def _compared(claim: Claim, finding: Finding, digits: Digits) -> str:
    """The arm of the claim compared with the other arm, with the interval."""
    if claim.beyond or claim.kind in ("rises", "falls"):
        return _contrast(claim, finding, digits)
    ours, theirs = finding.comparison.weights
    value, interval, alone, counts = finding.value, finding.interval, finding.alone, finding.diverged
    if claim.kind == "worse":  # the contrast favours the arm that is better, by the claim
        ours, theirs, counts = theirs, ours, counts[::-1]
        value, interval, alone = (None if value is None else -value), _negated(interval), _negated(alone)
    lost = f"; {counts[0]:g} of its runs diverged, and {counts[1]:g} of the other's" if any(counts) else ""
    if value is None:
        return f"{code(ours)} and {code(theirs)} have too few runs to be compared{lost}"
    if claim.kind == "equal" or value > 0:
        verb = "differs from" if claim.kind == "equal" else "is better than"
    else:
        verb, value = ("is worse than", -value) if value < 0 else ("is as good as", value)
        interval, alone = (_negated(interval), _negated(alone)) if verb == "is worse than" else (interval, alone)
    by = f" by {digits(value)}" if value or claim.kind == "equal" else ""
    return f"{code(ours)} {verb} {code(theirs)}{by} ({_within(interval, alone, digits)}{lost})"


def _negated(interval: Interval | None) -> Interval | None:
    return interval and Interval(-interval.high, -interval.low)


def _exponent(claim: Claim, finding: Finding, judged: Judged) -> str:
    def ends(interval: Interval) -> str:
        low, high = ("no bound" if abs(end) in (0, float("inf")) else f"{end:.3g}" for end in interval)
        return f"{low} to {high}"

    within = f"simultaneous 95 % interval {ends(finding.interval)}" if finding.interval else "too few runs for an interval"
    if finding.alone and finding.alone != finding.interval:
        within += f", alone {ends(finding.alone)}"
    diverged = sum(score != score for arm in claim.arms for score in judged.data.table[arm] if score is not None)
    lost = f", {counted(diverged, 'run')} that diverged left out" if diverged else ""
    text = f"the fitted exponent is {finding.value:.3g} ({within}{lost}), the published one {claim.exponent:g}"
    law = finding.law
    if isinstance(law, Optimal):
        text += f"; by the law in N and D it is {law.law.optimal_exponent:.3g} (95 % interval {ends(law.law_interval)})"
    elif isinstance(law, Exponent):
        text += f"; the law is {_written(law.law)}"
    return text


def _written(law: Law) -> str:
    size, token = (f"{scale:.3g} / {name}^{power:.3g}" for scale, name, power in _terms(law))
    return f"{law.floor:.3g} + {size} + {token}"


def _terms(law: Law) -> list[tuple[float, str, float]]:
    return [(law.size_scale, "N", law.size_exponent), (law.token_scale, "D", law.token_exponent)]


def power(judged: Judged, digits: Digits) -> str:
    """The smallest difference that the study could show, and whether the claim is smaller than that and thus exploratory."""
    if judged.claim.kind in LAWS:
        return ""
    label = "**Exploratory.** " if judged.exploratory else ""
    if judged.least is None:
        return f"{label}With these runs no difference can be distinguished from noise."
    what = "difference that would be found"
    if judged.claim.kind == "equal":
        what = "margin within which equal arms would be found equal"
    elif judged.claim.kind == "not worse":
        what = "margin for which an equal arm would be found not worse"
    able = f"{label}With these runs, the smallest {what} with a probability of 80 % is about {digits(judged.least)}"
    if judged.claimed is None:
        return f"{able}; the claim states no size."
    above = " more than its margin" if judged.claim.effect is not None and judged.claim.margin else ""
    return f"{able}; the claim is about {judged.claimed:g}{above}{', too small for this study to show' if label else ''}."


def conclusion(findings: Findings) -> str:
    """A sentence about which arms differ from the comparison arm, for a study without claims."""
    measured, against = findings.measured[0], findings.study.compare_with
    number = measured.digits
    differ, same, unknown = [], [], []
    for arm, difference in measured.differences.items():
        interval, value = difference.interval, difference.value
        if interval is None or value is None:
            unknown.append(code(arm))
        elif interval.low <= 0 <= interval.high:
            same.append(f"{code(arm)} ({number.interval(interval)})")
        else:
            more = "higher" if value > 0 else "lower"
            differ.append(f"{code(arm)} is {more} by {number(abs(value))} (difference {number.interval(interval)})")
    parts = [listed(differ)] if differ else []
    parts += [f"no difference was found for {listed(same)}"] if same else []
    parts += [f"too few runs have a score for {listed(unknown)}"] if unknown else []
    differences = "; ".join(parts)
    return f"In {code(measured.metric.label)}, compared with {code(against)}: {differences}. No claim was planned: exploratory."
