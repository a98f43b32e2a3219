"""Corruptions of a text's token ids: functions of the tokens, plain numbers and a generator of random numbers.

Where the generator comes from, and what stands around the text, is `objectives/`.
"""

import numpy as np

from transformer.data.corpus import spread

HIDDEN, KEPT = 0.8, 0.1  # of the tokens chosen: replaced by the mask, left as they are; the rest become random (BERT)


def share_of(length: int, rate: float) -> int:
    """How many of `length` tokens a rate is: the nearest number, 1 at least if there are any."""
    return min(max(round(length * rate), 1), length)


def choose_words(starts_N: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    """bool N: at most `budget` tokens chosen at random, in whole words; `starts_N`: the tokens that begin one.

    Tokens before the first that begins a word are one too. Words are taken in random order, those that would exceed the
    budget being passed over (whole word masking of BERT's code). If none fits, the first drawn is chosen all the same.
    """
    word_N = np.cumsum(starts_N) - starts_N[:1]
    sizes = np.bincount(word_N)
    order = generator.permutation(len(sizes))
    taken, left = [], budget
    for word, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if left == 0:
            break
        if size <= left:
            taken.append(word)
            left -= size
    chosen = np.zeros(len(sizes), bool)
    chosen[taken or order[:1]] = True
    return chosen[word_N]


def mask_tokens(
    tokens_N: np.ndarray, chosen_N: np.ndarray, mask: int, random_ids: tuple[int, int], generator: np.random.Generator
) -> np.ndarray:
    """The tokens, of those chosen 80 % replaced by `mask`, 10 % by an id in [low, high), 10 % as they were.

    Each is drawn by itself (Devlin et al. 2019, 3.1, task 1). A random id may happen to be the right one.
    """
    fate_N = generator.random(len(tokens_N))
    random_N = generator.integers(*random_ids, len(tokens_N))
    changed_N = np.where(fate_N < HIDDEN, mask, np.where(fate_N < HIDDEN + KEPT, tokens_N, random_N))
    return np.where(chosen_N, changed_N, tokens_N)


def span_counts(length: np.ndarray, rate: float, span_length: float) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of texts are hidden, and in how many spans: round(n rate), and round of that / span_length.

    1 at least, and a token is left before every span (Raffel et al. 2020, 3.1.4, and their code). A text of fewer than two
    tokens has none.
    """
    hidden = np.clip(np.rint(length * rate), 1, np.maximum(length - 1, 1)).astype(np.int64)
    spans = np.clip(np.rint(hidden / span_length), 1, np.minimum(hidden, np.maximum(length - hidden, 1))).astype(np.int64)
    return np.where(length > 1, hidden, 0), np.where(length > 1, spans, 0)


def random_spans(length: int, rate: float, span_length: float, generator: np.random.Generator) -> np.ndarray:
    """bool: the tokens that are hidden. Kept and hidden runs alternate, a kept one first, a hidden one last.

    The lengths of either kind are a random partition of their sum, all partitions alike likely; no run is empty.
    """
    hidden, spans = (int(n) for n in span_counts(np.asarray(length), rate, span_length))
    if spans == 0:
        return np.zeros(length, bool)
    runs = np.stack([_partition(length - hidden, spans, generator), _partition(hidden, spans, generator)], axis=1)
    return np.repeat(np.tile([False, True], spans), runs.ravel())


def _partition(total: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    cuts = np.sort(generator.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def to_sentinels(tokens_N: np.ndarray, hidden_N: np.ndarray, top: int) -> np.ndarray:
    """The tokens with each hidden run replaced by one id: the first by `top`, the next by `top` - 1, and so on."""
    first_N = hidden_N & ~np.concatenate([[False], hidden_N[:-1]])
    return np.where(first_N, top + 1 - np.cumsum(first_N), tokens_N)[first_N | ~hidden_N]


def infill(
    tokens_N: np.ndarray, rate: float, span_length: float, mask: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Text infilling: spans of Poisson(span_length) tokens, each replaced by one `mask`; and the spans' lengths, in order.

    Spans are drawn until they hold `share_of(N, rate)` tokens, the last one cut to it; one of length 0 is a mask put
    between two tokens (Lewis et al. 2020, 2.2). No span overlaps another; every arrangement is alike likely. Spans of
    length 0 that would make the text longer than it was are left out.
    """
    budget = share_of(len(tokens_N), rate)
    if budget == 0:
        return tokens_N, np.zeros(0, np.int64)
    lengths = np.zeros(0, np.int64)
    while lengths.sum() < budget:
        lengths = np.concatenate([lengths, generator.poisson(span_length, budget)])
    total = np.cumsum(lengths)
    last = int(np.searchsorted(total, budget))
    lengths = lengths[: last + 1]
    lengths[last] -= total[last] - budget
    surplus = np.flatnonzero(lengths == 0)[: max(len(lengths) - budget, 0)]
    lengths = generator.permutation(np.delete(lengths, surplus))
    items = len(tokens_N) - budget + len(lengths)
    is_mask = np.zeros(items, bool)
    is_mask[generator.choice(items, len(lengths), replace=False)] = True
    covered = np.ones(items, np.int64)
    covered[is_mask] = lengths
    corrupted = np.full(items, mask, tokens_N.dtype)
    corrupted[~is_mask] = tokens_N[(np.cumsum(covered) - covered)[~is_mask]]
    return corrupted, lengths


def permute_sentences(tokens_N: np.ndarray, ends_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The tokens with their sentences in random order; `ends_N`: tokens that end one. A run of them ends one sentence."""
    after = np.flatnonzero(ends_N[:-1] & ~ends_N[1:]) + 1
    bounds = np.concatenate([[0], after, [len(tokens_N)]])
    order = generator.permutation(len(bounds) - 1)
    return tokens_N[spread(bounds[:-1][order], np.diff(bounds)[order])]


def delete_tokens(tokens_N: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """The tokens without round(N rate) of them, chosen at random."""
    kept = len(tokens_N) - round(len(tokens_N) * rate)
    return tokens_N[np.sort(generator.choice(len(tokens_N), kept, replace=False))]
