"""How good output is: a table of scores of text and labels over the field's libraries, and what sums over tokens give.

Nothing here generates text or runs a model. What cannot be computed is absent, never 0.
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

FEWEST = 10  # pairs that get a score of their own
TRUE_LENGTH = "true_length"  # follows a score's "@" where outputs are decoded to the length of their references
PREDICTION = "prediction"  # the field of <split>.jsonl that holds outputs
OF_TRUE_LENGTH = f"{PREDICTION}@{TRUE_LENGTH}"  # and the field of those decoded to the length of their references


@dataclass(frozen=True)
class Result:
    """A score, and the signature that makes it comparable (None where the score has no settings)."""

    value: float
    signature: str | None = None


@dataclass(frozen=True)
class Options:
    """How text is compared. `tokenize`: sacrebleu's tokenisation, for BLEU alone. `lowercase`: without case, as a model is
    scored that reads and writes lowercase text alone; signatures say so."""

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
        raise UserError(f"BLEU: sacrebleu has no tokenisation {tokenize!r}{nearest(tokenize, BLEU.TOKENIZERS)}")
    # `force` only quiets the warning about tokenised text, which is what "none" is for; the signature is the same.
    metric = BLEU(lowercase=options.lowercase, tokenize=tokenize, force=tokenize == "none")
    value = metric.corpus_score(hypotheses, [references]).score
    return Result(value, str(metric.get_signature()))


def _chrf(hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(lowercase=options.lowercase)
    value = metric.corpus_score(hypotheses, [references]).score
    return Result(value, str(metric.get_signature()))


def _summed(name: str, labels: bool = False) -> Score:
    """`labels`: what is compared is no text, and has its case."""

    def function(hypotheses: Sequence[str], references: Sequence[str], options: Options) -> Result:
        lowercase = options.lowercase and not labels
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
    """As SQuAD's evaluation script normalises: without case, punctuation, articles and surplus white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _answer_equal(predicted: list[str], true: list[str]) -> float:
    return float(predicted == true)


def _answer_f1(predicted: list[str], true: list[str]) -> float:
    """F1 of words as bags; where a side has none, as where there is no answer (v2), whether both have none."""
    if not (predicted and true):
        return float(predicted == true)
    return 2 * (collections.Counter(predicted) & collections.Counter(true)).total() / (len(predicted) + len(true))


def _squad(
    measure: Callable[[list[str], list[str]], float], hypotheses: Sequence[str], references: Sequence[str], options: Options
) -> Result:
    """The mean of the best over the acceptable answers, which a reference is the JSON list of."""
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
    "word_accuracy": _summed("word_accuracy"),  # percent of words that stand in their place; too many or missing are wrong
    "rouge1": Score(functools.partial(_rouge, "rouge1")),  # Lin 2004, F of words; of English: other letters part words
    "rouge2": Score(functools.partial(_rouge, "rouge2")),  # of pairs of words
    "rougeL": Score(functools.partial(_rouge, "rougeL")),  # of the longest common subsequence
    "accuracy": _summed("accuracy", labels=True),  # percent of labels that are right
    "macro_f1": Score(_macro_f1),  # percent, the mean over the labels that occur
    "entity_f1": Score(_entity_f1),  # percent, micro, of whole entities: lines of tags, as seqeval's default, CoNLL's
    "squad_exact_match": Score(functools.partial(_squad, _answer_equal)),  # Rajpurkar et al. 2016; 2018: percent
    "squad_f1": Score(functools.partial(_squad, _answer_f1)),
}


def find(name: str) -> Score:
    """The score of that name; UserError with the nearest if there is none."""
    if name not in SCORES:
        raise UserError(f"there is no score {name!r}{nearest(name, SCORES)}; there are {', '.join(SCORES)}")
    return SCORES[name]


def score(name: str, hypotheses: Sequence[str], references: Sequence[str], options: Options = DEFAULT) -> Result:
    """The score of whole lines, hypothesis i against reference i.

    UserError: unknown name or tokenisation, no lines, unequal numbers of lines.
    """
    found = find(name)
    if len(hypotheses) != len(references):
        raise UserError(
            f"{name}: {counted(len(hypotheses), 'hypothesis', 'hypotheses')} but {counted(len(references), 'reference')}; "
            "give one hypothesis a reference"
        )
    if not references:
        raise UserError(f"{name}: no hypotheses and no references; give one of each at least")
    return found.function(hypotheses, references, options)


def buckets(edges: Sequence[int]) -> dict[str, range]:
    """Ranges by name, "10-19": from each edge (included) to the next (excluded)."""
    return {f"{low}-{high - 1}": range(low, high) for low, high in itertools.pairwise(edges)}


def bucket(name: str) -> range | None:
    """The range of that name; None if it is the name of none."""
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
    """`score` by the words of the source, as "bleu@10-19", for each range of `buckets` (Bahdanau et al. 2015, figure 2).

    A score of fewer than `FEWEST` pairs means little and is left out.
    """
    result = {}
    for bucket, lengths in buckets(edges).items():
        rows = [row for row, source in enumerate(sources) if len(source.split()) in lengths]
        if len(rows) >= FEWEST:
            predicted, true = ([side[row] for row in rows] for side in (hypotheses, references))
            result[f"{name}@{bucket}"] = score(name, predicted, true, options).value
    return result


def by_place(hypotheses: Sequence[str], references: Sequence[str], edges: Sequence[int]) -> dict[str, float]:
    """Percent of the references' words that a hypothesis has in the same place, as "place_accuracy@10-19", of the places (the
    first is 1) in each range of `buckets`. Where an item of a source is one word of its target, in order, a place is both
    sides'. Absent where fewer than `FEWEST` references are so long.
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
    """Words, separated by white space, for `token_scores`."""
    return sum(len(line.split()) for line in references)


def token_scores(sums: Mapping[str, float], words: int | None = None) -> dict[str, float]:
    """Scores of reference tokens from sums over them, "loss_sum", "nll_sum", "correct_sum", and their "weight_sum".

    `words`: how many words these tokens are, without those of targets' parts that were cut and not scored.

    "loss" (smoothed, as trained) and "nll" are nats per token, the end of a sentence counted as one; "perplexity" is
    exp(nll), "perplexity_per_word" exp(nll_sum / words), which vocabularies of any size share; "token_accuracy" is percent.
    NAME@PLACE: what attention reports of itself beside its penalty, where it has one.
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
        result |= penalties.means(sums, float(weight))
    if words and "nll_sum" in sums and weight > 0:
        result["perplexity_per_word"] = _exp(float(sums["nll_sum"]) / words)
    return result


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
