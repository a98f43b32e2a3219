"""Verdicts on published claims by a stated rule: the runs agree, disagree, or cannot tell.

A claim is one or more comparisons: contrasts of arms with the bounds that they are tested against. All comparisons of a
study's claims are one family, in which Holm's correction keeps the probability of any wrong "agrees" or "disagrees" at 5 %.
Arms that no claim names, and their variances, have no effect. An advantage is a better score: a lower loss or a higher BLEU.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from transformer.errors import UserError
from transformer.statistics import contrasts, power_law, scaling_laws
from transformer.statistics.contrasts import Contrast, Interval, Pair, Scale, Table, finite
from transformer.studies.study import LAWS, Claim, Study

AGREES, DISAGREES, CANNOT_TELL = "agrees", "disagrees", "cannot tell"
UNDECIDED = "not decided by this study"  # whatever the intervals are: a flag forbids a verdict
LEVEL = 0.95


class Quantity(Protocol):
    """An estimate: a contrast of means, or an exponent."""

    @property
    def value(self) -> Any: ...

    def low(self, alpha: float) -> Any: ...

    def high(self, alpha: float) -> Any: ...

    def p_above(self, bound: float) -> Any: ...

    def p_below(self, bound: float) -> Any: ...

    def interval(self, level: float = LEVEL) -> Interval | None: ...


@dataclass(frozen=True)
class Data:
    """A metric's values of all runs. `shared`: the part of a pair's standard error that comes from the test sentences
    (`bootstrap.shared_error`). `cells`: names that stand for the mean of several arms, one for each task. `name`: the
    metric. `rounding`: the values are multiples of this. `ranked`: the values are mean ranks over this many tasks; ranks that
    are the same in all of them, for all seeds, are then as certain as a sign test is."""

    table: Table
    higher_is_better: bool
    scale: Scale = "linear"
    blocked: bool = False
    shared: Mapping[Pair, float] = field(default_factory=dict)
    cells: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name: str = ""
    rounding: float = 0.0
    ranked: int = 0

    def spread(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The weights of the arms of the table."""
        result: dict[str, float] = {}
        for name, weight in weights.items():
            arms = self.cells.get(name, [name])
            for arm in arms:
                result[arm] = result.get(arm, 0.0) + weight / len(arms)
        return {arm: weight for arm, weight in result.items() if weight}

    def of_sentences(self, weights: Mapping[str, float]) -> float | None:
        """The standard error from the test sentences; None for other contrasts than those of a pair, or if it is not known."""
        pair = tuple(self.spread(weights))
        return self.shared.get((pair[0], pair[1]), self.shared.get((pair[1], pair[0]))) if len(pair) == 2 else None

    def contrast(self, weights: Mapping[str, float]) -> Contrast | None:
        """None if an arm has too few runs."""
        error, weights = self.of_sentences(weights) or 0.0, self.spread(weights)
        found = contrasts.contrast(self.table, weights, self.scale, self.blocked, error, self.rounding)
        if found is None or not self.ranked:
            return found
        return dataclasses.replace(found, least=0.5 ** (found.means[0].count * self.ranked))


@dataclass(frozen=True)
class Comparison:
    """A part of a claim. It agrees if the quantity is shown to be above all of `above` and below all of `below`, and
    disagrees if it is shown to be on the other side of one of them. `weights`: those of the contrast; the arm that the claim
    favours comes first."""

    weights: Mapping[str, float]
    above: tuple[float, ...] = ()
    below: tuple[float, ...] = ()
    law: tuple = ()  # further values that identify a fitted exponent

    @property
    def about_zero(self) -> bool:
        """Whether its p value is about a difference of 0, and not about a margin."""
        return set(self.above + self.below) == {0.0}

    @property
    def key(self) -> tuple:
        """The same for a contrast and its negative."""
        names = sorted(self.weights)
        return (self.law, *((name, self.weights[name] * self.sign) for name in names))

    @property
    def sign(self) -> float:
        """-1 if the family has the negative of the contrast."""
        return 1.0 if self.law else math.copysign(1.0, self.weights[min(self.weights)])


