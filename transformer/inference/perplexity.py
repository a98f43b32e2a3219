"""The exact likelihood of documents under a causal model that sees one window of tokens at a time. Independent of the model.

Letters: B windows of a batch, T tokens of a window, N tokens of a document.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from transformer.inference.scores import token_scores

Row = tuple[np.ndarray, np.ndarray, np.ndarray]
# (inputs, targets, weights, each BxT) -> nats BxT of each target given the inputs up to it; arbitrary where the weight is 0.
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], "np.typing.ArrayLike"]


def windows(ids: Sequence[int] | np.ndarray, start: int, window: int, stride: int, full_last: bool = False) -> Iterator[Row]:
    """Inputs, targets (int32) and weights (float32, 1: scored here) of each window of a document, T each.

    Targets are the document's N tokens; inputs are `start` and all tokens but the last. The first window scores all of its
    tokens. Each later window moves by `stride` (the last one by the remaining tokens) and scores the tokens by which it moved.
    It covers the last `window` tokens up to its end, so that each target sees at least window - stride + 1 inputs if the
    document has them (Press et al. 2021, section 2). With stride = window, windows do not overlap, and the last one may be
    short; with `full_last` it begins earlier instead, so that it is full. Each token is scored once. Short rows are padded on
    the right, with weight 0. ValueError if stride is not between 1 and `window`.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride}: must be between 1 and the window, {window}")
    tokens = np.concatenate([[start], np.asarray(ids, np.int32)]).astype(np.int32)
    scored, end = 0, min(window, len(ids))
    while scored < len(ids):
        begin = scored if stride == window and not full_last else max(end - window, 0)
        inputs, targets, weights = np.zeros(window, np.int32), np.zeros(window, np.int32), np.zeros(window, np.float32)
        inputs[: end - begin], targets[: end - begin] = tokens[begin:end], tokens[begin + 1 : end + 1]
        weights[scored - begin : end - begin] = 1
        yield inputs, targets, weights
        scored, end = end, min(end + stride, len(ids))


def token_nll(
    score: Score,
    documents: Iterable[Sequence[int] | np.ndarray],
    start: int,
    window: int,
    stride: int,
    batch_size: int,
    full_last: bool = False,
) -> Iterator[np.ndarray]:
    """For each document, in order, the nats of each of its tokens: float64 N.

    `score` always receives `batch_size` rows. Several documents share a batch, and the last batch is filled with empty rows.
    The other arguments are as in `windows`.
    """
    lengths: list[int] = []  # documents that are started and not yet returned
    scored: list[float] = []  # the nats of their tokens, in order

    def rows() -> Iterator[Row]:
        for ids in documents:
            lengths.append(len(ids))
            yield from windows(ids, start, window, stride, full_last)

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
    """Sums of the output of `token_nll`: "nll_sum" (nats; an exact sum, independent of order) and "weight_sum" (tokens)."""
    parts = [np.asarray(document) for document in nll]
    return {"nll_sum": math.fsum(itertools.chain(*parts)), "weight_sum": float(sum(map(len, parts)))}


def measures(sums: dict[str, float], characters: int | None = None, utf8_bytes: int | None = None) -> dict[str, float]:
    """Computes "nll" (nats per token), "perplexity", "bits_per_character" and "bits_per_byte" from `sums`.

    Bits are nll_sum / ln 2, divided by the characters or bytes of the whole text. A value whose count is 0 is absent.
    """
    result = token_scores(sums)
    for name, count in (("bits_per_character", characters), ("bits_per_byte", utf8_bytes)):
        if count:
            result[name] = sums["nll_sum"] / math.log(2) / count
    return result
