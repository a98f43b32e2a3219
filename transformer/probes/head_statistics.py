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
NEIGHBOURS = {"previous": -1, "same": 0, "next": 1}  # names of neighbours, and their offsets


def check(config: Config) -> None:
    """UserError if `config.evaluate.head_statistics` is set for a model without suitable heads."""
    if config.evaluate.head_statistics and not names(config):
        raise UserError(
            "config.evaluate.head_statistics: needs a Transformer that outputs text, not config.family "
            f"{config.family} and config.objective.kind {config.objective.kind}; leave it off"
        )


def names(config: Config) -> list[str]:
    """The names of the statistics that `of_split` computes for a model."""
    attention = families.FAMILIES[config.family].attention
    if not attention or families.task_of(config).output != "text":
        return []
    own = [f"{name}_token_head" for name in NEIGHBOURS]
    if all(each.attention.is_softmax for each in config.model.layers_of_period(attention[0].split("/")[0])):
        own.append("head_distance")  # a distance of distributions
    if CROSS not in attention or config.data.source != "number_words":
        return own
    from transformer.data.synthetic.number_alignment import LANGUAGES  # imported here, because it is slow

    aligned = {config.data.source_language, config.data.target_language} <= LANGUAGES.keys()
    return own + (["alignment_head_error_rate", "alignment_head_mass"] if aligned else [])


def of_split(predictor: Any, split: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Statistics of the heads on the first pairs of a split with teacher forcing; fractions, 0 to 1.

    previous_token_head (same, next): the mean weight on the previous token (the token itself, the next one), of the head with
    the largest such weight in the self-attention that reads the source. head_distance: the `head_distance` of these heads, if
    their weights are a softmax. If the alignment of words is known: the lowest error rate and the largest mass on the correct
    word over the heads of cross-attention.
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
            "config.model.positions.size, and are ignored"
        )
        pairs, sentences = list(itertools.compress(pairs, fits)), list(itertools.compress(sentences, fits))
    if not pairs:
        return {}
    weights, lengths = predictor.weights(pairs)
    rows = by_neighbour(predictor.config, weights, lengths)
    own = weights[families.FAMILIES[predictor.config.family].attention[0]]
    found = {f"{name}_token_head": max(row[name] for row in rows) for name in NEIGHBOURS}
    if "head_distance" in names(predictor.config):
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
    """The mean weight on neighbouring tokens, for each head that reads the source; empty for a recurrent model."""
    attention = families.FAMILIES[config.family].attention
    if not attention:
        return []
    found = {name: weight_at_offset(weights[attention[0]], lengths_B, offset) for name, offset in NEIGHBOURS.items()}
    return [
        {"name": f"layer {layer + 1}, head {head + 1}"} | {name: float(of_LxH[layer, head]) for name, of_LxH in found.items()}
        for layer, head in np.ndindex(found["same"].shape)
    ]


def weight_at_offset(weights_LxBxHxTxS: np.ndarray, lengths_B: np.ndarray, offset: int) -> np.ndarray:
    """The mean weight LxH of a token on the token at `offset` from it (-1: the previous one), over all tokens that have one.

    Only the first `lengths_B` tokens of each text count. NaN if no text is long enough.
    """
    on_LxBxHxT = np.diagonal(weights_LxBxHxTxS, offset, axis1=3, axis2=4)
    counted_BxT = np.arange(on_LxBxHxT.shape[3]) < np.asarray(lengths_B)[:, None] - abs(offset)
    count = counted_BxT.sum()
    if not count:
        return np.full((len(weights_LxBxHxTxS), weights_LxBxHxTxS.shape[2]), np.nan)
    return np.where(counted_BxT[:, None], on_LxBxHxT, 0.0).sum((1, 3)) / count


def head_distance(weights_LxBxHxTxS: np.ndarray, lengths_B: np.ndarray) -> float:
    """The mean Jensen-Shannon distance between two heads, over all pairs of heads (within and across layers) and all tokens.

    sqrt(H((p + q) / 2) - (H(p) + H(q)) / 2), H in bits: 0 if both heads have the same weights, 1 if they never attend to the
    same token. (Clark et al. 2019, section 6, sum its square.) NaN if there is only one head.
    """
    inside_BxT = np.arange(weights_LxBxHxTxS.shape[3]) < np.asarray(lengths_B)[:, None]
    weights_LxHxKxS = np.moveaxis(weights_LxBxHxTxS, 2, 1)[:, :, inside_BxT]  # K: tokens of all texts
    weights_NxKxS = weights_LxHxKxS.reshape(-1, *weights_LxHxKxS.shape[2:])
    entropy_NxK = _entropy(weights_NxKxS)
    distances = []
    for p, q in itertools.combinations(range(len(weights_NxKxS)), 2):
        more_K = _entropy((weights_NxKxS[p] + weights_NxKxS[q]) / 2) - (entropy_NxK[p] + entropy_NxK[q]) / 2
        distances.append(np.sqrt(np.maximum(more_K, 0.0)).mean())  # rounding may make it negative
    return float(np.mean(distances)) if distances else float("nan")


def _entropy(weights: np.ndarray) -> np.ndarray:
    """The entropy over the last axis, in bits."""
    return -(weights * np.log2(np.where(weights > 0, weights, 1.0))).sum(-1)
