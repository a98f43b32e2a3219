"""Corruptions of a text's token ids: functions of the tokens, plain numbers and a random generator.

The objectives supply the generator, and add the special tokens.
"""

import numpy as np

from transformer.data.corpus import concatenated_ranges

HIDDEN, KEPT = 0.8, 0.1  # fractions of the chosen tokens that are masked and that are kept; the rest become random (BERT)


def share_of(length: int, rate: float) -> int:
    """The fraction `rate` of `length` tokens, rounded, but at least 1 if there are any."""
    return min(max(round(length * rate), 1), length)


def choose_words(starts_N: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    """bool N: random whole words with at most `budget` tokens; `starts_N` is True for tokens that begin a word.

    Tokens before the first such token form a word, too. Words are taken in random order, and words that would exceed the budget
    are skipped (whole word masking in BERT's code). If no word fits, the first one is chosen nevertheless.
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
    """The tokens, where 80 % of the chosen ones are replaced by `mask`, 10 % by an id in [low, high), and 10 % are unchanged.

    Each token is drawn independently (Devlin et al. 2019, 3.1, task 1). A random id may by chance be the original one.
    """
    fate_N = generator.random(len(tokens_N))
    random_N = generator.integers(*random_ids, len(tokens_N))
    changed_N = np.where(fate_N < HIDDEN, mask, np.where(fate_N < HIDDEN + KEPT, tokens_N, random_N))
    return np.where(chosen_N, changed_N, tokens_N)


def span_counts(length: np.ndarray, rate: float, span_length: float) -> tuple[np.ndarray, np.ndarray]:
    """The number of hidden tokens of a text, round(n rate), and of spans, round(hidden / span_length).

    Both are at least 1, and a visible token remains before every span (Raffel et al. 2020, 3.1.4, and their code). A text of
    fewer than two tokens has no span.
    """
    hidden = np.clip(np.rint(length * rate), 1, np.maximum(length - 1, 1)).astype(np.int64)
    spans = np.clip(np.rint(hidden / span_length), 1, np.minimum(hidden, np.maximum(length - hidden, 1))).astype(np.int64)
    return np.where(length > 1, hidden, 0), np.where(length > 1, spans, 0)


def random_spans(length: int, rate: float, span_length: float, generator: np.random.Generator) -> np.ndarray:
    """bool: True for hidden tokens. Visible and hidden runs alternate, beginning with a visible one and ending with a hidden
    one.

    The lengths of the runs of each kind are a uniformly random partition of their sum; no run is empty.
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
    """The tokens, where each hidden run is replaced by one id: the first by `top`, the next by `top` - 1, and so on."""
    first_N = hidden_N & ~np.concatenate([[False], hidden_N[:-1]])
    return np.where(first_N, top + 1 - np.cumsum(first_N), tokens_N)[first_N | ~hidden_N]


def infill(
    tokens_N: np.ndarray, rate: float, span_length: float, mask: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Text infilling: replaces each span of Poisson(span_length) tokens by one `mask`. Also returns the lengths of the spans.

    Spans are drawn until they have `share_of(N, rate)` tokens, and the last one is cut. A span of length 0 inserts a mask
    between two tokens (Lewis et al. 2020, 2.2). Spans do not overlap, and all arrangements are equally likely. Spans of length
    0 that would make the text longer than the original are omitted.
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
    """The tokens with their sentences in random order; `ends_N` is True for tokens that end a sentence, several may in
    a row.
    """
    after = np.flatnonzero(ends_N[:-1] & ~ends_N[1:]) + 1
    bounds = np.concatenate([[0], after, [len(tokens_N)]])
    order = generator.permutation(len(bounds) - 1)
    return tokens_N[concatenated_ranges(bounds[:-1][order], np.diff(bounds)[order])]


def delete_tokens(tokens_N: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """The tokens without round(N rate) of them, chosen at random."""
    kept = len(tokens_N) - round(len(tokens_N) * rate)
    return tokens_N[np.sort(generator.choice(len(tokens_N), kept, replace=False))]
