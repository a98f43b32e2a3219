"""How well attention agrees with a known alignment of words: pure functions of weights and of who translates whom.

Letters: T target tokens, S source tokens; V target words, W source words. The alignment of numbers in words is
`data/synthetic/number_alignment.py`.
"""

from collections.abc import Sequence

import numpy as np

Span = tuple[int, int]  # first character and the one after the last


def alignment_error_rate(weights_TxS: np.ndarray, gold_TxS: np.ndarray, possible_TxS: np.ndarray | None = None) -> float:
    """AER (Och and Ney 2003, eq. 21), 0 to 1, lower is better: 1 - (|A and S| + |A and P|) / (|A| + |S|).

    A links each target token to the source token with its largest weight, S are the links of `gold_TxS` (bool), P those
    and the ones of `possible_TxS`. A token without a possible link, such as the sentence's end, is left out: weights
    always point somewhere. Give words (`by_word`) where a word is several tokens, of which A can name only one.
    For several sentences stack their rows, the shorter padded with columns of 0. NaN without a link.
    """
    gold_TxS, possible_TxS, _ = _checked(weights_TxS, gold_TxS, possible_TxS)
    linked_T = possible_TxS.any(1)
    chosen_T = weights_TxS.argmax(1)
    rows_T = np.arange(len(chosen_T))
    sure, possible = (float((links[rows_T, chosen_T] & linked_T).sum()) for links in (gold_TxS, possible_TxS))
    links = float(linked_T.sum() + gold_TxS.sum())
    return 1.0 - (sure + possible) / links if links else float("nan")


def mass_on_gold(weights_TxS: np.ndarray, gold_TxS: np.ndarray) -> float:
    """Mean weight that a target token gives to its source tokens in `gold_TxS` (bool), 0 to 1.

    Tokens that have none are left out; NaN if none has any.
    """
    gold_TxS, _, linked_T = _checked(weights_TxS, gold_TxS, None)
    mass_T = np.where(gold_TxS, weights_TxS, 0.0).sum(1)
    return float(mass_T[linked_T].mean()) if linked_T.any() else float("nan")


def _checked(weights_TxS: np.ndarray, gold_TxS: np.ndarray, possible_TxS: np.ndarray | None) -> tuple[np.ndarray, ...]:
    gold_TxS = np.asarray(gold_TxS, bool)
    possible_TxS = gold_TxS if possible_TxS is None else gold_TxS | np.asarray(possible_TxS, bool)
    if not weights_TxS.shape == gold_TxS.shape == possible_TxS.shape or weights_TxS.ndim != 2:
        raise ValueError(f"weights {weights_TxS.shape}, gold {gold_TxS.shape}, possible {possible_TxS.shape}: shapes differ")
    return gold_TxS, possible_TxS, np.any(gold_TxS, axis=1)


def link_matrix(links: frozenset[tuple[int, int]], source: int, target: int) -> np.ndarray:
    """bool VxW from pairs (source word, target word) and the numbers of words."""
    result_VxW = np.zeros((target, source), bool)
    for s, t in links:
        result_VxW[t, s] = True
    return result_VxW


def by_word(
    weights_TxS: np.ndarray,
    target_tokens: Sequence[Span],
    source_tokens: Sequence[Span],
    target_words: Sequence[Span],
    source_words: Sequence[Span],
) -> np.ndarray:
    """Weights VxW of target words on source words, from those of tokens; all are places in the two texts.

    A source word gets what its tokens get, a token that reaches over several words parting its weight by characters; a target
    word's weights are the mean of its tokens', by characters too. What is on tokens outside every word is lost.
    """
    target_TxV, source_SxW = _overlap(target_tokens, target_words), _overlap(source_tokens, source_words)
    of_token_SxW = source_SxW / np.maximum(source_SxW.sum(1, keepdims=True), 1)
    of_word_TxV = target_TxV / np.maximum(target_TxV.sum(0, keepdims=True), 1)
    return of_word_TxV.T @ weights_TxS @ of_token_SxW


def _overlap(tokens: Sequence[Span], words: Sequence[Span]) -> np.ndarray:
    """How many characters each token shares with each word."""
    token_Nx2, word_Nx2 = (np.asarray(spans, int).reshape(-1, 2) for spans in (tokens, words))
    last = np.minimum(token_Nx2[:, None, 1], word_Nx2[None, :, 1])
    return np.maximum(last - np.maximum(token_Nx2[:, None, 0], word_Nx2[None, :, 0]), 0)
