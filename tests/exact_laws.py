"""Synthetic losses of a scaling law whose exponents are known, around the optimum of four budgets."""

import numpy as np

ALPHA, BETA = 0.45, 0.35
FLOOR, SIZE_SCALE, TOKEN_SCALE = 1.2, 40.0, 60.0
BUDGETS = np.repeat([3e11, 1e12, 3e12, 1e13], 7 * 2)
BEST = (ALPHA * SIZE_SCALE / (BETA * TOKEN_SCALE)) ** (1 / (ALPHA + BETA)) * (BUDGETS / 6) ** (BETA / (ALPHA + BETA))
SIZES = BEST * np.tile(np.repeat(np.geomspace(0.25, 4, 7), 2), 4)  # around the optimum of each budget; two seeds
TOKENS = BUDGETS / 6 / SIZES


def losses(noise=0.0, seed=0):
    exact = FLOOR + SIZE_SCALE / SIZES**ALPHA + TOKEN_SCALE / TOKENS**BETA
    return exact * np.exp(noise * np.random.default_rng(seed).normal(size=len(SIZES)))
