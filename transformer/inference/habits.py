"""What heads of self-attention do: how much of their weight is on a token's neighbours, and how far heads are apart.

Letters: L layers, B texts, H heads, T queries, S keys, the same tokens (T = S); N heads of all layers.
"""

import itertools

import numpy as np


def near(weights_LxBxHxTxS: np.ndarray, lengths_B: np.ndarray, offset: int) -> np.ndarray:
    """Mean weight LxH that a token gives the one `offset` places on (-1: the one before it), over those that have one there.

    What stands behind a text's `lengths_B` tokens does not count. NaN where no text is so long.
    """
    on_LxBxHxT = np.diagonal(weights_LxBxHxTxS, offset, axis1=3, axis2=4)
    counted_BxT = np.arange(on_LxBxHxT.shape[3]) < np.asarray(lengths_B)[:, None] - abs(offset)
    count = counted_BxT.sum()
    if not count:
        return np.full((len(weights_LxBxHxTxS), weights_LxBxHxTxS.shape[2]), np.nan)
    return np.where(counted_BxT[:, None], on_LxBxHxT, 0.0).sum((1, 3)) / count


def distance(weights_LxBxHxTxS: np.ndarray, lengths_B: np.ndarray) -> float:
    """Mean Jensen-Shannon distance of two heads, of one layer or of two, over all pairs of heads and all tokens.

    sqrt(H((p + q) / 2) - (H(p) + H(q)) / 2), H in bits: 0 where two heads always look the same way, 1 where never at one
    token. (Clark et al. 2019, section 6, sum its square.) NaN if there is but one head.
    """
    inside_BxT = np.arange(weights_LxBxHxTxS.shape[3]) < np.asarray(lengths_B)[:, None]
    weights_LxHxKxS = np.moveaxis(weights_LxBxHxTxS, 2, 1)[:, :, inside_BxT]  # K: tokens of all texts
    weights_NxKxS = weights_LxHxKxS.reshape(-1, *weights_LxHxKxS.shape[2:])
    entropy_NxK = _entropy(weights_NxKxS)
    apart = []
    for p, q in itertools.combinations(range(len(weights_NxKxS)), 2):
        more_K = _entropy((weights_NxKxS[p] + weights_NxKxS[q]) / 2) - (entropy_NxK[p] + entropy_NxK[q]) / 2
        apart.append(np.sqrt(np.maximum(more_K, 0.0)).mean())  # a rounding error may be below 0
    return float(np.mean(apart)) if apart else float("nan")


def _entropy(weights: np.ndarray) -> np.ndarray:
    """Bits, of the last axis."""
    return -(weights * np.log2(np.where(weights > 0, weights, 1.0))).sum(-1)
