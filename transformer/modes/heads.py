"""What heads have come to do: look at neighbours, look where no other head looks, find the word that is translated.

Letters: L layers, B sentences, H heads, T target tokens, S source tokens; V target words, W source words.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer import families
from transformer.config import Config
from transformer.errors import UserError, say
from transformer.inference import alignment, habits

SENTENCES = 256
CROSS = "decoder/cross"
NEIGHBOURS = {"previous": -1, "same": 0, "next": 1}  # tokens, by how many places on they are


@dataclasses.dataclass(frozen=True)
class Words:
    """A sentence: its alignment, and the places of its tokens."""

    known: Any
    source_tokens: Sequence[tuple[int, int]]
    target_tokens: Sequence[tuple[int, int]]

    def matrix(self, links: frozenset[tuple[int, int]]) -> np.ndarray:
        return alignment.link_matrix(links, len(self.known.source), len(self.known.target))

    def by_word(self, weights_TxS: np.ndarray) -> np.ndarray:
        """Of what is said of the end nothing is known, nor of what is on the source's."""
        weights_TxS = weights_TxS[: len(self.target_tokens), : len(self.source_tokens)]
        return alignment.by_word(weights_TxS, self.target_tokens, self.source_tokens, self.known.target, self.known.source)


def check(config: Config) -> None:
    """UserError: `config.evaluate.head_habits` is asked of a model that has none."""
    if config.evaluate.head_habits and not names(config):
        raise UserError(
            "config.evaluate.head_habits: they are told of heads of a Transformer that says a text, not of config.family "
            f"{config.family} and config.objective.kind {config.objective.kind}; leave it off"
        )


def names(config: Config) -> list[str]:
    """What `of_split` tells of a model."""
    attention = families.FAMILIES[config.family].attention
    if not attention or families.kind_of(config).output != "text":
        return []
    own = [f"{name}_token_head" for name in NEIGHBOURS] + ["head_distance"]
    if CROSS not in attention or config.data.source != "number_words":
        return own
    from transformer.data.synthetic.number_alignment import (
        LANGUAGES,  # it reads numbers in all languages, which takes time at a start
    )

    aligned = {config.data.source_language, config.data.target_language} <= LANGUAGES.keys()
    return own + (["alignment_head_error_rate", "alignment_head_mass"] if aligned else [])


def of_split(predictor: Any, split: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How far heads have come to do one thing each, by the first pairs of a split, their targets given. Shares, 0 to 1.

    previous_token_head (same, next): the weight on the token before (itself, behind) of that head of the self-attention that
    reads the source which gives it most. head_distance: of these heads, as in inference/habits.py. Where the alignment of
    words is known: the lowest error rate of a head of cross-attention, and the greatest mass on the right word of one.
    """
    sentences = []
    if "alignment_head_mass" in names(predictor.config):
        pairs, sentences = numbers(predictor, split)
    else:
        pairs = [(example["source"], example["target"]) for example in examples[:SENTENCES]]
    fits = predictor.fits(pairs)
    if not all(fits):
        say(
            f"head statistics: {fits.count(False):,} of {len(pairs):,} pairs are longer than "
            "config.model.positions.size, and left out"
        )
        pairs, sentences = list(itertools.compress(pairs, fits)), list(itertools.compress(sentences, fits))
    if not pairs:
        return {}
    weights, lengths = predictor.weights(pairs)
    rows = near(predictor.config, weights, lengths)
    own = weights[families.FAMILIES[predictor.config.family].attention[0]]
    found = {f"{name}_token_head": max(row[name] for row in rows) for name in NEIGHBOURS}
    found["head_distance"] = habits.distance(own, lengths)
    if sentences:
        cross: dict[str, np.ndarray] = {}
        for layer, weights_BxHxTxS in enumerate(weights[CROSS], 1):
            cross |= by_head(layer, weights_BxHxTxS)
        rows = agreement(cross, sentences)
        found["alignment_head_error_rate"] = min(row["alignment_error_rate"] for row in rows)
        found["alignment_head_mass"] = max(row["mass"] for row in rows)
    return found


def numbers(predictor: Any, split: str) -> tuple[list[tuple[str, str]], list[Words]]:
    """The first numbers of a split, in words of both languages, and their alignment. UserError: not known of a language."""
    from transformer.data.synthetic import number_alignment, number_words

    data = predictor.config.data
    drawn = number_words.draw(data)[split][:SENTENCES]
    spell = [
        number_words.speller(getattr(data, f"{side}_language"), f"{side}_language", data.number_range[1])
        for side in ("source", "target")
    ]
    pairs = [(data.prefix + spell[0](n), spell[1](n)) for n in drawn]
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


def near(config: Config, weights: Mapping[str, np.ndarray], lengths_B: np.ndarray) -> list[dict[str, Any]]:
    """Of each head that reads the source, the weight on each token's neighbours; none of a recurrent model."""
    attention = families.FAMILIES[config.family].attention
    if not attention:
        return []
    found = {name: habits.near(weights[attention[0]], lengths_B, offset) for name, offset in NEIGHBOURS.items()}
    return [
        {"name": f"layer {layer + 1}, head {head + 1}"} | {name: float(of_LxH[layer, head]) for name, of_LxH in found.items()}
        for layer, head in np.ndindex(found["same"].shape)
    ]


def by_head(layer: int, weights_BxHxTxS: np.ndarray) -> dict[str, np.ndarray]:
    """Weights BxTxS by the name of a head."""
    of_heads = enumerate(np.moveaxis(weights_BxHxTxS, 1, 0), 1)
    return {f"layer {layer}, head {head}": weights_BxTxS for head, weights_BxTxS in of_heads}


def agreement(weights: Mapping[str, np.ndarray], sentences: Sequence[Words]) -> list[dict[str, Any]]:
    """How well weights BxTxS of tokens, by name, agree with the alignment of words."""
    gold, possible = (_stacked([s.matrix(getattr(s.known, links)) for s in sentences]) for links in ("links", "possible"))
    table = []
    for name, weights_BxTxS in weights.items():
        words = _stacked([s.by_word(w) for s, w in zip(sentences, weights_BxTxS, strict=True)])
        rate, mass = alignment.alignment_error_rate(words, gold, possible), alignment.mass_on_gold(words, gold)
        table.append({"name": name, "alignment_error_rate": rate, "mass": mass})
    return table


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, [(0, 0), (0, width - row.shape[1])]) for row in rows])
