"""Language models: targets are the documents and their ends, predicted from the previous tokens; shifts of
windows; prefixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.corpus import Ragged
from transformer.data.objectives import CausalLM, DecoderOnlyTranslate, EncodedPrefixLM, PrefixLM

START, END = 1, 2
SOME = settings(max_examples=50, derandomize=True, deadline=None, database=None)
DOCUMENTS = st.lists(st.lists(st.integers(4, 99), max_size=25), min_size=1, max_size=6)


def rows(objective, corpus, epoch: int = 0) -> list[dict[str, list]]:
    every = range(len(objective.lengths(corpus)))
    return [{n: v.tolist() for n, v in objective.features(corpus, index, epoch).items()} for index in every]


@SOME
@given(DOCUMENTS, st.integers(1, 9), st.booleans())
def test_each_token_and_end_is_predicted_once_from_the_previous_token(documents, block, cross):
    objective = CausalLM(block, START, END, cross_documents=cross, shift=False)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    streams = [[*document, END] for document in documents]
    streams = [sum(streams, [])] if cross else streams
    found = rows(objective, corpus)
    assert sum((row["targets"] for row in found), []) == sum(streams, [])
    assert sum((row["inputs"] for row in found), []) == sum(([START, *stream[:-1]] for stream in streams), [])
    assert len(found) == sum(-(-len(stream) // block) for stream in streams)
    assert all(row["weights"] == [1.0] * len(row["inputs"]) for row in found)
    assert all(found == rows(objective, corpus, epoch) for epoch in (1, 2))


@SOME
@given(st.lists(st.integers(0, 25), min_size=1, max_size=4), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_a_shift_moves_all_chunks_but_first_and_last_of_a_document(lengths, block, cross, epoch):
    values = np.arange(10, 10 + sum(lengths), dtype=np.int32)  # a token is known by its number
    text = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))
    objective = CausalLM(block, START, END, seed=3, cross_documents=cross)
    corpus = objective.chunk_documents({"text": text})
    plain, moved = rows(CausalLM(block, START, END, cross_documents=cross, shift=False), corpus), rows(objective, corpus, epoch)
    streams = [[*text[i].tolist(), END] for i in range(len(text))]
    streams = [sum(streams, [])] if cross else streams
    shifts, row = set(), 0
    for stream in streams:
        chunks = -(-len(stream) // block)
        for number in range(chunks):
            found, still = moved[row], plain[row]
            row += 1
            assert len(found["targets"]) == len(still["targets"]) == len(found["weights"])
            if number in (0, chunks - 1):
                assert found == still
            else:
                starts = [s for s in range(block) if stream[number * block - s : (number + 1) * block - s] == found["targets"]]
                shifts = shifts & set(starts) if shifts else set(starts)
                assert any(stream[number * block - s - 1 : (number + 1) * block - s - 1] == found["inputs"] for s in starts)
                assert shifts  # one for all
    assert row == len(moved)


def test_shifts_over_epochs_take_all_values_and_cover_all_tokens():
    block = 4
    objective = CausalLM(block, START, END, seed=7)
    corpus = objective.chunk_documents({"text": Ragged.of([np.arange(10, 31)])})
    found = [rows(objective, corpus, epoch) for epoch in range(60)]
    second = {epoch_rows[1]["targets"][0] - 10 for epoch_rows in found}
    assert second == {1, 2, 3, 4}
    for epoch_rows in found:
        predicted = sum((row["targets"] for row in epoch_rows), [])
        shift = 14 - epoch_rows[1]["targets"][0]
        assert len(predicted) == 22 and len(set(predicted)) == 22 - shift
    assert {token for epoch_rows in found for row in epoch_rows for token in row["targets"]} == {*range(10, 31), END}


def test_shifts_depend_on_the_seed():
    text = {"text": Ragged.of([np.arange(10, 200)])}

    def shifts(seed):
        objective = CausalLM(16, START, END, seed=seed)
        corpus = objective.chunk_documents(text)
        return [objective.features(corpus, 1, epoch)["targets"][0] for epoch in range(20)]

    assert shifts(0) == shifts(0) != shifts(1)
    assert len(set(shifts(0))) > 8


@SOME
@given(st.lists(st.integers(4, 99), max_size=12), st.lists(st.integers(4, 99), max_size=12))
def test_a_pair_has_inputs_source_start_target_and_predicts_target_end(source, target):
    objective = DecoderOnlyTranslate(40, START, END)
    corpus = objective.chunk_documents({"source": Ragged.of([source]), "target": Ragged.of([target])})
    assert objective.lengths(corpus).tolist() == [[len(source) + len(target) + 1]]
    (found,) = rows(objective, corpus)
    assert found["inputs"] == [*source, START, *target]
    assert found["prefix"] == [1] * (len(source) + 1) + [0] * len(target)
    assert found["weights"] == [0.0] * len(source) + [1.0] * (len(target) + 1)
    assert found["targets"][len(source) :] == [*target, END]


@pytest.mark.parametrize(
    ("source", "target", "inputs", "predicted"),
    [
        (9, 2, [10, 11, 12, START, 30, 31], [30, 31, END]),  # the source gives way
        (2, 9, [10, 11, START, 30, 31, 32], [30, 31, 32, 33]),  # the target does, and claims no end
        (9, 9, [10, 11, 12, START, 30, 31], [30, 31, 32]),
    ],
)
def test_of_a_pair_that_is_too_long_the_longer_is_cut(source, target, inputs, predicted):
    corpus = {"source": Ragged.of([range(10, 10 + source)]), "target": Ragged.of([range(30, 30 + target)])}
    (found,) = rows(DecoderOnlyTranslate(6, START, END), corpus)
    assert found["inputs"] == inputs
    assert [t for t, w in zip(found["targets"], found["weights"], strict=True) if w] == predicted


@SOME
@given(DOCUMENTS, st.integers(2, 9), st.integers(0, 9))
def test_a_chunk_is_split_into_prefix_and_target(documents, block, epoch):
    objective = PrefixLM(block, START, END)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    restored = []
    for row in rows(objective, corpus, epoch):
        split = row["inputs"].index(START)
        assert row["prefix"] == [1] * (split + 1) + [0] * (len(row["inputs"]) - split - 1)
        assert row["weights"] == [0.0] * split + [1.0] * (len(row["inputs"]) - split)
        assert row["inputs"][split + 1 :] == row["targets"][split:-1]
        assert len(row["inputs"]) == 1 or split >= 1
        restored += row["inputs"][:split] + row["targets"][split:]
    assert restored == sum(([*document, END] for document in documents), [])


def test_all_splits_occur():
    objective = PrefixLM(6, START, END)
    corpus = objective.chunk_documents({"text": Ragged.of([[9] * 5])})
    found = {sum(objective.features(corpus, 0, epoch)["prefix"]) - 1 for epoch in range(80)}
    assert found == {1, 2, 3, 4, 5}


@SOME
@given(DOCUMENTS, st.integers(2, 9), st.integers(2, 9), st.sampled_from([None, 3]))
def test_the_encoder_reads_the_first_part_and_the_decoder_predicts_the_rest(documents, longest_source, longest_target, begin):
    objective = EncodedPrefixLM(longest_source + (begin is not None), longest_target, START, END, begin)
    corpus = objective.chunk_documents({"text": Ragged.of(documents)})
    restored = []
    for row in rows(objective, corpus):
        assert row["source"][:-1][:1] == [begin] if begin else START not in row["source"]
        assert (row["source"][-1], row["targets"][-1], row["inputs"]) == (END, END, [START, *row["targets"][:-1]])
        assert len(row["targets"]) > 1 and (len(row["targets"]) == 2 or len(row["source"]) > 1 + (begin is not None))
        restored += row["source"][begin is not None : -1] + row["targets"][:-1]
    assert restored == sum(documents, [])


def test_splits_of_an_encoders_text_are_spread_evenly():
    corpus = EncodedPrefixLM(20, 20).chunk_documents({"text": Ragged.of([[9] * 5] * 4000)})
    counts = np.bincount(corpus["source"].lengths, minlength=5)
    assert counts[0] == 0 and (abs(counts[1:] - 1000) < 120).all()  # 4 standard deviations
