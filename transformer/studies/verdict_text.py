"""A verdict in a sentence, and what it rests on."""

from collections.abc import Mapping

from transformer.errors import counted
from transformer.studies.findings import Judged
from transformer.studies.markdown import Digits, amount, code, listed
from transformer.studies.statistics import Interval
from transformer.studies.study import Claim
from transformer.studies.verdicts import AGREES, CANNOT_TELL, DISAGREES, Finding

SAYS = {
    AGREES: "the runs agree with the claim",
    DISAGREES: "the runs disagree with the claim",
    CANNOT_TELL: "the runs cannot tell whether the claim holds",
}


def claimed(claim: Claim, against: str, unit: str) -> str:
    """What the claim was taken to say of the arms."""
    arms, more = listed([code(arm) for arm in claim.arms]), f" by more than {claim.margin:g}" if claim.margin else ""
    each = "each of " if len(claim.arms) > 1 else ""
    texts: Mapping[str, str] = {
        "better": f"{each}{arms} is better than {code(against)}{more}",
        "worse": f"{each}{arms} is worse than {code(against)}{more}",
        "equal": f"{each}{arms} differs from {code(against)} by less than {claim.margin:g}",
        "order": f"each of {arms} is better than the next{more}",
        "exponent": f"over {arms}, of sizes {listed([amount(size) for size in claim.sizes])}, it falls as E + A / N^a, "
        f"with a within {claim.margin:g} of {claim.exponent}",
    }
    published = f"; the published difference is {claim.effect:g}" if claim.effect is not None else ""
    return f"Taken as: in {unit}, {texts[claim.kind]}{published}."


def sentence(judged: Judged, unit: str, digits: Digits) -> str:
    """The verdict: what the runs say, and the numbers that say it."""
    claim, verdict = judged.claim, judged.verdict
    if verdict.problem:
        evidence = verdict.problem
    elif claim.kind == "exponent":
        evidence = _exponent(claim, verdict.findings[0], judged)
    else:
        evidence = f"in {unit}, {listed([_compared(claim, finding, digits) for finding in verdict.findings])}"
    return f"{SAYS[verdict.word][0].upper()}{SAYS[verdict.word][1:]}: {evidence}."


def rule(judged: Judged) -> str:
    """When the verdict is which."""
    margin, tests = judged.claim.margin, counted(judged.verdict.tests, "comparison")
    if judged.claim.kind == "exponent":
        what = f"the exponent is shown to be within {margin:g} of {judged.claim.exponent:g}, disagrees if it is shown not to be"
        lost = "runs that diverged are no part of the fit"
    elif judged.claim.kind == "equal":
        what = f"every difference is shown to be less than {margin:g} either way, disagrees if one is shown to be more"
        lost = "arms of which one diverges more often are not shown equal by the runs that are left"
    else:
        what = f"every advantage is shown to be above {margin:g}, disagrees if one is shown to be below"
        lost = "an arm that diverges more often (Fisher's exact test) is worse by any margin"
    family = (
        f"with Holm's correction over the {tests} of all claims" if judged.verdict.tests > 1 else "alone, without correction"
    )
    return f"agrees if {what}, at 5 % {family}; {lost}"


def _compared(claim: Claim, finding: Finding, digits: Digits) -> str:
    """How the arm that the claim is about did against the other one, with the interval."""
    ours, theirs = finding.comparison.weights
    value, interval, alone, counts = finding.value, finding.interval, finding.alone, finding.diverged
    if claim.kind == "worse":  # the contrast favours the arm that is better, by the claim
        ours, theirs, counts = theirs, ours, counts[::-1]
        value, interval, alone = (None if value is None else -value), _turned(interval), _turned(alone)
    lost = f"; of its runs {counts[0]:g} diverged, of the other's {counts[1]:g}" if any(counts) else ""
    if value is None:
        return f"{code(ours)} and {code(theirs)} have too few runs to be compared{lost}"
    if claim.kind == "equal" or value > 0:
        verb = "differs from" if claim.kind == "equal" else "is better than"
    else:
        verb, value = ("is worse than", -value) if value < 0 else ("is as good as", value)
        interval, alone = (_turned(interval), _turned(alone)) if verb == "is worse than" else (interval, alone)
    within = f"simultaneous 95 % interval {digits.interval(interval)}" if interval else "too few runs: no interval"
    if alone and alone != interval:
        within += f", alone {digits.interval(alone)}"
    by = f" by {digits(value)}" if value or claim.kind == "equal" else ""
    return f"{code(ours)} {verb} {code(theirs)}{by} ({within}{lost})"


def _turned(interval: Interval | None) -> Interval | None:
    return interval and Interval(-interval.high, -interval.low)


def _exponent(claim: Claim, finding: Finding, judged: Judged) -> str:
    def ends(interval: Interval) -> str:
        low, high = ("no bound" if abs(end) in (0, float("inf")) else f"{end:.3g}" for end in interval)
        return f"{low} to {high}"

    within = f"simultaneous 95 % interval {ends(finding.interval)}" if finding.interval else "too few runs for an interval"
    if finding.alone and finding.alone != finding.interval:
        within += f", alone {ends(finding.alone)}"
    diverged = sum(score != score for arm in claim.arms for score in judged.measured.table[arm] if score is not None)
    lost = f", {counted(diverged, 'run')} that diverged left out" if diverged else ""
    return f"the fitted exponent is {finding.value:.3g} ({within}{lost}), the published one {claim.exponent:g}"


def power(judged: Judged, digits: Digits) -> str:
    """What the study could have shown, and whether the claim is smaller than that: then it is exploratory."""
    if judged.claim.kind == "exponent":
        return ""
    label = "**Exploratory.** " if judged.exploratory else ""
    if judged.least is None:
        return f"{label}With these runs no difference can be told from noise."
    what = "difference that would be found"
    if judged.claim.kind == "equal":
        what = "margin within which equal arms would be found equal"
    able = f"{label}With these runs, the smallest {what} with a probability of 80 % is about {digits(judged.least)}"
    if judged.claimed is None:
        return f"{able}; the claim states no size."
    return f"{able}; the claim is about {judged.claimed:g}{', too small for this study to settle' if label else ''}."
