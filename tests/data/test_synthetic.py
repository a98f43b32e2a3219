"""Synthetic tasks: answers are worked out again from the text; splits share nothing; draws are the same every time."""

import collections
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from transformer.config import Data
from transformer.data import sources
from transformer.data.synthetic import entities, tasks
from transformer.errors import UserError

ROOT = Path(__file__).parents[2]
SPLITS: tuple[sources.SplitName, ...] = ("train", "validation", "test")
# What an example is known by.
TEXTS = {"list_ops": "text", "entities": "text", "stories": "text", "summaries": "source", "algorithms": "source"}
PUZZLES = tuple(TEXTS)
FOLDERS = {"algorithms": "copy-alphabet_26-train_1500_of_5_20-test_200_of_5_20"}
SMALL = Data(synthetic_train_size=1500, synthetic_test_size=200)


@pytest.fixture(scope="module")
def synthetic() -> dict[str, dict[str, list[Any]]]:
    made = {name: tasks.TASKS[name].make(dataclasses.replace(SMALL, source=name)) for name in PUZZLES}
    return {name: {split: list(examples) for split, examples in splits.items()} for name, splits in made.items()}


def every(splits: dict[str, list[Any]]) -> list[dict[str, str]]:
    return [example for split in SPLITS for example in splits[split]]


@pytest.mark.parametrize("name", PUZZLES)
def test_on_disk_as_drawn(synthetic, tmp_path, name):
    data = dataclasses.replace(SMALL, source=name)
    for split, size in zip(SPLITS, (1500, 200, 200), strict=True):
        found = sources.read(data, split, tmp_path)
        assert found and list(found.examples) == synthetic[name][split] and len(found.examples) == size
        assert found.notices == (
            ("examples: 1,500 for training, 200 for validation, 200 for the test",) if split == "train" else ()
        )
    (folder,) = tmp_path.glob("*/*/*")
    parts = folder.relative_to(tmp_path).parts
    assert parts == (name, FOLDERS.get(name, "train_1500-test_200"), tasks.TASKS[name].version)


@pytest.mark.parametrize("name", PUZZLES)
def test_splits_are_disjoint_and_independent(synthetic, name):
    texts = [example[TEXTS[name]] for example in every(synthetic[name])]
    assert len(set(texts)) == len(texts) == 1900
    fewer = tasks.TASKS[name].make(dataclasses.replace(SMALL, source=name, synthetic_train_size=50))
    assert list(fewer["test"]) == synthetic[name]["test"] and list(fewer["train"]) == synthetic[name]["train"][:50]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("list_ops", "b1dced93c78ffcd5"),
        ("entities", "5e8645f191bc1741"),
        ("stories", "5984e38cdc25a0c5"),
        ("summaries", "f728593f0b7d3e6d"),
    ],
)
def test_draws_do_not_change(synthetic, name, drawn):
    # Runs are compared over years: who draws otherwise must raise the task's version.
    assert hashlib.sha256(json.dumps(synthetic[name]).encode()).hexdigest()[:16] == drawn


def test_more_examples_than_exist_is_an_error():
    with pytest.raises(UserError, match="config.data.synthetic_train_size 9: stories has only about 3") as error:
        draws = iter(["a", "b", "c", *["a"] * 5000])
        tasks.stories.distinct(
            Data(source="stories", synthetic_train_size=9, synthetic_test_size=1), lambda rng, held: {"text": next(draws)}
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PUZZLES)
def test_lower_case(tmp_path, name):
    data = Data(source=name, synthetic_train_size=20, synthetic_test_size=5)
    plain, lowered = (sources.read(dataclasses.replace(data, lowercase=x), "train", tmp_path) for x in (False, True))
    assert plain and lowered and plain.fingerprint != lowered.fingerprint
    for a, b in zip(plain.examples, lowered.examples, strict=True):
        labels = ("label", "tags", "start")
        assert b == {field: text if field in labels else text.lower() for field, text in a.items()}


# --- lists of digits ---------------------------------------------------------------------------------------------------


def evaluate(tokens: list[str]) -> int:
    """The value of the expression that `tokens` begins with; takes its tokens away."""
    token = tokens.pop(0)
    if not token.startswith("["):
        return int(token)
    values = []
    while tokens[0] != "]":
        values.append(evaluate(tokens))
    tokens.pop(0)
    values.sort()
    match token:
        case "[MAX":
            return values[-1]
        case "[MIN":
            return values[0]
        case "[SM":
            return int(str(sum(values))[-1])
        case "[MED":
            return (values[(len(values) - 1) // 2] + values[len(values) // 2]) // 2
    raise ValueError(token)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),  # Nangia and Bowman 2018, figure 1
        ("[SM 7 [MED 8 1 2 ] [MED 3 6 ] ]", 3),  # 7 + 2 + floor(4.5)
    ],
)
def test_evaluator(text, value):
    assert evaluate(text.split()) == value


