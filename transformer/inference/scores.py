"""How good output is: a table of scores of text over the field's libraries, and what sums over tokens give.

Nothing here generates text or runs a model. What cannot be computed is absent, never 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformer.errors import UserError, nearest


@dataclass(frozen=True)
class Result:
    """A score, and the signature that makes it comparable (None where the score has no settings)."""

    value: float
    signature: str | None = None


@dataclass(frozen=True)
class Score:
    """`function(hypotheses, references, tokenize)`; use `score`, which checks its input."""

    function: Callable[[Sequence[str], Sequence[str], str], Result]
    higher_is_better: bool = True


def _bleu(hypotheses: Sequence[str], references: Sequence[str], tokenize: str) -> Result:
    from sacrebleu.metrics.bleu import BLEU

    if tokenize not in BLEU.TOKENIZERS:
        raise UserError(f"BLEU: sacrebleu has no tokenisation {tokenize!r}{nearest(tokenize, BLEU.TOKENIZERS)}")
    # `force` only quiets the warning about tokenised text, which is what "none" is for; the signature is the same.
    metric = BLEU(tokenize=tokenize, force=tokenize == "none")
    value = metric.corpus_score(hypotheses, [references]).score
    return Result(value, str(metric.get_signature()))


def _chrf(hypotheses: Sequence[str], references: Sequence[str], tokenize: str) -> Result:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    value = metric.corpus_score(hypotheses, [references]).score
    return Result(value, str(metric.get_signature()))


def _exact_match(hypotheses: Sequence[str], references: Sequence[str], tokenize: str) -> Result:
    equal = sum(h == r for h, r in zip(hypotheses, references, strict=True))
    return Result(100.0 * equal / len(references))


SCORES: dict[str, Score] = {
    "bleu": Score(_bleu),  # Papineni et al. 2002; Post 2018: 0 to 100
    "chrf": Score(_chrf),  # Popovic 2015, chrF2: 0 to 100
    "exact_match": Score(_exact_match),  # percent of hypotheses equal to their reference, character by character
}


def find(name: str) -> Score:
    """The score of that name; UserError with the nearest if there is none."""
    if name not in SCORES:
        raise UserError(f"there is no score {name!r}{nearest(name, SCORES)}; there are {', '.join(SCORES)}")
    return SCORES[name]


def score(name: str, hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> Result:
    """The score of whole lines, hypothesis i against reference i. `tokenize`: sacrebleu's tokenisation, for BLEU alone.

    UserError: unknown name or tokenisation, no lines, unequal numbers of lines.
    """
    found = find(name)
    if len(hypotheses) != len(references):
        raise UserError(
            f"{name}: {len(hypotheses)} hypotheses but {len(references)} references; give one hypothesis a reference"
        )
    if not references:
        raise UserError(f"{name}: no hypotheses and no references; give one of each at least")
    return found.function(hypotheses, references, tokenize)


def count_words(references: Sequence[str]) -> int:
    """Words, parted by white space, for `token_scores`."""
    return sum(len(line.split()) for line in references)


def token_scores(sums: Mapping[str, float], words: int | None = None) -> dict[str, float]:
    """Scores of reference tokens from sums over them, "loss_sum", "nll_sum", "correct_sum", and their "weight_sum".

    "loss" (smoothed, as trained) and "nll" are nats per token, the end of a sentence counted as one; "perplexity" is
    exp(nll), "perplexity_per_word" exp(nll_sum / words), which vocabularies of any size share; "token_accuracy" is percent.
    What a missing sum, no weight or no words leave open is absent.
    """
    weight = sums.get("weight_sum", 0.0)
    result: dict[str, float] = {}
    if weight > 0:
        means = {"loss": "loss_sum", "nll": "nll_sum", "token_accuracy": "correct_sum"}
        result = {name: float(sums[key]) / float(weight) for name, key in means.items() if key in sums}
        if "token_accuracy" in result:
            result["token_accuracy"] *= 100.0
        if "nll" in result:
            result["perplexity"] = _exp(result["nll"])
    if words and "nll_sum" in sums and weight > 0:
        result["perplexity_per_word"] = _exp(float(sums["nll_sum"]) / words)
    return result


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
