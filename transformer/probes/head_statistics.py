"""Head statistics: weight on neighbouring tokens, distance between heads, agreement with a known alignment of words.

Letters: L layers, B sentences, H heads, T target tokens, S source tokens; V target words, W source words.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer import families
from transformer.config import Config
from transformer.errors import UserError, say
from transformer.probes import alignment

CROSS = "decoder/cross"
NEIGHBOURS = {"previous": -1, "same": 0, "next": 1}  # tokens, by how many places on they are


def check(config: Config) -> None:
    """UserError: `config.evaluate.head_statistics` is set for a model that has no such heads."""
    if config.evaluate.head_statistics and not names(config):
        raise UserError(
            "config.evaluate.head_statistics: needs a Transformer whose output is a text, not config.family "
            f"{config.family} and config.objective.kind {config.objective.kind}; leave it off"
        )


def names(config: Config) -> list[str]:
    """The names of the statistics that `of_split` computes for a model."""
    attention = families.FAMILIES[config.family].attention
    if not attention or families.task_of(config).output != "text":
        return []
    own = [f"{name}_token_head" for name in NEIGHBOURS] + ["head_distance"]
    if CROSS not in attention or config.data.source != "number_words":
        return own
    from transformer.data.synthetic.number_alignment import LANGUAGES  # reads numbers in all languages: slow

    aligned = {config.data.source_language, config.data.target_language} <= LANGUAGES.keys()
    return own + (["alignment_head_error_rate", "alignment_head_mass"] if aligned else [])


def of_split(predictor: Any, split: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Statistics of the heads on the first pairs of a split, with their targets given; fractions, 0 to 1.

    previous_token_head (same, next): the weight on the token before (itself, behind) of that head of the self-attention that
    reads the source which gives it most. head_distance: of these heads, as in `head_distance`. Where the alignment of
    words is known: the lowest error rate of a head of cross-attention, and the greatest mass on the right word of one.
    """
    sentences: list[alignment.Words] = []
    if "alignment_head_mass" in names(predictor.config):
        pairs, sentences = alignment.numbers(predictor, split)
    else:
        pairs = [(example["source"], example["target"]) for example in examples[: alignment.SENTENCES]]
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
    rows = by_neighbour(predictor.config, weights, lengths)
    own = weights[families.FAMILIES[predictor.config.family].attention[0]]
    found = {f"{name}_token_head": max(row[name] for row in rows) for name in NEIGHBOURS}
    found["head_distance"] = head_distance(own, lengths)
    if sentences:
        cross: dict[str, np.ndarray] = {}
        for layer, weights_BxHxTxS in enumerate(weights[CROSS], 1):
            cross |= alignment.by_head(layer, weights_BxHxTxS)
        rows = alignment.agreement(cross, sentences)
        found["alignment_head_error_rate"] = min(row["alignment_error_rate"] for row in rows)
        found["alignment_head_mass"] = max(row["mass"] for row in rows)
    return found


def by_neighbour(config: Config, weights: Mapping[str, np.ndarray], lengths_B: np.ndarray) -> list[dict[str, Any]]:
    """For each head that reads the source the weight on the neighbours of each token; empty for a recurrent model."""
    attention = families.FAMILIES[config.family].attention
    if not attention:
        return []
    found = {name: weight_at_offset(weights[attention[0]], lengths_B, offset) for name, offset in NEIGHBOURS.items()}
    return [
        {"name": f"layer {layer + 1}, head {head + 1}"} | {name: float(of_LxH[layer, head]) for name, of_LxH in found.items()}
        for layer, head in np.ndindex(found["same"].shape)
    ]


def weight_at_offset(weights_LxBxHxTxS: np.ndarray, lengths_B: np.ndarray, offset: int) -> np.ndarray:
    """Mean weight LxH that a token gives the one `offset` places on (-1: the one before it), over those that have one there.

    What stands behind a text's `lengths_B` tokens does not count. NaN where no text is so long.
    """
    on_LxBxHxT = np.diagonal(weights_LxBxHxTxS, offset, axis1=3, axis2=4)
    counted_BxT = np.arange(on_LxBxHxT.shape[3]) < np.asarray(lengths_B)[:, None] - abs(offset)
    count = counted_BxT.sum()
    if not count:
        return np.full((len(weights_LxBxHxTxS), weights_LxBxHxTxS.shape[2]), np.nan)
    return np.where(counted_BxT[:, None], on_LxBxHxT, 0.0).sum((1, 3)) / count


def head_distance(weights_LxBxHxTxS: np.ndarray, lengths_B: np.ndarray) -> float:
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
