"""Exact likelihood of documents under a causal model that sees a window of tokens at a time. No model is known here.

Letters: B windows of a batch, T tokens of a window, N tokens of a document.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from transformer.inference.scores import token_scores

Row = tuple[np.ndarray, np.ndarray, np.ndarray]
# (inputs, targets, weights, each BxT) -> nats BxT of each target, given the inputs up to it; where the weight is 0 anything.
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], "np.typing.ArrayLike"]


def windows(ids: Sequence[int] | np.ndarray, start: int, window: int, stride: int) -> Iterator[Row]:
    """Inputs, targets (int32) and weights (float32, 1: scored here) of each window of a document, T each.

    Targets are the document's N tokens; inputs are `start` and all but the last. The first window scores all of its tokens,
    each later one moves on by `stride`, the last one by what is left, and scores what it moved by; it covers the last
    `window` tokens up to its end, so that a target sees at least window - stride + 1 inputs where there are as many
    (Press et al. 2021, section 2). At stride = window no two windows overlap, and the last one is short. Each token is
    scored once. Short rows are padded on the right, with weight 0. ValueError: a stride outside 1 to `window`.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride}: must be between 1 and the window, {window}")
    tokens = np.concatenate([[start], np.asarray(ids, np.int32)]).astype(np.int32)
    scored, end = 0, min(window, len(ids))
    while scored < len(ids):
        begin = scored if stride == window else max(end - window, 0)
        inputs, targets, weights = np.zeros(window, np.int32), np.zeros(window, np.int32), np.zeros(window, np.float32)
        inputs[: end - begin], targets[: end - begin] = tokens[begin:end], tokens[begin + 1 : end + 1]
        weights[scored - begin : end - begin] = 1
        yield inputs, targets, weights
        scored, end = end, min(end + stride, len(ids))


def token_nll(
    score: Score, documents: Iterable[Sequence[int] | np.ndarray], start: int, window: int, stride: int, batch_size: int
) -> Iterator[np.ndarray]:
    """For each document, in order, the nats of each of its tokens: float64 N.

    `score` always gets `batch_size` rows; those of several documents share a batch, and what is left of the last is empty.
    """
    lengths: list[int] = []  # of documents that are started and not yet returned
    scored: list[float] = []  # of their tokens, in order

    def rows() -> Iterator[Row]:
        for ids in documents:
            lengths.append(len(ids))
            yield from windows(ids, start, window, stride)

    def whole() -> Iterator[np.ndarray]:
        while lengths and lengths[0] <= len(scored):
            length = lengths.pop(0)
            yield np.array(scored[:length], np.float64)
            del scored[:length]

    remaining = rows()
    while batch := list(itertools.islice(remaining, batch_size)):
        blank = tuple(np.zeros_like(part) for part in batch[0])
        inputs, targets, weights = (np.stack(parts) for parts in zip(*batch, *[blank] * (batch_size - len(batch)), strict=True))
        scored += np.asarray(score(inputs, targets, weights), np.float64)[weights > 0].tolist()
        yield from whole()
    yield from whole()


def sums(nll: Iterable[np.ndarray]) -> dict[str, float]:
    """What `token_nll` gives as "nll_sum" (nats; rounded once, so the order does not matter) and "weight_sum" (tokens)."""
    parts = [np.asarray(document) for document in nll]
    return {"nll_sum": math.fsum(itertools.chain(*parts)), "weight_sum": float(sum(map(len, parts)))}


def measures(sums: dict[str, float], characters: int | None = None, utf8_bytes: int | None = None) -> dict[str, float]:
    """From `sums` "nll" (nats per token), "perplexity", and "bits_per_character" and "bits_per_byte" of text of that size.

    Bits are of the whole text: nll_sum / ln 2 / its characters or bytes, whatever the tokens. What has no count is absent.
    """
    result = token_scores(sums)
    for name, count in (("bits_per_character", characters), ("bits_per_byte", utf8_bytes)):
        if count:
            result[name] = sums["nll_sum"] / math.log(2) / count
    return result