def test_list_ops(synthetic):
    depths = collections.Counter()
    for example in every(synthetic["list_ops"]):
        tokens = example["text"].split(" ")
        depth = [sum(t[0] == "[" for t in tokens[:i]) - tokens[:i].count("]") for i in range(len(tokens))]
        depths[max(depth)] += 1
        assert len(tokens) <= 24 and max(depth) <= 2
        assert evaluate(tokens) == int(example["label"]) and not tokens, example
    assert min(depths[d] for d in (1, 2)) > 300
    labels = collections.Counter(example["label"] for example in every(synthetic["list_ops"]))
    assert all(140 < labels[str(digit)] < 240 for digit in range(10)), labels  # 190 expected, standard deviation 13


def test_list_ops_as_pairs(synthetic):
    made = tasks.TASKS["list_ops_pairs"].make(dataclasses.replace(SMALL, source="list_ops_pairs"))
    for split, examples in synthetic["list_ops"].items():
        assert [(pair["source"], pair["target"]) for pair in made[split]] == [(e["text"], e["label"]) for e in examples]


# --- entities ----------------------------------------------------------------------------------------------------------

NUMBER = "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|[a-z]+teen|[a-z]+ty(?:-[a-z]+)?|one)"
SHAPES = {"PER": r"[A-Z]\w*(?: [A-Z]\w*)?", "LOC": r"[A-Z]\w*(?: [A-Z]\w*)?", "THINGS": "[a-z]+s"} | {
    kind: rf"(?:{NUMBER} hundred(?: and {NUMBER})?|{NUMBER}(?: {NUMBER})?)" for kind in ("QUANTITY", "MONEY", "TIME", "DATE")
}
PATTERNS = [
    (words, re.compile(" ".join(f"({SHAPES[word]})" if word in SHAPES else re.escape(word) for word in words)))
    for words in (template.split() for template in entities.TEMPLATES)
]


def readings(text: str) -> set[str]:
    """The tags of every template that a sentence could be; a slot is known by the shape of its words, not by lists of them."""
    found = set()
    for words, pattern in PATTERNS:
        if match := pattern.fullmatch(text):
            groups, tags = iter(match.groups()), []
            for word in words:
                filled = next(groups).split() if word in SHAPES else [word]
                kind = word if word in SHAPES and word != "THINGS" else None
                tags += [f"{'I' if i else 'B'}-{kind}" if kind else "O" for i in range(len(filled))]
            found.add(" ".join(tags))
    return found


def test_sentences_have_one_reading(synthetic):
    for example in every(synthetic["entities"]):
        assert readings(example["text"]) == {example["tags"]}, example
        assert len(example["text"].split()) == len(example["tags"].split()) <= 30


def spans(example: dict[str, str]) -> set[tuple[int, int, str]]:
    tags = example["tags"].split()
    ends = [next((j for j in range(i + 1, len(tags)) if tags[j][0] != "I"), len(tags)) for i in range(len(tags))]
    return {(i, ends[i], tag[2:]) for i, tag in enumerate(tags) if tag[0] == "B"}


def test_words_alone_do_not_determine_the_tags(synthetic):
    """A table of each word's most frequent tag in training, O for others, finds less than half of the entities."""
    table = collections.defaultdict(collections.Counter)
    for example in synthetic["entities"]["train"]:
        for word, tag in zip(example["text"].split(), example["tags"].split(), strict=True):
            table[word][tag] += 1
    right = true = predicted = 0
    for example in synthetic["entities"]["test"]:
        tags = [table[word].most_common(1)[0][0] if word in table else "O" for word in example["text"].split()]
        guess = spans({"tags": " ".join(tags)})
        right, true, predicted = right + len(guess & spans(example)), true + len(spans(example)), predicted + len(guess)
    assert 0.2 < 2 * right / (true + predicted) < 0.55
    assert all(len({tag[2:] for tag in table[word]}) >= 3 for word in ("seven", "twelve", "nineteen", "twenty"))
    assert all({"B-PER", "B-LOC"} <= set(table[word]) for word in ("Jordan", "Georgia", "Victoria"))


def test_half_of_the_names_in_test_are_new(synthetic):
    seen = {word for example in synthetic["entities"]["train"] for word in example["text"].split()}
    for split in ("validation", "test"):
        names = [w for e in synthetic["entities"][split] for w in e["text"].split() if w[0].isupper()]
        assert 0.35 < sum(name not in seen for name in names) / len(names) < 0.65


def test_all_types_are_frequent(synthetic):
    for split in SPLITS:
        counts = collections.Counter(kind for example in synthetic["entities"][split] for *_, kind in spans(example))
        assert set(counts) == set(entities.TYPES) and min(counts.values()) > 0.05 * sum(counts.values()), counts


# --- stories -----------------------------------------------------------------------------------------------------------

HAS = re.compile(r"(\w+) has (\w+) (\w+)")
GIVES = re.compile(r"(\w+) gives the (\w+) to (\w+)|the (\w+) go from (\w+) to (\w+)")


