"""Loss against size and data: L(N, D) = E + A / N^alpha + B / D^beta, and the size with the lowest loss for a budget.

Two estimates of the exponent of the optimal size in the budget, side by side (Hoffmann et al. 2022): approach 2, a parabola of
the loss in log N for each budget and a line through the minima; approach 3, the law in two variables, which
gives beta / (alpha + beta). The law is fitted to logarithms with the Huber loss. Letters: R runs, C cells, B resamples, K
budgets.

Intervals are those of a parametric bootstrap. A resample has the losses of the fitted curves times normal noise, of the same
relative size in all runs: that of the residuals, multiplied by sqrt(f / chi2) with a new chi2 of their f degrees of freedom, as
in Student's t. So three sizes have an interval too, from the differences of seeds; without residual freedom there is none.
Simulated coverage of 95 % intervals is in the docstrings of `optimal` and `law_exponent`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from transformer.errors import UserError
from transformer.statistics.contrasts import Interval

DELTA = 1e-3  # of the Huber loss, in units of log loss (Hoffmann et al. 2022, appendix D.2)
STARTS = [(-0.5, -0.5, -0.5, size, token) for size in (0.2, 0.7) for token in (0.2, 0.7)]


@dataclass(frozen=True)
class Law:
    """L = `floor` + `size_scale` / N^`size_exponent` + `token_scale` / D^`token_exponent`."""

    floor: float
    size_scale: float
    size_exponent: float
    token_scale: float
    token_exponent: float

    def loss(self, sizes, tokens) -> np.ndarray:
        return self.floor + self.size_scale / sizes**self.size_exponent + self.token_scale / tokens**self.token_exponent

    @property
    def optimal_exponent(self) -> float:
        """The exponent of the optimal size as a function of the budget C, which is proportional to N D."""
        return self.token_exponent / (self.size_exponent + self.token_exponent)


def fit(sizes_R, tokens_R, losses_R, delta: float = DELTA) -> Law:
    """The best fit from several starts by least squares, from which the Huber loss is minimised. UserError: fewer than three
    sizes or token counts, or values that are not above 0."""
    sizes_R, tokens_R, losses_R = (np.asarray(each, dtype=np.float64) for each in (sizes_R, tokens_R, losses_R))
    if min(len(np.unique(sizes_R)), len(np.unique(tokens_R))) < 3 or min(sizes_R.min(), tokens_R.min(), losses_R.min()) <= 0:
        raise UserError("a law in size and data needs finished runs of three sizes and three numbers of tokens, all above 0")
    logs = np.log(sizes_R), np.log(tokens_R), np.log(losses_R)
    return _law(_minimise(*logs, delta), logs[0].mean(), logs[1].mean())


def _law(parameters: np.ndarray, size_center: float, token_center: float) -> Law:
    e, a, b, alpha, beta = parameters
    a, b = a + alpha * size_center, b + beta * token_center
    return Law(math.exp(e), math.exp(a), float(alpha), math.exp(b), float(beta))


def _minimise(size_R, token_R, loss_R, delta: float, start: np.ndarray | None = None) -> np.ndarray:
    """log E, log A, log B (of sizes and tokens in units of their geometric means), alpha, beta; of logarithms."""
    size_R, token_R = size_R - size_R.mean(), token_R - token_R.mean()

    def cost(parameters: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
        e, a, b, alpha, beta = parameters
        terms_3xR = np.exp(np.stack([np.full_like(size_R, e), a - alpha * size_R, b - beta * token_R]))
        sum_R = terms_3xR.sum(0)
        apart_R = np.log(sum_R) - loss_R
        slope_3xR = terms_3xR / sum_R * np.clip(apart_R, -delta, delta)
        gradient = [*slope_3xR.sum(1), -(slope_3xR[1] * size_R).sum(), -(slope_3xR[2] * token_R).sum()]
        unit = min(delta, 0.01) ** 2
        return float(special.huber(delta, apart_R).sum()) / unit, np.array(gradient) / unit

    def search(start, delta: float, most: int, precision: float = 1e-13):
        bounds, options = [(-30.0, 10.0)] * 3 + [(1e-3, 5.0)] * 2, {"maxiter": most, "ftol": precision, "gtol": 1e-9}
        return optimize.minimize(cost, start, (delta,), jac=True, method="L-BFGS-B", bounds=bounds, options=options)

    if start is not None:
        return search(start, delta, 200, 1e-9).x
    start = min((search(each, 1e3, 300) for each in STARTS), key=lambda each: each.fun).x
    return search(start, delta, 1000).x


@dataclass(frozen=True)
class Profiles:
    """A parabola of log loss in log N for each of K budgets, of B resamples. nan where there is no minimum.

    `log_best_BxK`: log N of the minimum. `log_budget_BxK`: log C there. `beyond_BxK`: whether the minimum is outside the range
    of sizes that were tried. `parabola_BxKx3`: coefficients of 1, x and x^2, for x = log N.
    """

    names_K: np.ndarray
    log_best_BxK: np.ndarray
    log_budget_BxK: np.ndarray
    beyond_BxK: np.ndarray
    parabola_BxKx3: np.ndarray

    @property
    def exponent_B(self) -> np.ndarray:
        """The exponent of the best size as a function of the budget, by least squares through the minima."""
        x_BxK = self.log_budget_BxK - self.log_budget_BxK.mean(1, keepdims=True)
        return (x_BxK * self.log_best_BxK).sum(1) / (x_BxK**2).sum(1)


def profiles(sizes_R, budgets_R, losses_BxR, names_R=None) -> Profiles:
    """`losses_BxR`: those of B resamples, or of one without that axis. `names_R`: which runs belong to the same parabola; None:
    those with the same budget. If the budgets of a parabola differ, because a convention counts them differently, that of the
    minimum is interpolated between the neighbouring sizes."""
    log_R, loss_BxR, log_budget_R = np.log(sizes_R), np.log(np.atleast_2d(losses_BxR)), np.log(budgets_R)
    names_R = np.asarray(budgets_R if names_R is None else names_R, dtype=np.float64)
    names_K, best, budget, beyond, parabolas = np.unique(names_R), [], [], [], []
    for name in names_K:
        mine_R = names_R == name
        center = log_R[mine_R].mean()
        x_R = log_R[mine_R] - center
        power_Rx3 = x_R[:, None] ** np.arange(3)
        constant_B, slope_B, curve_B = np.linalg.pinv(power_Rx3) @ loss_BxR[:, mine_R].T
        with np.errstate(divide="ignore", invalid="ignore"):
            at_B = np.where(curve_B > 0, -slope_B / (2 * curve_B), np.nan)
        order = np.argsort(x_R)
        best.append(at_B + center)
        budget.append(np.interp(at_B, x_R[order], log_budget_R[mine_R][order]))
        beyond.append((at_B < x_R.min()) | (at_B > x_R.max()))
        shifted = constant_B - slope_B * center + curve_B * center**2, slope_B - 2 * curve_B * center, curve_B
        parabolas.append(np.stack(shifted, axis=1))
    return Profiles(names_K, *(np.stack(each, axis=1) for each in (best, budget, beyond, parabolas)))


@dataclass(frozen=True)
class Exponent:
    """An exponent and its resamples. `law`: the fit in two variables. `misfit`: p of the test that the curve fits the losses,
    None without repeated runs."""

    value: float
    resampled_B: np.ndarray
    law: Law
    misfit: float | None

    def p_above(self, bound: float) -> float:
        """One-sided p of the hypothesis that the exponent is not above `bound`; resamples without a minimum increase p."""
        return float((1 + (~(self.resampled_B > bound)).sum()) / (1 + len(self.resampled_B)))

    def p_below(self, bound: float) -> float:
        return float((1 + (~(self.resampled_B < bound)).sum()) / (1 + len(self.resampled_B)))

    def low(self, alpha: float) -> float:
        return float(np.quantile(np.where(np.isnan(self.resampled_B), -np.inf, self.resampled_B), alpha, method="lower"))

    def high(self, alpha: float) -> float:
        return float(np.quantile(np.where(np.isnan(self.resampled_B), np.inf, self.resampled_B), 1 - alpha, method="higher"))

    def interval(self, level: float = 0.95) -> Interval:
        return Interval(self.low((1 - level) / 2), self.high((1 - level) / 2))


@dataclass(frozen=True)
class Optimal(Exponent):
    """The exponent of the optimal size by parabolas; `misfit` is about their fit. `beyond`: budgets whose minimum is outside
    the range of sizes that were tried. `law_interval`: the 95 % interval of the exponent by the law in two variables."""

    profiles: Profiles
    beyond: Sequence[float]
    law_interval: Interval


def optimal(
    sizes_R, tokens_R, budgets_R, losses_R, names_R=None, samples: int = 1000, law_samples: int = 200, seed: int = 0
) -> Optimal:
    """UserError: fewer than two budgets with three sizes each, no more runs than parameters, or a budget whose losses have no
    minimum.

    Coverage of the nominal 95 % interval in 1,000 simulations of a law, with noise of 1 % and sizes from a quarter of the
    best one to four times that. Three budgets with three seeds: 96 % with three sizes, 95 % with four, 94 % with five. One
    seed: 96 % with three budgets of five sizes, and 97 % with four of four, where most intervals have no bound.
    """
    arrays = [np.asarray(each, dtype=np.float64) for each in (sizes_R, tokens_R, budgets_R, losses_R)]
    sizes_R, tokens_R, budgets_R, losses_R = arrays
    names_R = budgets_R if names_R is None else np.asarray(names_R, dtype=np.float64)
    counts = [len(np.unique(sizes_R[names_R == name])) for name in np.unique(names_R)]
    if len(counts) < 2 or min(counts) < 3:
        raise UserError("the optimal size needs finished runs of two budgets, each with three sizes; add arms or seeds")
    law, found = fit(sizes_R, tokens_R, losses_R), profiles(sizes_R, budgets_R, losses_R, names_R)
    if np.isnan(found.log_best_BxK).any():
        raise UserError("the losses of a budget have no minimum over its sizes; add sizes on either side")
    place_R = np.searchsorted(found.names_K, names_R)
    curve_R = (found.parabola_BxKx3[0, place_R] * np.log(sizes_R)[:, None] ** np.arange(3)).sum(1)
    cells_R, parameters = cells(sizes_R, tokens_R, names_R), 3 * len(found.names_K)
    misfit, rng = lack_of_fit(np.log(losses_R), curve_R, cells_R, parameters), np.random.default_rng(seed)
    resampled = profiles(sizes_R, budgets_R, _resampled(losses_R, np.exp(curve_R), parameters, samples, rng), names_R)
    fits = _refitted(law, sizes_R, tokens_R, losses_R, law_samples, rng)
    low, high = np.quantile([each.optimal_exponent for each in fits], [0.025, 0.975])
    return Optimal(
        float(found.exponent_B[0]),
        resampled.exponent_B,
        law,
        misfit,
        found,
        np.exp(found.log_budget_BxK[0][found.beyond_BxK[0]]).tolist(),
        Interval(float(low), float(high)),
    )


def law_exponent(sizes_R, tokens_R, losses_R, of_size: bool, samples: int = 200, seed: int = 0) -> Exponent:
    """The exponent of the size or of the tokens in L(N, D). UserError: see `fit`, or there are no more runs than parameters.

    Coverage of the nominal 95 % intervals of both exponents in simulations with noise of 1 % and three seeds: 97 and 94 % with
    nine cells (100 simulations), 97 and 96 % with six (80).
    """
    sizes_R, tokens_R, losses_R = (np.asarray(each, dtype=np.float64) for each in (sizes_R, tokens_R, losses_R))
    law, cells_R = fit(sizes_R, tokens_R, losses_R), cells(sizes_R, tokens_R)
    fits = [law, *_refitted(law, sizes_R, tokens_R, losses_R, samples, np.random.default_rng(seed))]
    value, *resampled = (each.size_exponent if of_size else each.token_exponent for each in fits)
    least_squares = fit(sizes_R, tokens_R, losses_R, delta=1e3)
    misfit = lack_of_fit(np.log(losses_R), np.log(least_squares.loss(sizes_R, tokens_R)), cells_R, 5)
    return Exponent(value, np.array(resampled), law, misfit)


def _resampled(losses_R, fitted_R, parameters: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Losses (B, R) of the fitted curves with new noise."""
    if (freedom := len(losses_R) - parameters) < 1:
        raise UserError(
            f"an exponent needs more finished runs than the {parameters} parameters of its curves, for an interval; add seeds"
        )
    spread_Bx1 = np.sqrt((np.log(losses_R / fitted_R) ** 2).sum() / rng.chisquare(freedom, (samples, 1)))
    with np.errstate(over="ignore"):
        return fitted_R * np.exp(spread_Bx1 * rng.normal(size=(samples, len(losses_R))))