@dataclass(frozen=True)
class Finding:
    """A comparison and its result; values that the runs do not give are None. `interval`: simultaneous over the family and
    consistent with Holm's decisions. `alone`: the 95 % interval of this comparison by itself. `p`: for the claim or its
    opposite, with Holm's correction. `error`, `freedom`: standard error and degrees of freedom of a contrast. `diverged`: how
    many runs diverged of the arms on the side of the first one, and on the other side. `excluded`: p of the hypothesis that the
    published effect or exponent is the true one, with Holm's correction over all published effects of the study's claims.
    """

    comparison: Comparison
    word: str
    value: float | None
    interval: Interval | None = None
    alone: Interval | None = None
    p: float | None = None
    error: float | None = None
    freedom: float | None = None
    diverged: tuple[int, int] = (0, 0)
    law: power_law.PowerLaw | scaling_laws.Exponent | None = None
    excluded: float | None = None


@dataclass(frozen=True)
class Verdict:
    """`word`: agrees, disagrees or cannot tell. `tests`: the number of contrasts in the family. `effects`: the number of
    published effects. `problem`: why there are no numbers."""

    word: str
    findings: Sequence[Finding]
    tests: int
    problem: str = ""
    effects: int = 0


def comparisons(claim: Claim, against: Callable[[str], str], higher_is_better: bool) -> list[Comparison]:
    """The comparisons that a claim consists of. `against`: gives the comparison arm of an arm, if the claim names none."""
    sign, margin = (1.0 if higher_is_better else -1.0), claim.margin
    if claim.kind in LAWS:
        assert claim.exponent is not None  # a valid study's has one
        weights, law = dict.fromkeys(claim.arms, 1.0), (claim.kind, claim.sizes, claim.tokens, claim.budgets, claim.profiles)
        return [Comparison(weights, (claim.exponent - margin,), (claim.exponent + margin,), law=law)]
    if claim.kind in ("rises", "falls"):
        side, slopes = (1.0 if claim.kind == "rises" else -1.0), contrasts.slope(claim.sizes)
        return [Comparison(_sum(side, slopes, claim.arms, [-slope for slope in slopes], claim.beyond), (margin,))]
    if claim.kind == "order":
        pairs = contrasts.neighbours(claim.arms)
    else:
        pairs = [(arm, claim.against or against(arm)) for arm in claim.arms]
    if claim.kind == "equal":
        return [Comparison(_sum(1.0, (1, -1), pair, (-1, 1), claim.beyond), (-margin,), (margin,)) for pair in pairs]
    bound = -margin if claim.kind == "not worse" else margin
    if claim.kind == "worse":  # the arm that the claim favours comes first
        return [Comparison(_sum(sign, (1, -1), pair[::-1], (-1, 1), claim.beyond[::-1]), (bound,)) for pair in pairs]
    return [Comparison(_sum(sign, (1, -1), pair, (-1, 1), claim.beyond), (bound,)) for pair in pairs]


def _sum(
    sign: float, weights: Sequence[float], arms: Sequence[str], beyond_weights: Sequence[float], beyond: Sequence[str]
) -> dict[str, float]:
    """The contrast of arms with these weights plus that of the arms `beyond`; an arm may be in both."""
    result = {}
    for arm, weight in [*zip(arms, weights, strict=True), *zip(beyond, beyond_weights if beyond else (), strict=True)]:
        result[arm] = result.get(arm, 0.0) + sign * weight
    return {arm: weight for arm, weight in result.items() if weight}


def planned(study: Study) -> int:
    """The number of contrasts in the family of a study's claims."""
    return len({(study.label(c), *each.key) for c in study.claims for each in comparisons(c, study.against, True)})


