"""Predictions of encoders, against their scores for one example at a time without padding, and a plain decoding of these."""

import functools

import drawn
import folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer.components.rotary import Rotary
from transformer.config import Config, Data, Model, Search
from transformer.data.encode import tagged
from transformer.data.tokenizers.imported import Tokenizer
from transformer.data.tokenizers.vocabulary import Characters, Vocabulary
from transformer.errors import UserError
from transformer.inference import label
from transformer.inference.label import Labeller

CONFIG = Config(
    family="encoder_only",
    model=Model(
        num_encoder_layers=2,
        d_model=16,
        d_ff=16,
        num_heads=2,
        dropout_rate=0.0,
        positions=Rotary(),
        norm_order="pre",
        final_norm=False,
        tying="none",
        token_types=2,
    ),
    data=Data(vocabulary="characters", max_source_length=40),
    search=Search(batch_size=3),
)
LETTERS = Characters("abcdefgh ?.")
BEGIN, END, MASK = 1, 2, LETTERS.size
LABELS = ("B-LOC", "B-PER", "I-PER", "O")


def labeller(kind: str, vocabulary: Vocabulary = LETTERS, **settings) -> Labeller:
    fields = {"classify": ("text", "pair"), "answer": ("question", "text")}.get(kind, ("text",))
    config = drawn.changed(CONFIG, objective__kind=kind, **settings)
    loaded = drawn.loaded(config, dict.fromkeys(fields, vocabulary), 0.4, mask=kind == "masked_lm", labels=LABELS)
    if kind != "masked_lm":  # no label is likely from the start
        loaded.params["classifier"]["dense"]["bias"] *= 0
    if kind == "classify":  # but that of a text
        mean = np.mean([said_of(Labeller(loaded), LETTERS.encode(text))["scores"] for text in TEXTS], axis=0)
        loaded.params["classifier"]["dense"]["bias"] -= mean
    return Labeller(loaded)


@functools.cache
def shared(kind: str) -> Labeller:
    return labeller(kind)


@functools.cache
def jitted(model):
    return jax.jit(lambda params, batch: model.apply({"params": params}, batch))


def said_of(used: Labeller, *parts: list[int]) -> dict[str, np.ndarray]:
    """All that the model says of begin part end [part end], alone and without padding."""
    ids = [BEGIN, *(token for part in parts for token in [*part, END])]
    types = [0, *(number for number, part in enumerate(parts) for _ in [*part, END])]
    batch = {"source": jnp.asarray([ids]), "token_types": jnp.asarray([types])}
    return {name: np.asarray(array[0]) for name, array in jitted(used.model)(used.params, batch).items()}


# --- labels --------------------------------------------------------------------------------------------------------------

TEXTS = ["a", "bad cafe", "feed a deaf cab.", "abcdefgh" * 3, "", "hhh", "be"]


PAIRS = ["b", "", "cab", "abc" * 4, "a", "hah", "be a cab?"]


@pytest.mark.parametrize("pairs", small.some([None, PAIRS], PAIRS))
def test_labels_are_those_of_each_text_alone(pairs):
    used = shared("classify")
    examples = [{"text": text} for text in TEXTS]
    if pairs:
        examples = [example | {"pair": pair} for example, pair in zip(examples, pairs, strict=True)]
    wanted = []
    for example in examples:
        scores = said_of(used, *(LETTERS.encode(field) for field in example.values()))["scores"]
        wanted.append(LABELS[scores.argmax()])
    assert len(set(wanted)) > 1
    assert used.predict(examples) == wanted and used.notices == []
    assert used.predict(examples[::-1]) == wanted[::-1] and used.predict([]) == []


def test_words_to_tag_have_the_blanks_of_a_byte_level_vocabulary():
    """As in RoBERTa: they are not read as one long word."""
    vocabulary = Tokenizer(folders.byte_bpe(["<s>", "</s>"]).to_str())
    [text] = tagged([{"text": "the cat sat"}], {"text": vocabulary}, ())["text"]
    assert text.tolist() == vocabulary.encode(" the cat sat") != vocabulary.encode("thecatsat")
    made = labeller("tag", vocabulary)
    assert made.batch(["the cat sat"])["source"][0, 1:-1].tolist() == text.tolist()
    assert len(made.predict([{"text": "the cat sat"}])[0].split()) == 3


