"""Attention in NumPy with fp64: one query, one head and one key at a time. Steps that variants change are arguments.

Letters: B rows, T tokens, H heads, N key-value heads, K, V head widths, D d_model."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Weigh = Callable[[list[float], int], list[float]]  # the logits of the keys that a query sees, and the head


def softmax(logits: list[float], head: int = 0) -> list[float]:
    powers = [math.exp(each - max(logits)) for each in logits]
    return [each / sum(powers) for each in powers]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def project(p: dict[str, Any], name: str, x: Any) -> np.ndarray:
    """B x T x heads x width, with a bias if there is one."""
    return np.einsum("btd,dhk->bthk", x, p[f"{name}/kernel"]) + p.get(f"{name}/bias", 0)


def unit(x: Any, factor: Any, epsilon: float = 1e-6) -> np.ndarray:
    """RMSNorm."""
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + epsilon) * factor


def of_pairs(q: np.ndarray, k: np.ndarray, seen: np.ndarray, scale: float) -> list:
    """logits[b][h][t] = {key: logit} for the visible keys."""
    rows, length, heads, _ = q.shape
    group = heads // k.shape[2]
    return [
        [
            [{s: float(q[b, t, h] @ k[b, s, h // group]) * scale for s in np.flatnonzero(seen[b, t])} for t in range(length)]
            for h in range(heads)
        ]
        for b in range(rows)
    ]


def weights(logits: list, weigh: Weigh = softmax) -> np.ndarray:
    """BxHxTxT: 0 for keys that are not visible."""
    rows, heads, length = len(logits), len(logits[0]), len(logits[0][0])
    result = np.zeros((rows, heads, length, length))
    for b, h, t in np.ndindex(rows, heads, length):
        if found := logits[b][h][t]:
            result[b, h, t, list(found)] = weigh(list(found.values()), h)
    return result


def mix(w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Heads BxTxHxV."""
    rows, heads, length, _ = w.shape
    result = np.zeros((rows, length, heads, v.shape[-1]))
    for b, h, t, s in np.ndindex(*w.shape):
        result[b, t, h] += w[b, h, t, s] * v[b, s, h // (heads // v.shape[2])]
    return result


def output(p: dict[str, Any], heads: np.ndarray) -> np.ndarray:
    return np.einsum("bthv,hvd->btd", heads, p["output/kernel"]) + p.get("output/bias", 0)


def attention(p: dict[str, Any], x: np.ndarray, seen: np.ndarray, weigh: Weigh = softmax, change: Any = None) -> np.ndarray:
    """Multi-head attention; `change(logits of a query, b, h, t, q)` -> other logits."""
    q, k, v = (project(p, name, x) for name in ("query", "key", "value"))
    logits = of_pairs(q, k, seen, q.shape[-1] ** -0.5)
    if change is not None:
        scaled = q * q.shape[-1] ** -0.5
        for b, h, t in np.ndindex(len(logits), len(logits[0]), len(logits[0][0])):
            logits[b][h][t] = change(logits[b][h][t], b, h, t, scaled[b, t, h])
    return output(p, mix(weights(logits, weigh), v))