def _refitted(law: Law, sizes_R, tokens_R, losses_R, samples: int, rng: np.random.Generator) -> list[Law]:
    """The law of each resample, starting from the fit of all runs."""
    sizes, tokens = np.log(sizes_R), np.log(tokens_R)
    start = _minimise(sizes, tokens, np.log(losses_R), DELTA)
    losses_BxR = _resampled(losses_R, law.loss(sizes_R, tokens_R), len(start), samples, rng)
    found = [_minimise(sizes, tokens, loss_R, DELTA, start) for loss_R in np.log(losses_BxR)]
    return [_law(each, sizes.mean(), tokens.mean()) for each in found]


def cells(*values_R) -> np.ndarray:
    """A number for each run, equal for runs with equal values."""
    return np.unique(np.stack(values_R, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def lack_of_fit(values_R: np.ndarray, predicted_R: np.ndarray, cells_R: np.ndarray, parameters: int) -> float | None:
    """p of the F test for lack of fit of a curve to the means of cells, by the variance within cells (Draper & Smith 1998,
    2.1). None if no repeated runs vary, or if there are no more cells than parameters."""
    count_C = np.bincount(cells_R)
    means_C, curve_C = (np.bincount(cells_R, values) / count_C for values in (values_R, predicted_R))
    pure, between = float(((values_R - means_C[cells_R]) ** 2).sum()), float((count_C * (means_C - curve_C) ** 2).sum())
    freedom, within = len(count_C) - parameters, len(values_R) - len(count_C)
    if min(freedom, within) < 1 or pure <= len(values_R) * 1e-20:
        return None
    return float(stats.f.sf(between / freedom / (pure / within), freedom, within))