EXAMPLES = {
    "classify": {"text": "a" * 9, "pair": "ab b" * 5},
    "tag": {"text": "ab a b"},
    "answer": {"question": "ab", "text": "ab b" * 5},
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_is_looked_at_is_what_is_predicted_from(kind, monkeypatch):
    """Of a long pair too; of an answer, the first window."""
    made, seen = labeller(kind, data__max_source_length=12), []

    def forward(params, batch):
        seen.append(batch)
        raise KeyError

    monkeypatch.setattr(made, "_forward", forward)
    with pytest.raises(KeyError):
        made.predict([EXAMPLES[kind]])
    batch, [read] = made.batch(*([each] for each in EXAMPLES[kind].values())), seen
    row = next(
        n for n, ids in enumerate(read["source"]) if ids[: batch["source"].shape[1]].tolist() == batch["source"][0].tolist()
    )
    for name, found in batch.items():
        assert read[name][row, : found.shape[1]].tolist() == found[0].tolist()
    assert batch["source"].shape[1] <= 12


def test_a_long_text_is_cut_and_reported():
    used = shared("classify")
    found = used.predict([{"text": "ab"}, {"text": "a" * 38 + "b" * 20}, {"text": "a" * 38}], first=1)
    assert used.notices == ["1 of 3 texts were cut to 40 tokens (config.data.max_source_length), the first of them number 2"]
    assert found[1] == found[2] == LABELS[said_of(used, LETTERS.encode("a" * 38))["scores"].argmax()]
    used.predict([{"text": "b" * 39}], first=4)  # more lines of the same input
    assert used.notices == ["2 of 4 texts were cut to 40 tokens (config.data.max_source_length), the first of them number 2"]
    used.predict([{"text": "ab"}])
    assert used.notices == []


def test_text_is_preprocessed_like_training_text():
    used = labeller("classify", data__lowercase=True)
    scores = [said_of(used, LETTERS.encode(text))["scores"] for text in ("bad", "BAD")]
    used._forward = lambda params, batch: (batches.append(batch["source"]), jitted(used.model)(params, batch))[1]
    batches: list[np.ndarray] = []
    used.predict([{"text": "  BaD\t"}, {"text": "bad"}])
    assert np.array_equal(batches[0][0], batches[0][1]) and not np.allclose(*scores)
    assert used.attention("BAD")[0].down == ["<s>", *"bad", "</s>"]


# --- tags ----------------------------------------------------------------------------------------------------------------


def plain_tags(used: Labeller, text: str) -> str:
    """The tag of each word's first token; O if the word was cut or has no token."""
    pieces = [used.loaded.vocabularies["text"].encode(word) for word in text.split()]
    kept = sum(pieces, [])[: used.config.data.max_source_length - 2]
    scores = said_of(used, kept)["scores"]
    firsts = np.cumsum([0, *map(len, pieces)])
    tags = [LABELS[scores[1 + n].argmax()] if p and n < len(kept) else "O" for n, p in zip(firsts, pieces, strict=False)]
    return " ".join(tags)


SENTENCES = ["a bad cafe fed  abe .", "h", "", "abe hagg fed a cab . " * 2, "fed"]


def test_tags_are_those_of_each_sentence_alone():
    used = shared("tag")
    wanted = [plain_tags(used, text) for text in SENTENCES]
    assert len({tag for tags in wanted for tag in tags.split()}) > 2
    assert used.predict([{"text": text} for text in SENTENCES]) == wanted and used.notices == []
    assert used.predict([{"text": text, "tags": "?"} for text in SENTENCES]) == wanted  # what is right is not asked for


def test_words_that_were_cut_have_the_tag_o():
    """After the last token comes the end token, whose tag does not belong to a word."""
    used = shared("tag")
    texts = ["a " * count for count in (37, 38, 39, 60)]
    wanted = [plain_tags(used, text) for text in texts]
    assert used.predict([{"text": text} for text in texts]) == wanted
    assert wanted[2].split()[38:] == ["O"] and wanted[3].split()[38:] == ["O"] * 22
    assert LABELS[said_of(used, LETTERS.encode("a") * 38)["scores"][39].argmax()] != "O"  # what the end says
    assert used.notices == ["2 of 4 texts were cut to 40 tokens (config.data.max_source_length), the first of them number 3"]


class Forgetful(Characters):
    """Some words have no token, as in sentencepiece those of characters that it removes."""

    def encode(self, text):
        return [] if text == "fed" else super().encode(text)


def test_a_word_without_a_token_has_a_tag():
    used = labeller("tag", Forgetful("abcdefgh ?."))
    texts = ["a fed cab", "fed", "fed abe"]
    found = used.predict([{"text": text} for text in texts])
    assert found == [plain_tags(used, text) for text in texts]
    assert [tags.split()[place] for tags, place in zip(found, (1, 0, 0), strict=True)] == ["O"] * 3


# --- answers -------------------------------------------------------------------------------------------------------------


def plain_answer(used: Labeller, question: str, text: str) -> str:
    """The best span of at most `LONGEST_ANSWER` tokens in all windows of the text, if it beats the first position of its
    window.

    As in BERT's code for SQuAD: windows fill the space after the question, and move by their length (at most 128)."""
    asked, ids = LETTERS.encode(question), LETTERS.encode(text)
    asked = asked[: min(64, (40 - 3) // 2)]
    room, best, answer = 40 - 3 - len(asked), 0.0, ""
    for start in range(0, max(len(ids) - room, 0) + room, room):
        window = ids[start : start + room]
        scores = said_of(used, asked, window)["scores"]
        for first in range(len(window)):
            for last in range(first, min(first + label.LONGEST_ANSWER, len(window))):
                place = 2 + len(asked)
                score = scores[place + first, 0] + scores[place + last, 1] - scores[0, 0] - scores[0, 1]
                if score > best:
                    best, answer = score, text[start + first : start + last + 1].strip()
    return answer


QUESTIONS = [
    ("who fed abe?", "a cab. gabe fed abe. a deaf hag."),
    ("a?", "abcdefgh"),
    ("h" * 30, "bad cafe " * 9),
    ("b", "the face of a badge faded. " * 4),
    ("what?", ""),
    ("", "cab"),
]


@pytest.mark.parametrize("longest", small.some([30, 2], 2))
def test_answers_are_those_of_each_question_alone(longest, monkeypatch):
    assert label.LONGEST_ANSWER == 30
    monkeypatch.setattr(label, "LONGEST_ANSWER", longest)
    used = shared("answer")
    wanted = [plain_answer(used, *each) for each in QUESTIONS]
    assert sum(map(bool, wanted)) > 2 and (max(map(len, wanted)) > 2) == (longest > 2)
    examples = [{"question": question, "text": text} for question, text in QUESTIONS]
    assert used.predict(examples) == wanted and not used.cuts[0].count  # contexts are read in windows, and none is cut
    assert {cut.what.split()[0]: (cut.count > 0, cut.of) for cut in used.cuts[1:]} == {
        "questions": (True, 6),
        "contexts": (True, 6),
    }
    assert used.predict([example | {"answers": "[]", "start": "0"} for example in examples[::-1]]) == wanted[::-1]


def test_an_answer_below_the_no_answer_score_is_blank():
    used = labeller("answer")
    used._forward = lambda params, batch: {"scores": np.zeros((*batch["source"].shape, 2))}
    assert used.predict([{"question": q, "text": t} for q, t in QUESTIONS]) == [""] * len(QUESTIONS)


# --- masks ---------------------------------------------------------------------------------------------------------------


def plain_fill(used: Labeller, text: str) -> str:
    ids = [token for n, part in enumerate(text.split("<mask>")) for token in [*([MASK] if n else []), *LETTERS.encode(part)]]
    ids = ids[:38]
    logits = said_of(used, ids)["logits"]
    filled = [int(logits[1 + n, : LETTERS.size].argmax()) if token == MASK else token for n, token in enumerate(ids)]
    return "".join(LETTERS.characters[token - 4] for token in filled if token > 3)


MASKED = ["a b<mask>d cafe", "<mask>", "cab <mask> <mask> fed <mask>", "no mask", "", "<mask>" * 5, "a" * 36 + "<mask>b<mask>c"]


def test_masks_are_filled_as_in_each_text_alone():
    used = shared("masked_lm")
    wanted = [plain_fill(used, text) for text in MASKED]
    assert used.predict([{"text": text} for text in MASKED]) == wanted
    assert len(wanted[-1]) <= 38 and used.notices == [
        "1 of 7 texts were cut to 40 tokens (config.data.max_source_length), the first of them number 7"
    ]
    assert used.predict([{"text": text} for text in MASKED[::-1]]) == wanted[::-1]
    assert used.notices[0].endswith("number 1")


def test_a_positions_table_is_long_enough_for_what_was_cut():
    settings = {"model__positions": "learned", "model__positions__size": 40}
    used = labeller("masked_lm", **settings)
    assert used.predict([{"text": "a" * 99 + "<mask>"}, {"text": "<mask>"}]) == ["a" * 38, plain_fill(used, "<mask>")]
    for more in (None, "b" * 99):
        [found] = used.attention("a" * 30, more) if more else used.attention("a" * 99)
        assert len(found.down) == 40 and np.isfinite(found.weights_LxHxTxS).all() and len(used.notices) == 1


# --- lines, attention ----------------------------------------------------------------------------------------------------


def test_lines_are_examples():
    assert shared("classify").parse("a b") == {"text": "a b"}
    assert shared("classify").parse("a b\tc") == {"text": "a b", "pair": "c"}
    assert shared("answer").parse("who?\ta b") == {"question": "who?", "text": "a b"}
    assert shared("tag").parse("") == shared("masked_lm").parse("") == {"text": ""}


@pytest.mark.parametrize(
    ("kind", "line", "error"),
    [
        ("classify", "a\tb\tc", "line 7 has 3 fields separated by tabs: give text TAB pair"),
        ("answer", "a", "line 7 has 1 field separated by tabs: give question TAB text"),
        ("answer", "a\tb\tc", "line 7 has 3 fields separated by tabs: give question TAB text"),
        ("tag", "a\tb", "line 7 has 2 fields separated by tabs: give text"),
        ("masked_lm", "a\tb", "line 7 has 2 fields separated by tabs: give text"),
    ],
)
def test_malformed_lines(kind, line, error):
    with pytest.raises(UserError, match=f"^{error}$"):
        shared(kind).parse(line, 7)


def test_all_lines_have_a_pair_or_none_has():
    with pytest.raises(
        UserError, match="line 12 has the fields text; line 11 has the fields text, pair: give all lines the same fields"
    ):
        shared("classify").predict([{"text": "a", "pair": "b"}, {"text": "a"}], first=11)
    with pytest.raises(
        UserError, match="line 2 has the fields text, pair; line 1 has the fields text: give all lines the same fields"
    ):
        shared("classify").predict([{"text": "a"}, {"text": "a", "pair": "b"}])


def test_attention_has_the_tokens_that_are_read():
    [found] = shared("classify").attention("bad cab", "be")
    assert found.across == found.down == ["<s>", *"bad", "␣", *"cab", "</s>", "b", "e", "</s>"]
    assert found.weights_LxHxTxS.shape == (2, 2, 12, 12) and shared("classify").notices == []
    np.testing.assert_allclose(found.weights_LxHxTxS.sum(axis=-1), 1, atol=1e-5)
    [found] = shared("masked_lm").attention("b<mask>d")
    assert found.down == ["<s>", "b", "<mask>", "d", "</s>"]
    assert shared("tag").attention("a<mask>")[0].down[:2] == ["<s>", "a"]