def simulate(text: str) -> dict[str, Any]:
    """By kind: number, first and last owner, and where the story says so."""
    state: dict[str, Any] = {}
    place = 0
    for sentence in text.split(" ."):
        start = place + len(sentence) - len(sentence.strip())
        if match := HAS.fullmatch(sentence.strip()):
            owner, number, kind = match.groups()
            assert kind not in state
            state[kind] = {"owner": owner, "owner at": start, "number": number, "number at": start + match.start(2)}
            state[kind] |= {"first": owner, "first at": start}
        elif match := GIVES.fullmatch(sentence.strip()):
            a = match.groups()
            giver, kind, receiver = (a[0], a[1], a[2]) if a[0] else (a[4], a[3], a[5])
            assert state[kind]["owner"] == giver != receiver
            state[kind] |= {"owner": receiver, "owner at": start + match.start(3 if a[0] else 6)}
        else:
            assert not sentence.strip(), sentence
        place += len(sentence) + 2
    return state


def answer(text: str, question: str) -> tuple[str, int]:
    state = simulate(text)
    if match := re.fullmatch(r"who has the (\w+) \?", question):
        return state[match[1]]["owner"], state[match[1]]["owner at"]
    if match := re.fullmatch(r"who had the (\w+) first \?", question):
        return state[match[1]]["first"], state[match[1]]["first at"]
    if match := re.fullmatch(r"how many (\w+) does (\w+) have \?", question):
        assert state[match[1]]["owner"] == match[2]
        return f"{state[match[1]]['number']} {match[1]}", state[match[1]]["number at"]
    match = re.fullmatch(r"what does (\w+) have \?", question)
    assert match
    ((kind, things),) = ((kind, things) for kind, things in state.items() if things["owner"] == match[1])
    return f"{things['number']} {kind}", things["number at"]


def test_stories(synthetic):
    for example in every(synthetic["stories"]):
        found, start = answer(example["text"], example["question"])
        assert (found, str(start)) == (example["answer"], example["start"]), example
        assert example["text"][start : start + len(found)] == found
        also = [found.split()[0]] if example["question"].startswith("how many") else []
        assert json.loads(example["answers"]) == [found, *also]


def test_the_answer_depends_on_the_question(synthetic):
    """Whatever ignores the question is wrong: other questions to the same story have other answers, anywhere in it."""
    sentences, kinds = collections.Counter(), collections.Counter()
    for example in every(synthetic["stories"]):
        state = simulate(example["text"])
        asked = [f"who has the {kind} ?" for kind in state] + [
            f"how many {k} does {s['owner']} have ?" for k, s in state.items()
        ]
        assert len({answer(example["text"], question) for question in asked}) >= 4
        sentences[example["text"][: int(example["start"])].count(" .")] += 1
        kinds[" ".join(example["question"].split()[:2])] += 1
    assert max(sentences.values()) < 0.45 * 1900 and len(sentences) == 5, sentences
    assert min(kinds.values()) > 0.15 * 1900 and len(kinds) == 4, kinds


def test_things_change_hands(synthetic):
    asked = [e for e in every(synthetic["stories"]) if e["question"].startswith("who ha")]
    states = [(simulate(e["text"])[e["question"].split()[3]], e["question"].split()[1]) for e in asked]
    moved = [verb for state, verb in states if state["owner"] != state["first"]]
    assert len(moved) > 0.3 * len(asked) and min(moved.count("has"), moved.count("had")) > 0.3 * len(moved)


# --- summaries ---------------------------------------------------------------------------------------------------------


def test_a_summary_lists_the_final_owners(synthetic):
    for example in every(synthetic["summaries"]):
        state = simulate(example["source"])
        owners = sorted({things["owner"] for things in state.values()})
        each = [" and ".join(f"{t['number']} {kind}" for kind, t in state.items() if t["owner"] == owner) for owner in owners]
        assert example["target"] == " ".join(f"{o} has {things} ." for o, things in zip(owners, each, strict=True))


def test_a_summary_is_no_copy(synthetic):
    """The first sentences, as many as a summary has, are almost never it."""
    examples = every(synthetic["summaries"])
    lead = [" .".join(e["source"].split(" .")[: e["target"].count(" .")]) + " ." for e in examples]
    assert sum(first == e["target"] for first, e in zip(lead, examples, strict=True)) < 0.05 * len(examples)
    assert all(len(e["target"]) < len(e["source"]) for e in examples)


# --- the library -------------------------------------------------------------------------------------------------------


def test_tensorflow_is_not_imported_and_nothing_is_printed(tmp_path):
    program = f"""
import sys
from pathlib import Path
from transformer.config import Data
from transformer.data.synthetic import number_alignment
from transformer.data import sources
from transformer.inference import scores
from transformer.probes import alignment
assert "tensorflow_datasets" not in sys.modules, "TFDS is imported before it is needed"
for source in {PUZZLES!r}:
    data = Data(source=source, synthetic_train_size=20, synthetic_test_size=5)
    for _ in range(2):
        assert len(list(sources.read(data, "train", Path({str(tmp_path)!r})).examples)) == 20
for name in ("rouge1", "entity_f1"):
    scores.score(name, ["B-A O"], ["B-A O"])
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
