"""What a table of runs says to a published claim: agrees, disagrees, or cannot tell, by a stated rule, one function a type.

Advantages count from the side of the better score: a lower loss is an advantage, so is a higher BLEU. All intervals are of
95 %, and simultaneous. UserError everywhere if an arm is not in the table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from transformer.errors import UserError
from transformer.studies import power_law, statistics
from transformer.studies.statistics import Difference, Interval, Pair, Table

AGREES, DISAGREES, CANNOT_TELL = "agrees", "disagrees", "cannot tell"

Numbers = Mapping[str, float | None]
Shared = Mapping[Pair, float] | None  # see `statistics.contrasts`


@dataclass(frozen=True)
class Verdict:
    """`word` is agrees, disagrees or cannot tell; `rule` says when it is which; `numbers`: by what is measured, such as
    "1 head against 8 heads", the numbers that the word rests on, None where the runs give none."""

    word: str
    rule: str
    numbers: Mapping[str, Numbers]


def better(
    table: Table, arms: Sequence[str], against: str, margin: float, higher_is_better: bool, shared: Shared = None
) -> Verdict:
    """Each of `arms` beats the arm `against` by at least `margin`."""
    return _beats(
        table, [(arm, against) for arm in arms], statistics.with_each(table, against), margin, higher_is_better, shared
    )


def worse(
    table: Table, arms: Sequence[str], against: str, margin: float, higher_is_better: bool, shared: Shared = None
) -> Verdict:
    """Each of `arms` is beaten by the arm `against` by at least `margin`."""
    family = [(other, arm) for arm, other in statistics.with_each(table, against)]
    return _beats(table, [(against, arm) for arm in arms], family, margin, higher_is_better, shared)


def order(table: Table, arms: Sequence[str], margin: float, higher_is_better: bool, shared: Shared = None) -> Verdict:
    """Each of `arms`, best first, beats the next by at least `margin`."""
    pairs = statistics.neighbours(arms)
    return _beats(table, pairs, pairs, margin, higher_is_better, shared)


def equal(table: Table, arms: Sequence[str], against: str, margin: float, shared: Shared = None) -> Verdict:
    """Each of `arms` differs from the arm `against` by less than `margin`, either way.

    Two one-sided tests (Schuirmann 1987) by an interval of 95 %, which is stricter than their usual 90 %; `p_tost` is their p
    value, unadjusted. That no difference was found is not enough: the interval must leave no room for one.
    """
    comparison = statistics.contrasts(
        table, _checked([(arm, against) for arm in arms], statistics.with_each(table, against)), shared=shared
    )
    words, numbers = [], {}
    for arm in arms:
        difference = comparison.differences[arm, against]
        word = within(difference.interval, -margin, margin)
        more, clear, lost = _diverged(table, arm, against)
        words.append(DISAGREES if clear else CANNOT_TELL if more and word == AGREES else word)
        tost = None
        if difference.value is not None and difference.error:
            tost = float(stats.t.sf((margin - abs(difference.value)) / difference.error, difference.freedom))
        found = _numbers(difference, 1.0) | {"margin": margin, "p_tost": tost} | lost
        numbers[f"{arm} against {against}"] = found
    rule = (
        f"agrees if the whole simultaneous 95 % interval of every difference lies within {margin:g} of 0, disagrees if one lies"
        " outside; arms of which one diverges clearly more often (Fisher's exact p < 0.05) differ, and if it only diverges"
        " more often, the runs that are left do not show them equal"
    )
    return Verdict(_all(words), rule, numbers)


def exponent(table: Table, sizes: Mapping[str, float], value: float, margin: float) -> Verdict:
    """Over the arms of `sizes` the score falls as E + A / N^a in their size N, with a within `margin` of `value`.

    UserError if fewer than three sizes have a run that did not diverge.
    """
    for arm in sizes:
        statistics.known(table, arm)
    runs = [(size, score) for arm, size in sizes.items() for score in table[arm] if score is not None]
    size_N, score_N = np.array(runs).reshape(-1, 2).T
    law = power_law.fit(size_N, score_N)
    low, high = law.interval or (None, None)
    numbers = {"value": law.exponent, "low": low, "high": high, "floor": law.floor, "scale": law.scale}
    numbers |= {"claimed": value, "margin": margin, "diverged": sum(not math.isfinite(score) for _, score in runs)}
    rule = (
        f"agrees if the whole 95 % interval of the exponent lies within {margin:g} of {value:g}, disagrees if it lies outside;"
        " runs that diverged are no part of the fit"
    )
    return Verdict(within(law.interval, value - margin, value + margin), rule, {"exponent": numbers})


def beyond(interval: Interval | None, margin: float) -> str:
    """Is it at least `margin`? The whole interval above it agrees, the whole interval below it disagrees."""
    if interval is None or interval.low <= margin <= interval.high:
        return CANNOT_TELL
    return AGREES if interval.low > margin else DISAGREES


def within(interval: Interval | None, low: float, high: float) -> str:
    """Is it between `low` and `high`? The whole interval inside agrees, the whole interval outside disagrees."""
    if interval is None:
        return CANNOT_TELL
    if low < interval.low and interval.high < high:
        return AGREES
    return DISAGREES if interval.high < low or interval.low > high else CANNOT_TELL


def _beats(
    table: Table, pairs: Sequence[Pair], family: Sequence[Pair], margin: float, higher_is_better: bool, shared: Shared
) -> Verdict:
    """In each pair the first arm beats the second; the intervals hold together with those of all of `family`."""
    comparison = statistics.contrasts(table, _checked(pairs, family), shared=shared)
    sign = 1.0 if higher_is_better else -1.0
    words, numbers = [], {}
    for ours, theirs in pairs:
        difference = comparison.differences[ours, theirs]
        word = beyond(_scaled(difference, sign), margin)
        more, clear, lost = _diverged(table, ours, theirs)
        if clear:
            word = DISAGREES if more > 0 else AGREES
        elif (word == AGREES and more > 0) or (word == DISAGREES and more < 0):
            word = CANNOT_TELL
        words.append(word)
        numbers[f"{ours} against {theirs}"] = _numbers(difference, sign) | {"margin": margin} | lost
    rule = (
        f"agrees if the whole simultaneous 95 % interval of every advantage lies above {margin:g}, disagrees if one lies below;"
        " an arm that diverges clearly more often (Fisher's exact p < 0.05) is worse by any margin, and one that only"
        " diverges more often is not found better by the runs it has left"
    )
    return Verdict(_all(words), rule, numbers)


def _checked(pairs: Sequence[Pair], family: Sequence[Pair]) -> Sequence[Pair]:
    """The family, once it is known to hold the pairs, and each arm against another."""
    if not pairs or any(ours == theirs for ours, theirs in pairs):
        raise UserError("a claim that compares an arm with itself, or with none; name two different arms")
    for arm in (arm for pair in pairs for arm in pair if pair not in family):
        raise UserError(f"a claim about the arm {arm!r}, which has no runs in the table; name another")
    return family


def _all(words: Sequence[str]) -> str:
    """All parts of a claim must agree; one that disagrees refutes it."""
    return DISAGREES if DISAGREES in words else CANNOT_TELL if CANNOT_TELL in words else AGREES


def _diverged(table: Table, ours: str, theirs: str) -> tuple[int, bool, dict[str, float | None]]:
    """By how many runs our arm diverges more often than theirs, whether that is clear (Fisher's exact p < 0.05), and the
    numbers."""
    counts = statistics.diverged({arm: table[arm] for arm in (ours, theirs)}, theirs)
    count, against, p = counts[ours].count, counts[theirs].count, counts[ours].p
    return count - against, (p or 1.0) < 0.05, {"diverged": count, "diverged_against": against, "p_diverged": p}


def _scaled(difference: Difference, sign: float) -> Interval | None:
    return difference.interval and Interval(*sorted(sign * bound for bound in difference.interval))


def _numbers(difference: Difference, sign: float) -> dict[str, float | None]:
    low, high = _scaled(difference, sign) or (None, None)
    value = None if difference.value is None else sign * difference.value
    return {"value": value, "error": difference.error, "low": low, "high": high, "p": difference.p}
