"""Scores of output: a table of scores of text and labels, computed by the standard libraries, and scores of token sums.

Nothing here generates text or runs a model. A score that cannot be computed is absent, never 0.
"""

import collections
import functools
import importlib.metadata
import itertools
import json
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformer.data.text import tagged_words
from transformer.errors import UserError, counted, nearest
from transformer.inference.sums import SUMS, of_sentences
from transformer.models import penalties

FEWEST = 10  # the fewest pairs for which a separate score is computed
TRUE_LENGTH = "true_length"  # suffix after "@" in the name of a score if outputs are decoded to the length of their references
PREDICTION = "prediction"  # the field of outputs in <split>.jsonl
OF_TRUE_LENGTH = f"{PREDICTION}@{TRUE_LENGTH}"  # the field of outputs decoded to the length of their references


@dataclass(frozen=True)
class Result:
    """A score and its signature, which records the settings (None if the score has no settings)."""

    value: float
    signature: str | None = None


@dataclass(frozen=True)
class Options:
    """How text is compared. `tokenize`: sacrebleu's tokenization, only for BLEU. `lowercase`: ignore case, for a model that
    reads and writes only lowercase text; signatures record it."""

    tokenize: str = "13a"
    lowercase: bool = False


@dataclass(frozen=True)
class Score:
    """`function(hypotheses, references, options)`; use `score`, which checks its input."""

    function: Callable[[Sequence[str], Sequence[str], "Options"], Result]
    higher_is_better: bool = True


DEFAULT = Options()


