"""Labels of texts, tokens and spans: the encoder's input, the positions of labels, and windows of long contexts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.corpus import Ragged
from transformer.data.objectives import LABEL, READER, SPAN, TAGGER, Answer, Classify, Tag

BEGIN, END = 1, 2
SOME = settings(max_examples=60, derandomize=True, deadline=None, database=None)
TOKENS = st.lists(st.integers(4, 99), max_size=12)


def plain(features) -> dict[str, list]:
    return {name: values.tolist() for name, values in features.items()}


def of(**rows) -> dict[str, Ragged]:
    return {field: Ragged.of([row]) for field, row in rows.items()}


# --- of a text ---------------------------------------------------------------------------------------------------------


@SOME
@given(TOKENS, st.integers(0, 9), st.integers(5, 16))
def test_a_text_is_read_between_begin_and_end_and_has_a_label(text, label, limit):
    objective, corpus = Classify(limit, BEGIN, END), of(text=text, label=[label])
    assert objective.lengths(corpus).tolist() == [[1, len(text) + 2]] and objective.limits == (1, limit)
    source = [BEGIN, *text[: limit - 2], END]
    want = {"label": [label], "weights": [1.0], "source": source, "token_types": [0] * len(source)}
    assert plain(objective.features(corpus, 0, 0)) == want


@SOME
@given(TOKENS, TOKENS, st.integers(5, 30))
def test_a_pair_has_two_types_and_the_longer_is_cut(text, pair, limit):
    objective, corpus = Classify(limit, BEGIN, END), of(text=text, pair=pair, label=[1])
    assert objective.lengths(corpus).tolist() == [[1, len(text) + len(pair) + 3]]
    found = plain(objective.features(corpus, 0, 0))
    first = len(found["token_types"]) - sum(found["token_types"])
    assert found["token_types"] == [0] * first + [1] * (len(found["source"]) - first)
    a, b = found["source"][1 : first - 1], found["source"][first:-1]
    assert found["source"] == [BEGIN, *a, END, *b, END]
    assert a == text[: len(a)] and b == pair[: len(b)]
    assert len(a) + len(b) == min(len(text) + len(pair), limit - 3)
    assert len(a) == len(text) or len(a) >= len(b) - 1
    assert len(b) == len(pair) or len(b) >= len(a) - 1


@pytest.mark.parametrize("label", [{}, {"label": []}, {"label": [-1]}])
def test_a_text_without_a_label_has_weight_0(label):
    found = plain(Classify(9, BEGIN, END).features(of(text=[7], **label), 0, 0))
    assert found["label"] == [0] and found["weights"] == [0.0] and found["source"] == [BEGIN, 7, END]


def test_labels_are_a_separate_sequence_before_the_text():
    assert Classify.sequences == (LABEL, READER) and Answer.sequences == (SPAN, READER) and Tag.sequences == (TAGGER,)
    for sequence in (LABEL, SPAN):
        mine = {*sequence.features, sequence.positions, sequence.segments}
        assert not mine & {*READER.features, READER.positions, READER.segments}


# --- of tokens ---------------------------------------------------------------------------------------------------------


@SOME
@given(st.lists(st.tuples(st.integers(4, 99), st.integers(-1, 5)), max_size=12), st.integers(3, 16))
def test_tags_are_aligned_with_their_tokens(pairs, limit):
    objective = Tag(limit, BEGIN, END)
    corpus = of(text=[t for t, _ in pairs], tags=[tag for _, tag in pairs])
    assert objective.lengths(corpus).tolist() == [[len(pairs) + 2]] and objective.limits == (limit,)
    kept = pairs[: limit - 2]
    assert plain(objective.features(corpus, 0, 0)) == {
        "source": [BEGIN, *(token for token, _ in kept), END],
        "token_types": [0] * (len(kept) + 2),
        "targets": [0, *(max(tag, 0) for _, tag in kept), 0],
        "weights": [0.0, *(float(tag >= 0) for _, tag in kept), 0.0],
    }


def test_text_without_tags_has_weight_0():
    found = plain(Tag(9, BEGIN, END).features(of(text=[7, 8]), 0, 0))
    assert found["weights"] == [0.0] * 4 and found["source"] == [BEGIN, 7, 8, END]


@pytest.mark.parametrize("tags", [[1], [1, 1, 1]])
def test_tags_that_are_not_one_a_token_are_a_bug(tags):
    with pytest.raises(ValueError, match=f"2 tokens and {len(tags)} tags"):
        Tag(9, BEGIN, END).features(of(text=[7, 8], tags=tags), 0, 0)


# --- of spans ----------------------------------------------------------------------------------------------------------


@SOME
@given(TOKENS, st.lists(st.integers(4, 99), min_size=1, max_size=30), st.integers(6, 40), st.integers(1, 9), st.data())
def test_windows_cover_the_context_and_point_at_the_answer_in_them(question, text, limit, stride, data):
    text = [token + 100 * place for place, token in enumerate(text)]  # a token is known by its place
    first = data.draw(st.integers(0, len(text) - 1))
    last = data.draw(st.integers(first, len(text) - 1))
    objective = Answer(limit, BEGIN, END, stride=stride, max_question=5)
    corpus = objective.chunk_documents(of(question=question, text=text, span=[first, last]))
    asked = question[: min(5, (limit - 3) // 2)]
    room = limit - 3 - len(asked)
    starts = [0]
    while starts[-1] + room < len(text):
        starts.append(starts[-1] + min(stride, room))
    lengths = objective.lengths(corpus)
    assert len(lengths) == len(starts)
    for index, start in enumerate(starts):
        window = text[start : start + room]
        source = [BEGIN, *asked, END, *window, END]
        found = plain(objective.features(corpus, index, 0))
        assert found["source"] == source and lengths[index].tolist() == [1, len(source)]
        assert found["token_types"] == [0] * (len(asked) + 2) + [1] * (len(window) + 1)
        assert found["weights"] == [1.0] and objective.limits == (1, limit)
        if start <= first and last < start + len(window):
            assert source[found["first"][0] : found["last"][0] + 1] == text[first : last + 1]
        else:
            assert (found["first"], found["last"]) == ([0], [0])


def test_special_tokens_may_stand_between_question_and_context():
    """As in RoBERTa: begin question end end context end."""
    objective = Answer(12, BEGIN, END, between=(END,))
    corpus = objective.chunk_documents(of(question=[5, 6], text=[11, 12, 13, 14, 15, 16], span=[2, 3]))
    found = plain(objective.features(corpus, 0, 0))
    assert found["source"] == [BEGIN, 5, 6, END, END, 11, 12, 13, 14, 15, 16, END]
    assert found["source"][found["first"][0] : found["last"][0] + 1] == [13, 14]
    assert objective.lengths(corpus).tolist() == [[1, 12]]
    assert len(Answer(11, BEGIN, END, between=(END,)).chunk_documents(corpus)["window"].lengths) == 2


def test_windows_name_their_example():
    objective = Answer(10, BEGIN, END, stride=3)
    corpus = objective.chunk_documents(
        {
            "question": Ragged.of([[5], [6, 7], [8]]),
            "text": Ragged.of([range(10, 20), [], [30]]),
            "span": Ragged.of([[9, 9], [], [0, 0]]),
        }
    )
    windows = [corpus["window"][i].tolist() for i in range(len(corpus["window"]))]
    assert windows == [[0, 0, 6], [0, 3, 6], [0, 6, 4], [1, 0, 0], [2, 0, 1]]
    rows = [plain(objective.features(corpus, i, 0)) for i in range(5)]
    assert [row["first"][0] for row in rows] == [0, 0, 1 + 1 + 1 + 3, 0, 3]
    assert rows[3] == {"first": [0], "last": [0], "weights": [1.0], "source": [1, 6, 7, 2, 2], "token_types": [0, 0, 0, 0, 1]}


def test_a_question_without_a_known_answer_has_weight_0():
    objective = Answer(10, BEGIN, END)
    found = plain(objective.features(objective.chunk_documents(of(question=[5], text=[7, 8])), 0, 0))
    assert found["weights"] == [0.0] and found["first"] == found["last"] == [0]