@dataclass
class _Member:
    """A contrast of the family, with the sign of `Comparison.key` and the bounds of all claims about it. `plus`, `minus`: for
    the arms with positive and with negative weights, how many runs diverged, and how many there are."""

    quantity: Quantity | None
    value: float | None = None
    plus: tuple[int, int] = (0, 0)
    minus: tuple[int, int] = (0, 0)
    interaction: bool = False
    higher_is_better: bool = True
    problem: str = ""
    bounds: set[float] = field(default_factory=set)
    above: dict[float, float] = field(default_factory=dict)  # adjusted one-sided p by bound
    below: dict[float, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None

    def sides(self, above: bool) -> tuple[tuple[int, int], tuple[int, int]]:
        """`plus` and `minus`, first those of the arms that are better if the contrast is above a bound (or below it)."""
        return (self.plus, self.minus) if above == self.higher_is_better else (self.minus, self.plus)

    def void(self, above: bool) -> bool:
        """Whether the arms that would be better diverge more often. An interaction is unknown if any of its runs
        diverged."""
        if self.interaction:
            return self.plus[0] + self.minus[0] > 0
        ours, theirs = self.sides(above)
        return ours[0] * max(theirs[1], 1) > theirs[0] * max(ours[1], 1)

    def p(self, bound: float, above: bool) -> float:
        """One-sided p of the claim that the contrast is above (or below) a bound.

        An arm that diverges more often counts as worse by any bound. Fisher's exact test is a second way to show that (twice
        the smaller p is used), and the remaining runs of such an arm cannot show the opposite.
        """
        if self.void(above):
            return 1.0
        quantity = self.quantity
        p = 1.0 if quantity is None else float(quantity.p_above(bound) if above else quantity.p_below(bound))
        if self.interaction or not self.void(not above):
            return p
        ours, theirs = self.sides(above)
        return min(1.0, 2 * min(p, contrasts.diverges_more(theirs, ours)))


def judge(claims: Sequence[Claim], against: Callable[[str], str], data: Sequence[Data]) -> list[Verdict]:
    """A verdict for each claim, from the data of its metric. UserError: an arm is not in the table, or compared with itself."""
    members: dict[tuple, _Member] = {}
    asked: list[list[tuple[Comparison, tuple]]] = []
    for claim, of_metric in zip(claims, data, strict=True):
        found = comparisons(claim, against, of_metric.higher_is_better)
        if not found or any(len(each.weights) < 2 for each in found):
            raise UserError("a claim compares an arm with itself, or with no arm; name two different arms")
        asked.append([(each, (of_metric.name, *each.key)) for each in found])
        for comparison, key in asked[-1]:
            if key not in members:
                members[key] = _member(comparison, claim, of_metric)
            members[key].bounds |= {comparison.sign * bound for bound in (*comparison.above, *comparison.below)}
    _decide(list(members.values()))
    effects = {
        (claim.exponent if comparison.law else claim.effect, comparison.sign, key): None
        for claim, each in zip(claims, asked, strict=True)
        for comparison, key in each
    }
    ps = {which: p for which in effects if (p := _p_of_effect(members[which[2]], which[1], which[0])) is not None}
    adjusted = dict(zip(ps, contrasts.holm([[p] for p in ps.values()]), strict=True))
    result = []
    for claim, each in zip(claims, asked, strict=True):
        findings = []
        for comparison, key in each:
            p = adjusted.get((claim.exponent if comparison.law else claim.effect, comparison.sign, key))
            findings.append(dataclasses.replace(_finding(comparison, members[key]), excluded=p and p[0]))
        words = [finding.word for finding in findings]
        word = DISAGREES if DISAGREES in words else CANNOT_TELL if CANNOT_TELL in words else AGREES
        problem = next((members[key].problem for _, key in each if members[key].problem), "")
        result.append(Verdict(word, findings, len(members), problem, len(ps)))
    return result


def _p_of_effect(member: _Member, sign: float, effect: float | None) -> float | None:
    """Two-sided p; None if no effect was published, or if runs diverged, which the difference leaves out."""
    if effect is None or member.quantity is None or member.plus[0] + member.minus[0]:
        return None
    quantity, there = member.quantity, sign * effect
    return min(1.0, 2 * min(float(quantity.p_above(there)), float(quantity.p_below(there))))


def _member(comparison: Comparison, claim: Claim, data: Data) -> _Member:
    spread = data.spread(comparison.weights)
    for arm in spread:
        contrasts.check_arm(data.table, arm)
    if comparison.law:
        try:
            law = fitted(claim, data)
            return _Member(law, law.value)
        except UserError as error:
            return _Member(None, problem=str(error))
    signed = {arm: weight * comparison.sign for arm, weight in spread.items()}
    plus, minus = ([arm for arm, weight in signed.items() if weight * side > 0] for side in (1, -1))
    lost, kept = (contrasts.outcomes(data.table, arms) for arms in (plus, minus))
    value = contrasts.difference(data.table, signed, data.scale)
    names = {arm: weight * comparison.sign for arm, weight in comparison.weights.items()}
    return _Member(data.contrast(names), value, lost, kept, len(names) > 2, data.higher_is_better)


def fitted(claim: Claim, data: Data) -> power_law.PowerLaw | scaling_laws.Exponent:
    """The fit of a claim about an exponent, without runs that diverged. UserError: there are too few other runs."""
    columns = [each for each in (claim.sizes, claim.tokens, claim.budgets, claim.profiles) if each]
    runs = [(*values, score) for arm, *values in zip(claim.arms, *columns, strict=True) for score in finite(data.table[arm])]
    if claim.kind == "exponent":
        return power_law.fit(*np.array(runs).reshape(-1, 2).T)
    *known, losses_R = np.array(runs).reshape(-1, len(columns) + 1).T
    if claim.kind == "isoflop":
        sizes_R, tokens_R, budgets_R, *names_R = known
        return scaling_laws.optimal(sizes_R, tokens_R, budgets_R, losses_R, names_R[0] if names_R else None)
    sizes_R, tokens_R = known
    return scaling_laws.law_exponent(sizes_R, tokens_R, losses_R, of_size=claim.kind == "size exponent")


def _decide(members: Sequence[_Member]) -> None:
    """Computes adjusted one-sided p values and simultaneous limits: Holm's correction for each side, at half of 5 %."""
    alpha = (1 - LEVEL) / 2
    for above in (True, False):
        bounds = [sorted(member.bounds, reverse=not above) for member in members]
        adjusted = contrasts.holm(
            [[member.p(bound, above) for bound in chain] for member, chain in zip(members, bounds, strict=True)]
        )
        levels = contrasts.holm_levels(adjusted, alpha)
        for member, chain, ps, level in zip(members, bounds, adjusted, levels, strict=True):
            found = dict(zip(chain, ps, strict=True))
            passed = [bound for bound, p in found.items() if p <= alpha]
            limit = passed[-1] if passed else None
            if level is not None and member.quantity is not None and not member.void(above):
                own = float(member.quantity.low(level) if above else member.quantity.high(level))
                limit = own if limit is None else max(limit, own) if above else min(limit, own)
            if above:
                member.above, member.low = found, limit
            else:
                member.below, member.high = found, limit


def _finding(comparison: Comparison, member: _Member) -> Finding:
    alpha, negated = (1 - LEVEL) / 2, comparison.sign < 0
    above, below = (member.below, member.above) if negated else (member.above, member.below)
    ends = (member.high, member.low) if negated else (member.low, member.high)
    quantity, sign = member.quantity, comparison.sign
    agree = [above[sign * bound] for bound in comparison.above] + [below[sign * bound] for bound in comparison.below]
    disagree = [below[sign * bound] for bound in comparison.above] + [above[sign * bound] for bound in comparison.below]
    word = AGREES if max(agree) <= alpha else DISAGREES if min(disagree) <= alpha else CANNOT_TELL
    p = min(1.0, 2 * min(max(agree), min(disagree)))
    first = next(iter(comparison.weights.values())) * sign > 0
    lost = (member.plus[0], member.minus[0]) if first else (member.minus[0], member.plus[0])
    if quantity is None:
        value = None if member.value is None else sign * member.value
        return Finding(comparison, word, value, p=p if any(lost) else None, diverged=lost)
    alone = quantity.interval(LEVEL)
    if negated and alone is not None:
        alone = Interval(-alone.high, -alone.low)
    low, high = (None if end is None else sign * end for end in ends)
    interval = None if alone is None else Interval(-math.inf if low is None else low, math.inf if high is None else high)
    contrast = quantity if isinstance(quantity, Contrast) else None
    return Finding(
        comparison,
        word,
        sign * float(quantity.value),
        interval,
        alone,
        p if alone is not None else None,
        float(contrast.error) if contrast else None,
        float(contrast.freedom) if contrast else None,
        lost,
        quantity if isinstance(quantity, power_law.PowerLaw | scaling_laws.Exponent) else None,
    )