def _bleu(hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
    from sacrebleu.metrics.bleu import BLEU

    tokenize = options.tokenize
    if tokenize not in BLEU.TOKENIZERS:
        raise UserError(f"BLEU: sacrebleu has no tokenization {tokenize!r}{nearest(tokenize, BLEU.TOKENIZERS)}")
    # `force` only silences the warning about tokenized text, for which "none" is meant; the signature does not change.
    metric = BLEU(lowercase=options.lowercase, tokenize=tokenize, force=tokenize == "none")
    value = metric.corpus_score(hypotheses, [references]).score
    return Result(value, str(metric.get_signature()))


def _chrf(hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(lowercase=options.lowercase)
    value = metric.corpus_score(hypotheses, [references]).score
    return Result(value, str(metric.get_signature()))


def _summed(name: str) -> Score:

    def function(hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
        lowercase = options.lowercase and not SUMS[name].labels
        if lowercase:
            hypotheses, references = ([text.lower() for text in texts] for texts in (hypotheses, references))
        statistics_SxK = of_sentences(name, hypotheses, references, options.tokenize)
        return Result(float(SUMS[name].score(statistics_SxK.sum(axis=0))), "case:lc" if lowercase else None)

    return Score(function)


def _rouge(kind: str, hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind])
    found = [scorer.score(r, h)[kind].fmeasure for h, r in zip(hypotheses, references, strict=True)]
    return Result(100.0 * sum(found) / len(found), _version("rouge-score", "case:lc|stemmer:no|tok:a-z0-9|mean of F"))


def _version(package: str, settings: str) -> str:
    return f"{settings}|{package}:{importlib.metadata.version(package)}"


def _macro_f1(hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
    right = collections.Counter(h for h, r in zip(hypotheses, references, strict=True) if h == r)
    counts = collections.Counter([*hypotheses, *references])
    return Result(100.0 * sum(2 * right[label] / counts[label] for label in counts) / len(counts))


def _entity_f1(hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
    from seqeval.metrics import f1_score

    predicted, true = [tagged_words(h) for h in hypotheses], [tagged_words(r) for r in references]
    for number, (a, b) in enumerate(zip(predicted, true, strict=True), 1):
        if len(a) != len(b):
            raise UserError(
                f"entity_f1: sentence {number} has {counted(len(a), 'tag')}, its reference {len(b)}; give each word one tag"
            )
    value: Any = f1_score(true, predicted, zero_division=0)  # type: ignore[arg-type]  (its default, without the warning)
    return Result(100.0 * float(value), _version("seqeval", "mode:default|average:micro"))


def _answer_words(text: str) -> list[str]:
    """Normalizes as SQuAD's evaluation script does: removes case, punctuation, articles and redundant white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _answer_equal(predicted: list[str], true: list[str]) -> float:
    return float(predicted == true)


def _answer_f1(predicted: list[str], true: list[str]) -> float:
    """F1 of bags of words. If one side has no words (no answer, v2), 1 if both have none, else 0."""
    if not (predicted and true):
        return float(predicted == true)
    return 2 * (collections.Counter(predicted) & collections.Counter(true)).total() / (len(predicted) + len(true))


def _squad(
    measure: Callable[[list[str], list[str]], float], hypotheses: Sequence[str], references: Sequence[str], options: Options
) -> Result:
    """The mean over questions of the best score over the acceptable answers; a reference is a JSON list of these."""
    best = []
    for number, (predicted, reference) in enumerate(zip(hypotheses, references, strict=True), 1):
        try:
            answers = json.loads(reference)
        except ValueError:
            answers = None
        if not (isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)):
            raise UserError(f"squad: reference {number} is not a JSON list of answers: {reference[:60]!r}")
        answers = [words for words in map(_answer_words, answers) if words] or [[]]
        best.append(max(measure(_answer_words(predicted), words) for words in answers))
    return Result(100.0 * sum(best) / len(best), "case:lc|punctuation:no|articles:no")


SCORES: dict[str, Score] = {
    "bleu": Score(_bleu),  # Papineni et al. 2002; Post 2018: 0 to 100
    "chrf": Score(_chrf),  # Popovic 2015, chrF2: 0 to 100
    "exact_match": _summed("exact_match"),  # percent of hypotheses equal to their reference, character by character
    "word_accuracy": _summed(
        "word_accuracy"
    ),  # percent of words at the same position as in the reference; extra and missing words are wrong
    "rouge1": Score(
        functools.partial(_rouge, "rouge1")
    ),  # Lin 2004, F of words; for English only: other letters separate words
    "rouge2": Score(functools.partial(_rouge, "rouge2")),  # of pairs of words
    "rougeL": Score(functools.partial(_rouge, "rougeL")),  # of the longest common subsequence
    "accuracy": _summed("accuracy"),  # percent of correct labels
    "macro_f1": Score(_macro_f1),  # percent, the mean over the labels that occur
    "entity_f1": Score(
        _entity_f1
    ),  # percent, micro average over whole entities, from lines of tags; seqeval's default, which is CoNLL's
    "squad_exact_match": Score(functools.partial(_squad, _answer_equal)),  # Rajpurkar et al. 2016; 2018: percent
    "squad_f1": Score(functools.partial(_squad, _answer_f1)),
}


def find(name: str) -> Score:
    """The score with this name. UserError, with the nearest name, if there is none."""
    if name not in SCORES:
        raise UserError(f"there is no score {name!r}{nearest(name, SCORES)}; choose one of {', '.join(SCORES)}")
    return SCORES[name]


def score(name: str, hypotheses: Sequence[str], references: Sequence[str], options: Options = DEFAULT) -> Result:
    """The score of lines, which compares hypothesis i with reference i.

    UserError if the name or tokenization is unknown, if there are no lines, or if the numbers of lines differ.
    """
    found = find(name)
    if len(hypotheses) != len(references):
        raise UserError(
            f"{name}: {counted(len(hypotheses), 'hypothesis', 'hypotheses')} but {counted(len(references), 'reference')}; "
            "give one hypothesis for each reference"
        )
    if not references:
        raise UserError(f"{name}: no hypotheses and no references; give at least one of each")
    return found.function(hypotheses, references, options)


def buckets(edges: Sequence[int]) -> dict[str, range]:
    """Ranges by name, "10-19": from each edge (included) to the next (excluded)."""
    return {f"{low}-{high - 1}": range(low, high) for low, high in itertools.pairwise(edges)}


def bucket(name: str) -> range | None:
    """The range with this name, or None if the name does not denote a range."""
    low, _, high = name.partition("-")
    return range(int(low), int(high) + 1) if low.isdecimal() and high.isdecimal() else None


def by_length(
    name: str,
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    edges: Sequence[int],
    options: Options = DEFAULT,
) -> dict[str, float]:
    """`score` for each range of source lengths in words, such as "bleu@10-19" (Bahdanau et al. 2015, figure 2).

    Ranges with fewer than `FEWEST` pairs are omitted, because their scores are not meaningful.
    """
    result = {}
    for bucket, lengths in buckets(edges).items():
        rows = [row for row, source in enumerate(sources) if len(source.split()) in lengths]
        if len(rows) >= FEWEST:
            predicted, true = ([side[row] for row in rows] for side in (hypotheses, references))
            result[f"{name}@{bucket}"] = score(name, predicted, true, options).value
    return result


def by_place(hypotheses: Sequence[str], references: Sequence[str], edges: Sequence[int]) -> dict[str, float]:
    """Percent of the references' words that the hypothesis has at the same position, for each range of positions, such as
    "place_accuracy@10-19". The first position is 1. If each item of a source is one word of its target, in order, a position
    is the same in source and target. Ranges that fewer than `FEWEST` references reach are omitted.
    """
    result = {}
    for bucket, places in buckets(edges).items():
        right = []
        for predicted, true in ((h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)):
            own = range(places.start - 1, min(places.stop - 1, len(true)))
            right.append([place < len(predicted) and predicted[place] == true[place] for place in own])
        if sum(map(bool, right)) >= FEWEST:
            result[f"place_accuracy@{bucket}"] = 100.0 * sum(map(sum, right)) / sum(map(len, right))
    return result


def count_words(references: Sequence[str]) -> int:
    """The number of words, separated by white space, for `token_scores`."""
    return sum(len(line.split()) for line in references)


def token_scores(sums: Mapping[str, float], words: int | None = None) -> dict[str, float]:
    """Scores of reference tokens from the sums "loss_sum", "nll_sum" and "correct_sum" over them and their "weight_sum".

    `words`: the number of words that these tokens form, without parts of targets that were cut and not scored.

    "loss" (smoothed, as in training) and "nll" are nats per token, where the end of a sentence counts as a token. "perplexity"
    is exp(nll). "perplexity_per_word" is exp(nll_sum / words), which is comparable between vocabularies. "token_accuracy" is in
    percent. NAME@SITE is a value that attention reports beside its penalty. A score is absent if a sum, the weight or the words
    that it needs are missing.
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
        result |= penalties.means(sums, float(weight))
    if words and "nll_sum" in sums and weight > 0:
        result["perplexity_per_word"] = _exp(float(sums["nll_sum"]) / words)
    return result


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
