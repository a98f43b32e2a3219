"""Agreement of attention with a known alignment of words.

Letters: T target tokens, S source tokens; V target words, W source words. The alignment of number words is in
`data/synthetic/number_alignment.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer.errors import say

SENTENCES = 256  # the largest number of sentences that is evaluated
Span = tuple[int, int]  # index of the first character, and of the character after the last


def alignment_error_rate(weights_TxS: np.ndarray, gold_TxS: np.ndarray, possible_TxS: np.ndarray | None = None) -> float:
    """AER (Och and Ney 2003, eq. 21), 0 to 1, lower is better: 1 - (|A and S| + |A and P|) / (|A| + |S|).

    A links each target token to the source token with the largest weight. S are the links of `gold_TxS` (bool), and P are these
    and the links of `possible_TxS`. Tokens without a possible link, such as the end of a sentence, are ignored, because weights
    always have a maximum. If words consist of several tokens, pass weights of words (`by_word`), because A has only one link
    per row. For several sentences, stack their rows and pad the shorter ones with columns of 0. NaN if there is no link.
    """
    gold_TxS, possible_TxS, _ = _checked(weights_TxS, gold_TxS, possible_TxS)
    linked_T = possible_TxS.any(1)
    chosen_T = weights_TxS.argmax(1)
    rows_T = np.arange(len(chosen_T))
    sure, possible = (float((links[rows_T, chosen_T] & linked_T).sum()) for links in (gold_TxS, possible_TxS))
    links = float(linked_T.sum() + gold_TxS.sum())
    return 1.0 - (sure + possible) / links if links else float("nan")


def mass_on_gold(weights_TxS: np.ndarray, gold_TxS: np.ndarray) -> float:
    """The mean weight that target tokens give to their source tokens in `gold_TxS` (bool), 0 to 1.

    Tokens without a source token are ignored. NaN if no token has one.
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
    """A bool matrix VxW from pairs (source word, target word) and the numbers of words."""
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
    """Weights VxW of target words on source words, computed from those of tokens. Words and tokens are given as spans of text.

    The weight of a source word is the sum over its tokens. A token that covers several words divides its weight among them in
    proportion to characters. The weights of a target word are the mean over its tokens, also weighted by characters. The weight
    on tokens outside of all words is lost.
    """
    target_TxV, source_SxW = _overlap(target_tokens, target_words), _overlap(source_tokens, source_words)
    of_token_SxW = source_SxW / np.maximum(source_SxW.sum(1, keepdims=True), 1)
    of_word_TxV = target_TxV / np.maximum(target_TxV.sum(0, keepdims=True), 1)
    return of_word_TxV.T @ weights_TxS @ of_token_SxW


def _overlap(tokens: Sequence[Span], words: Sequence[Span]) -> np.ndarray:
    """The number of characters that each token shares with each word."""
    token_Nx2, word_Nx2 = (np.asarray(spans, int).reshape(-1, 2) for spans in (tokens, words))
    last = np.minimum(token_Nx2[:, None, 1], word_Nx2[None, :, 1])
    return np.maximum(last - np.maximum(token_Nx2[:, None, 0], word_Nx2[None, :, 0]), 0)


@dataclasses.dataclass(frozen=True)
class Words:
    """A sentence with its alignment and the spans of its tokens."""

    known: Any
    source_tokens: Sequence[tuple[int, int]]
    target_tokens: Sequence[tuple[int, int]]

    def matrix(self, links: frozenset[tuple[int, int]]) -> np.ndarray:
        return link_matrix(links, len(self.known.source), len(self.known.target))

    def by_word(self, weights_TxS: np.ndarray) -> np.ndarray:
        """Weights VxW of words, without the end tokens of target and source."""
        weights_TxS = weights_TxS[: len(self.target_tokens), : len(self.source_tokens)]
        return by_word(weights_TxS, self.target_tokens, self.source_tokens, self.known.target, self.known.source)


def numbers(predictor: Any, split: str) -> tuple[list[tuple[str, str]], list[Words]]:
    """The first numbers of a split as words in both languages, and their alignments. UserError if a language is not
    supported.
    """
    from transformer.data.synthetic import number_alignment, number_words

    data = predictor.config.data
    drawn = number_words.draw(data)[split][:SENTENCES]
    spell = [
        number_words.speller(getattr(data, f"{side}_language"), f"{side}_language", data.number_range[1])
        for side in ("source", "target")
    ]
    numbered = [(n, (data.prefix + spell[0](n), spell[1](n))) for n in drawn]
    # A source that is cut has no alignment.
    whole = [each for each in numbered if len(predictor.source_vocabulary.spans(each[1][0])) < data.max_source_length]
    if len(whole) < len(numbered):
        say(
            f"alignment: {len(numbered) - len(whole):,} of {len(numbered):,} sources are longer than "
            f"config.data.max_source_length {data.max_source_length}, and are ignored"
        )
    drawn, pairs = [n for n, _ in whole], [pair for _, pair in whole]
    sentences = [
        Words(
            _shifted(number_alignment.align(number, data.source_language, data.target_language), len(data.prefix)),
            predictor.source_vocabulary.spans(source),
            predictor.target_vocabulary.spans(target),
        )
        for number, (source, target) in zip(drawn, pairs, strict=True)
    ]
    return pairs, sentences


def _shifted(known: Any, by: int) -> Any:
    return dataclasses.replace(known, source=tuple((first + by, last + by) for first, last in known.source))


def by_head(layer: int, weights_BxHxTxS: np.ndarray) -> dict[str, np.ndarray]:
    """The weights BxTxS of each head, by the name of the head."""
    of_heads = enumerate(np.moveaxis(weights_BxHxTxS, 1, 0), 1)
    return {f"layer {layer}, head {head}": weights_BxTxS for head, weights_BxTxS in of_heads}


def agreement(weights: Mapping[str, np.ndarray], sentences: Sequence[Words]) -> list[dict[str, Any]]:
    """The agreement of token weights BxTxS, by name, with the alignment of words."""
    gold, possible = (_stacked([s.matrix(getattr(s.known, links)) for s in sentences]) for links in ("links", "possible"))
    table = []
    for name, weights_BxTxS in weights.items():
        words = _stacked([s.by_word(w) for s, w in zip(sentences, weights_BxTxS, strict=True)])
        rate, mass = alignment_error_rate(words, gold, possible), mass_on_gold(words, gold)
        table.append({"name": name, "alignment_error_rate": rate, "mass": mass})
    return table


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, [(0, 0), (0, width - row.shape[1])]) for row in rows])
