"""Properties of all objectives: features have the declared types and lengths and are pure in (seed, example,
epoch); helpers."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.config import Data
from transformer.data import objectives, pipeline
from transformer.data.corpus import Ragged
from transformer.data.objectives import Objective, base
from transformer.errors import UserError

SOME = settings(max_examples=25, derandomize=True, deadline=None, database=None)
VOCABULARY = 120
TOKENS = st.lists(st.integers(4, 99), max_size=40)
STARTS = np.arange(VOCABULARY) % 3 == 0
LABELS = st.integers(-1, 3)

# name -> limits -> the objective, its fields, and whether it draws
TEXT, PAIRS = ("text",), ("source", "target")
OBJECTIVES = {
    "translate": (lambda s, t: objectives.Translate(s, t), PAIRS, False),
    "translate_begin": (lambda s, t: objectives.Translate(s, t, begin=3), PAIRS, False),
    "causal_lm": (lambda s, t: objectives.CausalLM(t), TEXT, True),
    "causal_lm_cross": (lambda s, t: objectives.CausalLM(t, cross_documents=True), TEXT, True),
    "causal_lm_evaluated": (lambda s, t: objectives.CausalLM(t, shift=False), TEXT, False),
    "prefix_lm": (lambda s, t: objectives.PrefixLM(t), TEXT, True),
    "encoded_prefix_lm": (lambda s, t: objectives.EncodedPrefixLM(s, t), TEXT, False),
    "decoder_only_translate": (lambda s, t: objectives.DecoderOnlyTranslate(t), PAIRS, False),
    "masked_lm": (lambda s, t: objectives.MaskedLM(s, 1, 2, 3, 4, 100), TEXT, True),
    "masked_lm_words": (lambda s, t: objectives.MaskedLM(s, 1, 2, 3, 4, 100, starts_word=STARTS), TEXT, True),
    "masked_lm_next": (lambda s, t: objectives.MaskedLM(s, 1, 2, 3, 4, 100, next_sentence=True), TEXT, True),
    "span_corruption": (lambda s, t: objectives.SpanCorruption(s, t, 20, VOCABULARY - 1), TEXT, True),
    "span_corruption_few": (lambda s, t: objectives.SpanCorruption(s, t, 2, VOCABULARY - 1, rate=0.5), TEXT, True),
    "denoise": (lambda s, t: objectives.Denoise(s, t, 3, begin=1, ends_sentence=STARTS, delete_rate=0.1), TEXT, True),
    "denoise_infill": (lambda s, t: objectives.Denoise(s, t, 3, span_length=1.0), TEXT, True),
    "classify": (lambda s, t: objectives.Classify(s, 1, 2), ("text", "label"), False),
    "classify_pair": (lambda s, t: objectives.Classify(s, 1, 2), ("text", "pair", "label"), False),
    "tag": (lambda s, t: objectives.Tag(s, 1, 2), ("text", "tags"), False),
    "answer": (lambda s, t: objectives.Answer(s, 1, 2, stride=4, max_question=6), ("question", "text", "span"), False),
}
UPPER_BOUNDS = {"masked_lm_next", "denoise", "denoise_infill"}  # of the others the declared lengths are exact
every = pytest.mark.parametrize("name", OBJECTIVES)


def corpus_of(fields, draw) -> dict[str, Ragged]:
    size = draw(st.integers(2, 4))
    rows = {field: [[5, 6, *draw(TOKENS)] for _ in range(size)] for field in fields}
    if "label" in fields:
        rows["label"] = [[draw(LABELS)] for _ in range(size)]
    if "tags" in fields:
        rows["tags"] = [[draw(LABELS) for _ in text] for text in rows["text"]]
    if "span" in fields:
        rows["span"] = [sorted(draw(st.integers(0, len(text) - 1)) for _ in range(2)) for text in rows["text"]]
    return {field: Ragged.of(each) for field, each in rows.items()}


def sizes(objective: Objective, features) -> list[int]:
    """The length of each sequence, which all its features must have."""
    found = [{len(features[name]) for name in sequence.features} for sequence in objective.sequences]
    assert all(len(each) == 1 for each in found)
    return [each.pop() for each in found]


@every
@SOME
@given(st.data(), st.integers(5, 30), st.integers(3, 30))
def test_features_have_the_declared_kinds_and_no_more_than_the_declared_lengths(name, data, longest_source, longest_target):
    make, fields, _ = OBJECTIVES[name]
    objective = make(longest_source, longest_target)
    corpus = objective.chunk_documents(corpus_of(fields, data.draw))
    lengths_NxA, limits = objective.lengths(corpus), objective.limits
    assert lengths_NxA.dtype == np.int64 and lengths_NxA.shape[1] == len(objective.sequences) == len(limits)
    if "lm" in name or "span" in name or "denoise" in name:
        assert (lengths_NxA <= limits).all()  # documents are cut, so that nothing is dropped
    for index in range(len(lengths_NxA)):
        for epoch in (0, 3):
            features = objective.features(corpus, index, epoch)
            found = sizes(objective, features)
            assert all(found <= np.minimum(lengths_NxA[index], limits))
            kinds = {feature: np.dtype(kind) for sequence in objective.sequences for feature, kind in sequence.features.items()}
            assert {feature: values.dtype for feature, values in features.items()} == kinds
            if name not in UPPER_BOUNDS:
                assert found == np.minimum(lengths_NxA[index], limits).tolist()


@every
@SOME
@given(st.data())
def test_a_batch_is_its_examples_one_by_one(name, data):
    make, fields, _ = OBJECTIVES[name]
    objective = make(12, 9)
    corpus = objective.chunk_documents(corpus_of(fields, data.draw))
    size = len(objective.lengths(corpus))
    index_N = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=6)), np.int64)
    epoch_N = np.arange(len(index_N)) // 2
    batch = objective.features_batch(corpus, index_N, epoch_N)
    for row in range(len(index_N)):
        alone = objective.features(corpus, int(index_N[row]), int(epoch_N[row]))
        assert {n: rows[row].tolist() for n, rows in batch.items()} == {n: v.tolist() for n, v in alone.items()}
    for sequence in objective.sequences:
        assert {n: batch[n].values.dtype for n in sequence.features} == {n: np.dtype(k) for n, k in sequence.features.items()}


@every
def test_features_are_pure_and_differ_by_seed_epoch_and_example(name):
    make, fields, draws = OBJECTIVES[name]
    rows = {"label": [[1]] * 2, "span": [[3, 4]] * 2}
    text = np.arange(4000) % 90 + 4
    corpus = {field: Ragged.of(rows.get(field, [text[:2000], text[:2000]])) for field in fields}
    blocks = make(64, 64).chunk_documents(corpus)
    size = len(make(64, 64).lengths(blocks))

    def drawn(index: int, epoch: int, seed: int = 0) -> str:
        objective = dataclasses.replace(make(64, 64), seed=seed) if draws else make(64, 64)
        return str({n: v.tolist() for n, v in objective.features(objective.chunk_documents(corpus), index, epoch).items()})

    middle = size // 4  # of the first document
    assert drawn(middle, 0) == drawn(middle, 0)
    if not draws:
        assert drawn(middle, 0) == drawn(middle, 1)
        return
    assert len({drawn(middle, epoch) for epoch in range(4)}) > 1
    assert len({drawn(middle, 0, seed) for seed in range(4)}) > 1
    if "causal" not in name:  # one shift for all
        uniform = {**blocks, "text": Ragged(np.full(4002, 50, np.int32), blocks["text"].offsets)}
        assert len({str(make(64, 64).features(uniform, index, 0)) for index in range(4)}) > 1


@every
@pytest.mark.parametrize("batching", ["packed", "bucketed"])
def test_batches_hold_every_example(name, batching):
    make, fields, _ = OBJECTIVES[name]
    objective, generator = make(24, 24), np.random.default_rng(0)
    rows = {field: [generator.integers(4, 100, generator.integers(2, 60)) for _ in range(12)] for field in fields}
    special = {"label": [[1]] * 12, "span": [[0, 1]] * 12}
    corpus = {field: Ragged.of(special.get(field, each)) for field, each in rows.items()}
    if "tags" in fields:
        corpus["tags"] = Ragged(corpus["text"].values % 3, corpus["text"].offsets)
    batches, _ = pipeline.plan(corpus, objective, Data(batching=batching), 200, 1, 0, False)  # type: ignore[arg-type]
    corpus = batches.corpus
    counts = [pipeline.count(batch, objective) for batch in batches]
    assert sum(count["examples"] for count in counts) == len(objective.lengths(corpus))
    if name not in UPPER_BOUNDS:
        declared = np.minimum(objective.lengths(corpus), objective.limits).sum()
        assert sum(count["filled"] for count in counts) == declared


def test_random_streams_differ_from_each_other_and_from_the_pipelines():
    streams = [base.SHIFT, base.SPLIT, base.MASK, base.SPANS, base.NOISE, 0, 1, pipeline.ORDER, pipeline.COMPANY]
    assert len(set(streams)) == len(streams)
    drawn = {base.draw(seed, stream, 5, 6).integers(2**62) for seed in (0, 1) for stream in streams}
    assert len(drawn) == 2 * len(streams)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: objectives.MaskedLM(4, 1, 2, 3, 4, 9), "config.data.max_source_length is 4"),
        (lambda: objectives.SpanCorruption(2, 9, 9, 99), "config.data.max_source_length is 2"),
        (lambda: objectives.SpanCorruption(9, 2, 9, 99), "config.data.max_target_length is 2"),
        (lambda: objectives.SpanCorruption(9, 9, 0, 99), "no sentinels"),
        (lambda: objectives.Denoise(2, 9, 3), "config.data.max_source_length is 2"),
        (lambda: objectives.Classify(4, 1, 2), "config.data.max_source_length is 4"),
        (lambda: objectives.Tag(2, 1, 2), "config.data.max_source_length is 2"),
        (lambda: objectives.Answer(4, 1, 2), "config.data.max_source_length is 4"),
        (lambda: objectives.PrefixLM(1), "config.data.max_target_length is 1"),
        (lambda: objectives.EncodedPrefixLM(2, 1), "config.data.max_target_length is 1"),
    ],
)
def test_a_limit_without_space_for_text_is_an_error(make, setting):
    with pytest.raises(UserError, match=setting):
        make()


# --- helpers -----------------------------------------------------------------------------------------------------------

DOCUMENTS = st.lists(st.lists(st.integers(4, 99), max_size=25), min_size=1, max_size=6)


@SOME
@given(DOCUMENTS, st.integers(1, 9), st.booleans())
def test_documents_are_cut_to_full_or_even_chunks(documents, window, even):
    tokens = Ragged.of(documents)
    chunks = base.cut(tokens, window, even)
    assert chunks["text"].values is tokens.values
    for number, document in enumerate(documents):
        mine = [i for i in range(len(chunks["text"])) if chunks["document"][i].tolist() == [number]]
        pieces = [chunks["text"][i].tolist() for i in mine]
        assert sum(pieces, []) == document and len(pieces) == -(-len(document) // window)
        lengths = [len(piece) for piece in pieces]
        assert all(length <= window for length in lengths)
        assert not lengths or (max(lengths) - min(lengths) <= 1 if even else set(lengths[:-1]) <= {window})
    assert len(chunks["text"]) == len(chunks["document"])


@SOME
@given(DOCUMENTS)
def test_every_document_is_ended(documents):
    ended = base.with_end(Ragged.of(documents), 2)
    assert [ended[i].tolist() for i in range(len(ended))] == [[*document, 2] for document in documents]
    assert ended.values.dtype == np.int32


@SOME
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_the_longer_of_two_lengths_is_cut(first, second, room):
    kept = [first, second]
    while sum(kept) > room:  # token by token, from the longer; the second if they are alike
        kept[1 if kept[1] >= kept[0] else 0] -= 1
    found = base.truncate_pair(first, second, room)
    assert sum(found) == sum(kept) and abs(found[0] - kept[0]) <= 1
    assert 0 <= found[0] <= first and 0 <= found[1] <= second
