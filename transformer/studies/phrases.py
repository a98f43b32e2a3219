"""A verdict in a sentence, and what it rests on."""

from collections.abc import Mapping

from transformer.errors import counted
from transformer.studies.findings import Judged
from transformer.studies.statistics import Interval
from transformer.studies.study import Claim
from transformer.studies.verdicts import AGREES, CANNOT_TELL, DISAGREES, Numbers
from transformer.studies.words import Digits, amount, code, listed

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
    claim, numbers = judged.claim, list(judged.verdict.numbers.values())
    if judged.problem:
        evidence = judged.problem
    elif claim.kind == "exponent":
        evidence = _exponent(claim, numbers[0])
    else:
        parts = [_compared(claim, *pair, found, digits) for pair, found in zip(judged.pairs, numbers, strict=True)]
        evidence = f"in {unit}, {listed(parts)}"
    return f"{SAYS[judged.verdict.word][0].upper()}{SAYS[judged.verdict.word][1:]}: {evidence}."


def _compared(claim: Claim, ours: str, theirs: str, found: Numbers, digits: Digits) -> str:
    """How the arm that the claim is about did against the other one, with the interval."""
    value, low, high = found["value"], found["low"], found["high"]
    counts = found["diverged"], found["diverged_against"]
    if claim.kind == "worse":  # the numbers are those of the arm that is better, by the claim
        ours, theirs, counts = theirs, ours, counts[::-1]
        value, low, high = (None if x is None else -x for x in (value, low, high))
    lost = f"; of its runs {counts[0]:g} diverged, of the other's {counts[1]:g}" if any(counts) else ""
    if value is None:
        return f"{code(ours)} and {code(theirs)} have no runs to be compared{lost}"
    if claim.kind == "equal":
        verb, sign = "differs from", 1
    else:
        verb, sign = ("is better than", 1) if value > 0 else ("is worse than", -1) if value < 0 else ("is as good as", 1)
    ends = None if low is None or high is None else Interval(*sorted((sign * low, sign * high)))
    within = f"simultaneous 95 % interval {digits.interval(ends)}" if ends else "one run each or too few: no interval"
    by = f" by {digits(sign * value)}" if value or claim.kind == "equal" else ""
    return f"{code(ours)} {verb} {code(theirs)}{by} ({within}{lost})"


def _exponent(claim: Claim, found: Numbers) -> str:
    low, high = (("no bound" if x in (0, float("inf")) else f"{x:.3g}") for x in (found["low"], found["high"]))
    within = "too few runs for an interval" if found["low"] is None else f"95 % interval {low} to {high}"
    lost = f", {counted(int(found['diverged'] or 0), 'run')} that diverged left out" if found["diverged"] else ""
    return f"the fitted exponent is {found['value']:.3g} ({within}{lost}), the published one {claim.exponent:g}"


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
