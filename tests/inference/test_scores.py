"""Scores against libraries called directly and against values worked by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
import sacrebleu

from transformer.errors import UserError
from transformer.inference import scores

REFERENCES = ["ein mann schläft auf einer bank .", "zwei hunde laufen über das gras .", "eine frau , die singt !", "ja"]
HYPOTHESES = ["ein mann schläft auf der bank .", "zwei hunde rennen durch das gras .", "eine frau , die singt !", "nein"]
AS_IT_IS = scores.Options(tokenize="none")


@pytest.mark.parametrize("tokenize", ["13a", "none", "intl", "char"])
def test_bleu_is_sacrebleus(tokenize):
    wanted = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], tokenize=tokenize, force=True)
    found = scores.score("bleu", HYPOTHESES, REFERENCES, scores.Options(tokenize))
    assert found.value == pytest.approx(wanted.score, abs=1e-12) and 30 < found.value < 90
    assert found.signature == f"nrefs:1|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{sacrebleu.__version__}"


def test_bleu_by_hand():
    """Precisions 4/5, 3/4, 2/3, 1/2 and no brevity penalty: 100 * (1/5)^(1/4)."""
    found = scores.score("bleu", ["a b c d e"], ["a b c d f"], AS_IT_IS)
    assert found.value == pytest.approx(100 * 0.2**0.25)


def test_bleu_tokenisation_matters():
    hypotheses, references = ["a b c d, e"], ["a b c d , e"]
    assert scores.score("bleu", hypotheses, references).value == pytest.approx(100)
    assert scores.score("bleu", hypotheses, references, AS_IT_IS).value < 90


def test_bleu_of_tokenised_text_is_quiet(caplog):
    scores.score("bleu", ["a b c d ."] * 200, ["a b c d ."] * 200, AS_IT_IS)
    assert not caplog.records
    scores.score("bleu", ["a b c d ."] * 200, ["a b c d ."] * 200)  # here the warning is deserved
    assert any("tokenized period" in record.getMessage() for record in caplog.records)


def test_chrf_is_sacrebleus():
    found = scores.score("chrf", HYPOTHESES, REFERENCES)
    assert found.value == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score, abs=1e-12)
    assert found.signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"


def test_signatures_say_whether_case_counts():
    """For a model of lowercase text; labels keep their case."""
    upper, options = [text.upper() for text in REFERENCES], scores.Options(lowercase=True)
    for name in ("bleu", "chrf", "exact_match", "word_accuracy"):
        found = scores.score(name, upper, REFERENCES, options)
        assert found.value == pytest.approx(100), name
        assert found.signature and "case:lc" in found.signature, name
        assert scores.score(name, upper, REFERENCES).value < 50, name
    assert scores.score("accuracy", ["A", "b"], ["a", "b"], options) == scores.Result(50.0, None)


def test_exact_match_by_hand():
    assert scores.score("exact_match", HYPOTHESES, REFERENCES) == scores.Result(25.0, None)
    assert scores.score("exact_match", ["a", "B "], ["A", "B"]).value == 0.0


def test_word_accuracy_by_hand():
    """Of 3, 2, 4 and 1 positions, 2, 0, 2 and 0 are correct: an extra or missing word shifts all words after it."""
    predictions, true = ["a  b x", "b", "a c d", ""], ["a b c", "a b", "a c x d", "e"]
    assert scores.score("word_accuracy", predictions, true).value == pytest.approx(100 * 4 / 10)
    assert scores.score("word_accuracy", ["a b"], ["a"]).value == 50 == scores.score("word_accuracy", ["a"], ["a b"]).value
    assert scores.score("word_accuracy", [""], [" "]).value == 100


def test_hypotheses_and_references_are_not_swapped():
    """A short hypothesis is penalized for brevity, a long one by precision."""
    short = scores.score("bleu", ["a b c d"], ["a b c d e f g h"], AS_IT_IS).value
    assert short == pytest.approx(100 * math.exp(1 - 8 / 4))


@pytest.mark.parametrize("name", scores.SCORES)
def test_perfect_is_best(name):
    lines = ["B-A I-A O B-B", "O O B-A I-A"]
    references = [json.dumps(["other", line]) for line in lines] if name.startswith("squad") else lines
    assert scores.score(name, lines, references).value == pytest.approx(100)
    assert scores.score(name, ["B-C I-C B-C O", "B-D O O O"], references).value < 60
    assert scores.SCORES[name].higher_is_better


# --- summaries ---------------------------------------------------------------------------------------------------------


def overlap(hypothesis: list, reference: list) -> float:
    """F of two bags."""
    common = sum(min(hypothesis.count(x), reference.count(x)) for x in set(hypothesis))
    return 2 * common / (len(hypothesis) + len(reference)) if hypothesis and reference else 0.0


def subsequence(a: list, b: list) -> int:
    """Length of the longest common one."""
    if not a or not b:
        return 0
    return subsequence(a[1:], b[1:]) + 1 if a[0] == b[0] else max(subsequence(a[1:], b), subsequence(a, b[1:]))


def test_rouge_by_hand():
    pairs = [
        ("The cat sat on the mat.", "the cat was on the mat"),
        ("police killed the gunman", "police kill the gunman"),  # Lin 2004, 3: sentences S1 to S3
        ("the gunman kill police", "police kill the gunman"),
        ("", "no words"),
        ("a b a b", "b a"),
    ]
    hypotheses, references = (list(side) for side in zip(*pairs, strict=True))
    split = [tuple(side.lower().rstrip(".").split() for side in pair) for pair in pairs]
    want = {
        "rouge1": [overlap(h, r) for h, r in split],
        "rouge2": [overlap(list(zip(h, h[1:], strict=False)), list(zip(r, r[1:], strict=False))) for h, r in split],
        "rougeL": [2 * subsequence(h, r) / (len(h) + len(r)) for h, r in split],
    }
    for name, each in want.items():
        found = scores.score(name, hypotheses, references)
        assert found.value == pytest.approx(100 * sum(each) / len(each)), name
        assert found.signature and found.signature.startswith("case:lc|stemmer:no|") and "rouge-score:0." in found.signature
    assert scores.score("rougeL", hypotheses[1:2], references[1:2]).value == pytest.approx(75)
    assert scores.score("rougeL", hypotheses[2:3], references[2:3]).value == pytest.approx(50)


# --- labels ------------------------------------------------------------------------------------------------------------


def test_accuracy_and_macro_f1():
    predictions, true = ["a", "a", "b", "c", "a", "d"], ["a", "b", "b", "b", "c", "a"]
    assert scores.score("accuracy", predictions, true).value == pytest.approx(100 * 2 / 6)
    # a: precision 1/3, recall 1/2; b: 1, 1/3; c and d: nothing right
    assert scores.score("macro_f1", predictions, true).value == pytest.approx(100 * (2 / 5 + 2 / 4 + 0 + 0) / 4)


def test_macro_f1_is_scikit_learns():
    from sklearn.metrics import f1_score

    draw = np.random.default_rng(0)
    for labels in (2, 5, 30):
        predictions, true = (list(map(str, draw.integers(0, labels, 40))) for _ in range(2))
        want = 100 * float(f1_score(true, predictions, average="macro", zero_division=0))
        assert scores.score("macro_f1", predictions, true).value == pytest.approx(want)


def conlleval(tags: list[str]) -> set[tuple[str, int, int]]:
    """Entities as in the script of CoNLL-2000: B- begins one, and so does an I- after another type or after O."""
    found, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        before = tags[i - 1] if i else "O"
        if start is not None and (tag == "O" or tag[0] == "B" or tag[2:] != before[2:]):
            found.add((before[2:], start, i))
            start = None
        if tag != "O" and start is None:
            start = i
    return found


@pytest.mark.filterwarnings("error")
def test_entity_f1():
    # The example of seqeval's documentation: PER is found, MISC begins a word too early.
    true = ["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"]
    predictions = ["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"]
    assert scores.score("entity_f1", predictions, true).value == pytest.approx(50)
    assert scores.score("entity_f1", ["I-PER I-PER O"], ["B-PER I-PER O"]).value == pytest.approx(100)  # its default
    assert scores.score("entity_f1", ["B-PER B-PER O"], ["B-PER I-PER O"]).value == 0
    assert scores.score("entity_f1", ["B-PER I-LOC O"], ["B-PER O O"]).value == pytest.approx(100 * 2 / 3)
    assert scores.score("entity_f1", ["O O"], ["O O"]).value == 0  # as seqeval, where there is no entity at all
    assert scores.score("entity_f1", ["", "B-A"], ["", "B-A"]).value == pytest.approx(100)


def test_entity_f1_is_conlls():
    draw = np.random.default_rng(1)
    tags = np.array(["O", "B-X", "I-X", "B-Y", "I-Y"])
    true, predictions = ([list(draw.choice(tags, n)) for n in draw.integers(1, 12, 60)] for _ in range(2))
    predictions = [a if draw.random() < 0.4 else (b * 12)[: len(a)] for a, b in zip(true, predictions, strict=True)]
    right = sum(len(conlleval(a) & conlleval(b)) for a, b in zip(true, predictions, strict=True))
    want = 100 * 2 * right / sum(len(conlleval(sentence)) for sentence in true + predictions)
    found = scores.score("entity_f1", [" ".join(s) for s in predictions], [" ".join(s) for s in true])
    assert 20 < want < 90 and found.value == pytest.approx(want)
    assert found.signature and "seqeval:1." in found.signature


# --- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predictions", "answers", "exact", "f1"),
    [
        ("The Eiffel-Tower!", ["eiffeltower"], 1, 1),  # punctuation goes, it does not part words
        ("an  apple", ["Apple", "a pear"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article is a word
        ("the the", ["a"], 1, 1),  # nothing left on either side
        ("apples in May", ["May", "in may the"], 0, 2 * 2 / (3 + 2)),  # the best answer counts
        ("red red blue", ["red blue blue"], 0, 2 * 2 / 6),
        ("1,000", ["1000"], 1, 1),
        ("", [""], 1, 1),  # no answer, and none expected
        ("something", [""], 0, 0),
        ("", ["something"], 0, 0),
        ("b", ["a", "b"], 1, 1),  # "a" is no answer once articles are gone
        ("", ["a", "b"], 0, 0),
        ("caf\u00e9 \u201cX\u201d", ["caf\u00e9 X"], 0, 0.5),  # only ASCII punctuation goes
    ],
)
def test_squad(predictions, answers, exact, f1):
    reference = json.dumps(answers)
    assert scores.score("squad_exact_match", [predictions], [reference]).value == pytest.approx(100 * exact)
    assert scores.score("squad_f1", [predictions], [reference]).value == pytest.approx(100 * f1)
    both = scores.score("squad_f1", [predictions, "x"], [reference, '["y"]'])
    assert both.value == pytest.approx(50 * f1) and both.signature and "case:lc" in both.signature


# --- by length ---------------------------------------------------------------------------------------------------------


def test_scores_by_length():
    """Sources of 0 to 29 words, each length twice; for 10 or more words, every second output is wrong."""
    sources = [" ".join(["x"] * n) for n in range(30) for _ in range(2)]
    references = [f"{row} {row}" for row in range(60)]
    predictions = [r if row < 20 or row % 2 else "no" for row, r in enumerate(references)]
    found = scores.by_length("exact_match", sources, predictions, references, (0, 5, 10, 20, 25, 29, 40))
    wanted = {"0-4": 100, "5-9": 100, "10-19": 50, "20-24": 50}  # 25-28 has 8 pairs, 29-39 two
    assert found == {f"exact_match@{name}": value for name, value in wanted.items()}
    both = scores.by_length("exact_match", sources, predictions, references, (9, 14))
    assert both == {"exact_match@9-13": pytest.approx(100 * (2 + 4) / 10)}
    assert set(found) | {"exact_match@25-28", "exact_match@29-39"} == {
        f"exact_match@{name}" for name in scores.buckets((0, 5, 10, 20, 25, 29, 40))
    }
    assert scores.by_length("exact_match", sources, predictions, references, ()) == {}


def test_scores_by_length_are_the_scores_of_these_pairs():
    sources = ["one two three"] * 12 + ["one"] * 12
    predictions = ["ein mann schläft auf der bank."] * 12 + ["zwei hunde rennen durch das gras."] * 12
    true = ["ein mann schläft auf der langen bank ."] * 12 + ["zwei hunde laufen jetzt durch das gras."] * 12
    found = scores.by_length("bleu", sources, predictions, true, (1, 2, 4), AS_IT_IS)
    wanted = [
        sacrebleu.corpus_bleu(predictions[rows], [true[rows]], tokenize="none").score for rows in (slice(12, 24), slice(12))
    ]
    assert list(found) == ["bleu@1-1", "bleu@2-3"] and list(found.values()) == pytest.approx(wanted)
    assert abs(wanted[0] - wanted[1]) > 1


def test_words_by_place():
    """Of 20 references, ten have 2 words and ten have 6. Every second hypothesis is empty; the others have an extra word at the
    end, and their third word is wrong."""
    references = ["a b"] * 10 + ["a b c d e f"] * 10
    predictions = ["" if row % 2 else r.replace("c", "x") + " z" for row, r in enumerate(references)]
    found = scores.by_place(predictions, references, (1, 2, 4, 6, 7, 9))
    assert found == {
        "place_accuracy@1-1": 50.0,
        "place_accuracy@2-3": pytest.approx(100 * 10 / 30),  # b of half of 20, c of none of 10
        "place_accuracy@4-5": 50.0,
        "place_accuracy@6-6": 50.0,
    }
    assert scores.by_place(predictions[:9], references[:9], (1, 2)) == {}  # too few


def test_bad_input():
    with pytest.raises(UserError, match="no score 'blue'; did you mean 'bleu'"):
        scores.score("blue", ["a"], ["a"])
    with pytest.raises(UserError, match="2 hypotheses but 1 reference"):
        scores.score("chrf", ["a", "b"], ["a"])
    with pytest.raises(UserError, match="no hypotheses and no references"):
        scores.score("exact_match", [], [])
    for reference in ("yes", '"yes"', "[1]", '{"a": 1}', "null"):
        with pytest.raises(UserError, match="reference 2 is not a JSON list of answers"):
            scores.score("squad_f1", ["a", "a"], ['["a"]', reference])
    with pytest.raises(UserError, match="entity_f1: sentence 2 has 2 tags, its reference 1"):
        scores.score("entity_f1", ["O", "O O"], ["O", "O"])
    with pytest.raises(UserError, match="no tokenization '13b'; did you mean '13a'"):
        scores.score("bleu", ["a"], ["a"], scores.Options("13b"))


def test_token_scores_by_hand():
    """Four tokens, of 1/2, 1/2, 1/4 and 1/8 probability: 7 ln 2 in sum; two words."""
    sums = {"loss_sum": 6.0, "nll_sum": 7 * math.log(2), "correct_sum": 3.0, "weight_sum": 4.0}
    assert scores.token_scores(sums, 2) == pytest.approx(
        {"loss": 1.5, "nll": 1.75 * math.log(2), "perplexity": 2**1.75, "perplexity_per_word": 2**3.5, "token_accuracy": 75.0}
    )


def test_absent_is_absent():
    full = {"loss_sum": 0.0, "nll_sum": 0.0, "correct_sum": 0.0, "weight_sum": 0.0}
    assert scores.token_scores(full, 5) == {}
    assert scores.token_scores({}, 5) == {}
    assert scores.token_scores({"loss_sum": 2.0, "weight_sum": 4.0}, 5) == {"loss": 0.5}
    without_words = scores.token_scores({**full, "weight_sum": 1.0}, 0)
    assert without_words == {"loss": 0.0, "nll": 0.0, "perplexity": 1.0, "token_accuracy": 0.0}
    assert "perplexity_per_word" not in scores.token_scores({**full, "weight_sum": 1.0})


def test_hopeless_perplexity_is_infinite():
    assert scores.token_scores({"nll_sum": 1e6, "weight_sum": 1.0}, 1)["perplexity"] == math.inf


def test_token_scores_are_plain_numbers():
    sums: Any = {"loss_sum": np.float32(2), "nll_sum": np.float32(2), "correct_sum": np.float32(1), "weight_sum": np.float32(2)}
    json.dumps(scores.token_scores(sums, 1))


def test_count_words():
    assert scores.count_words(["a  b", "", " c\td "]) == 4
