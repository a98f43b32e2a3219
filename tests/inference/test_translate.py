"""Translation of texts with an encoder-decoder and a prefix LM: outputs do not depend on the batch."""

import functools
import random

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trained
from trained import translator

from transformer.config import Recurrent
from transformer.data.corpus import Ragged
from transformer.data.tokenizers.vocabulary import Characters
from transformer.errors import UserError
from transformer.inference import predict
from transformer.inference.loading import pad
from transformer.inference.search import Hypotheses
from transformer.inference.translate import CHUNK, Output, Translator
from transformer.runtime.workdir import Workdir

SENTENCES = ["".join(random.Random(n).choices("abcdef", k=1 + 5 * n % 23)) for n in range(9)]


# --- company -----------------------------------------------------------------------------------------------------------


@functools.cache
def alone(beam: int) -> list[Output]:
    return [next(translator(beam).translate([sentence]))[0] for sentence in SENTENCES]


@pytest.mark.parametrize(("beam", "size", "order"), [(1, 4, 1), (2, 4, 2), (2, 3, 3)])
def test_outputs_do_not_depend_on_the_batch(beam, size, order):
    """Lengths 1 to 23 share batches and two compiled lengths; batches have any order and any size."""
    places = [n for n, sentence in enumerate(SENTENCES) if size == 4 or len(sentence) < 16]  # one more to compile, not two
    random.Random(order).shuffle(places)
    found = list(translator(beam, size).translate(SENTENCES[place] for place in places))
    assert len({output.text for output in alone(beam)}) > 5, "the test says nothing of a model that says one thing"
    for place, outputs in zip(places, found, strict=True):
        want = alone(beam)[place]
        assert outputs[0].score == pytest.approx(want.score, abs=1e-5)
        if outputs[0].text != want.text:  # it must be a tie
            assert score(translator(beam, size), SENTENCES[place], outputs[0].text) == pytest.approx(want.score, abs=1e-4)


def score(used: Translator, source: str, target: str) -> float:
    """log P / ((5 + n) / 6)^alpha for n tokens (Wu et al. 2016, equation 14) including the end, from the whole model."""
    logits = used.logits([source], [target])[0].astype(np.float64)
    limit = len(source) + 1 + used.config.search.max_extra
    labels = [*used.target_vocabulary.encode(target), used.data_info.end][:limit]
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log_probs[np.arange(len(labels)), labels].sum() / ((5 + len(labels)) / 6) ** used.config.search.length_penalty


def naive(used: Translator, sources: list[str], limits: list[int], exact: bool = False) -> list[str]:
    """Greedy search with the whole model at each step, without cache. `exact`: the end is never chosen."""
    tokens, segments = pad([[*used.source_vocabulary.encode(s), used.data_info.end] for s in sources], 20)
    apply = jax.jit(used.model.apply)
    output_ids: list[list[int]] = [[] for _ in sources]
    for n in range(max(limits)):
        inputs, _ = pad(
            [[used.data_info.start, *ids][: max(limits)] for ids in output_ids], max(limits)
        )  # later inputs are not seen
        logits = apply({"params": used.params}, {"source": tokens, "source_segments": segments, "inputs": inputs})
        for ids, limit, row in zip(output_ids, limits, logits, strict=True):
            if len(ids) < limit and used.data_info.end not in ids:
                ids.append(int((row[n].at[used.data_info.end].set(-jnp.inf) if exact else row[n]).argmax()))
    return [used.target_vocabulary.decode([i for i in ids if i != used.data_info.end]) for ids in output_ids]


def test_greedy_takes_the_most_probable_token_at_each_step():
    sources = SENTENCES[:4]
    assert [output.text for output in alone(1)[:4]] == naive(translator(1), sources, [len(s) + 1 + 5 for s in sources])


def test_outputs_of_a_given_length():
    """Shorter and longer than the model's own output; the end is not part of the output."""
    used, sources = translator(1), SENTENCES[:4]
    output_ids = [len(output.text) for output in alone(1)[:4]]
    lengths = [output_ids[0] - 2 if output_ids[0] > 2 else output_ids[0] + 1, output_ids[1] + 3, output_ids[2], 0]
    pairs = [(source, "A" * length) for source, length in zip(sources, lengths, strict=True)]
    assert lengths[0] != output_ids[0] and max(lengths) < 20
    found = [outputs[0].text for outputs in used.translate_to_length(pairs)]
    assert found == naive(used, sources, lengths, exact=True) and list(map(len, found)) == lengths
    better = translator(2).translate_to_length(pairs[:3])
    assert [len(outputs[0].text) for outputs in better] == lengths[:3]


def test_no_sentence_no_output():
    assert list(translator().translate([])) == []
    assert [outputs[0].text for outputs in translator().translate(["", "  "])] == ["", ""]


def test_n_best_are_the_best_first():
    used = predict.load(trained.run().workdir, {"search.n_best": "2"})
    for sentence, outputs in zip([*SENTENCES[:3], ""], used.translate([*SENTENCES[:3], ""]), strict=True):
        assert len(outputs) == 2
        if sentence:
            first, second = outputs
            assert first.text == next(translator().translate([sentence]))[0].text
            assert first.score >= second.score and first.text != second.text
        else:
            assert [output.text for output in outputs] == ["", ""]


@pytest.mark.parametrize("beam", [1, 2])
def test_scores_are_log_probabilities_by_length(beam):
    for sentence, output in list(zip(SENTENCES, alone(beam), strict=True))[1:4]:
        assert output.score == pytest.approx(score(translator(beam), sentence, output.text), abs=1e-4)


@pytest.mark.parametrize("beam", [1, 2])
def test_without_scores_the_texts_are_the_same(beam):
    unscored = [outputs[0] for outputs in translator(beam).translate(["", *SENTENCES], scored=False)]
    assert [output.text for output in unscored] == ["", *(output.text for output in alone(beam))]
    assert {output.score for output in unscored} == {None}


# --- shapes, limits ----------------------------------------------------------------------------------------------------


def small(**settings) -> Translator:
    """An untrained model with large drawn parameters, so that outputs differ."""
    letters = Characters("abcdef")
    config = drawn.changed(Workdir(trained.run().workdir).config(), **settings)
    return Translator(drawn.loaded(config, {"source": letters, "target": letters}))


def stub(used: Translator) -> list[tuple]:
    """Replaces the search by one that records its sources and finds nothing."""
    calls = []

    def search(params, sources, exact, scored):
        calls.append(sources)
        return [(n, Hypotheses(np.zeros((1, 1), int), np.zeros(1, int), np.zeros(1), np.zeros(1))) for n in range(len(sources))]

    used._search = search
    return calls


@pytest.mark.parametrize("forced", [False, True])
def test_an_end_that_is_forced_at_the_limit_counts_as_the_limit(forced):
    used = small(search__force_end=forced, search__max_length=5)
    end = used.data_info.end

    def search(params, sources, exact, scored):
        assert [used.limit(len(source)) for source in sources] == [4, 4]
        for n, tokens in enumerate(([4, 5, end, 0], [4, 5, 4, end])):
            length = np.array([tokens.index(end) + 1])
            yield n, Hypotheses(np.array([tokens]), length, np.zeros(1), np.zeros(1))

    used._search = search
    assert [outputs[0].ended for outputs in used.translate(["ab", "abc"])] == [True, not forced]
    [cut] = [cut for cut in used.cuts if "limit on their length" in cut.what]
    assert (cut.count, cut.of) == (int(forced), 2)


def test_memory_does_not_grow_with_the_text():
    """Lines are read when they are needed, at most one chunk ahead."""
    used, asked = small(search__batch_size=2), []
    stub(used)
    outputs = used.translate(asked.append(n) or "ab" for n in range(10_000))
    next(outputs)
    assert len(asked) == 2 * CHUNK


def test_padded_lengths_do_not_exceed_the_positions_table():
    """A compiled length must not be larger than the table, because positions past it are NaN."""
    used = small(
        model__positions="learned",
        model__positions__size=20,
        data__max_source_length=20,
        data__max_target_length=20,
        search__beam_size=1,
        search__batch_size=2,
    )
    sources = ["abcdefabcdefabcdefa", "fed"]  # the first fills the table
    outputs = [best[0] for best in used.translate(sources)]
    assert all(np.isfinite(output.score) for output in outputs)
    assert [output.text for output in outputs] == naive(used, sources, [20, 9])
    assert len(used.logits(["a"], ["b" * 19])[0]) == 20
    with pytest.raises(UserError, match="a target has 21 tokens, the start included, and config.model.positions.size is 20"):
        used.logits(["a"], ["b" * 20])
    assert used.fits([("a", "b" * 19), ("a", "b" * 20)]) == [True, False]
    maps = used.attention("a", "b" * 30)  # what is only drawn is cut
    assert {each.name: len(each.down) for each in maps}["decoder self attention"] == 20
    assert len(used.notices) == 1 and "config.model.positions.size" in used.notices[0]
    list(used.translate(["a"]))
    assert not any("positions.size" in notice for notice in used.notices)


def test_a_text_instead_of_a_list_is_an_error():
    """Its letters would be translated."""
    used = small()
    calls = [
        lambda: used.translate("ab"),
        lambda: used.translate_to_length("ab"),
        lambda: used.logits("ab", ["A"]),
        lambda: used.logits(["ab"], "A"),
        lambda: used.weights({"ab": "A"}),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"instead of a list of (texts|pairs)"):
            call()


def test_long_sources_are_cut_and_reported():
    used = small(data__max_source_length=10)
    calls = stub(used)
    list(used.translate(["a" * 9, "ab" * 5, "", "c" * 30]))
    cut = "2 of 4 sentences were cut to 10 tokens (config.data.max_source_length), the first of them number 2"
    assert used.notices[0] == cut
    assert [len(source) for source in calls[0]] == [10, 10, 10]
    list(used.translate(["a" * 9]))
    assert used.cuts[0].count == 0
    assert np.array_equal(used.logits(["abcdefabcdef"], ["a"])[0], used.logits(["abcdefabc"], ["a"])[0])


def test_text_is_preprocessed_like_training_text():
    used = small(data__lowercase=True)
    calls = stub(used)
    list(used.translate(["  AbC\t", "abc"]))
    assert calls[0] == [[4, 5, 6, used.data_info.end]] * 2
    assert np.array_equal(used.logits([" AB"], ["Cd "])[0], used.logits(["ab"], ["cd"])[0])


# --- logits, attention -------------------------------------------------------------------------------------------------


def test_logits_are_the_models_own():
    used = translator()
    pairs = [("abc", "ABC"), ("fedcbafedcba", ""), ("", "A")]
    found = used.logits(*zip(*pairs, strict=True))
    for (source, target), logits in zip(pairs, found, strict=True):
        batch = {
            "source": jnp.asarray([[*used.source_vocabulary.encode(source), 2]]),
            "inputs": jnp.asarray([[1, *used.target_vocabulary.encode(target)]]),
        }
        want = jax.jit(used.model.apply)({"params": used.params}, batch)[0]
        assert logits.shape == (len(target) + 1, used.data_info.target_size)
        np.testing.assert_allclose(logits, want, atol=2e-5)
    assert used.logits([], []) == []


def test_attention_weights():
    maps = {each.name: each for each in translator().attention("abc", "FE")}
    read, fed, output_ids = ["a", "b", "c", "</s>"], ["<s>", "F", "E"], ["F", "E", "</s>"]
    across = {"encoder self attention": read, "decoder self attention": fed, "decoder cross attention": read}
    down = {"encoder self attention": read, "decoder self attention": fed, "decoder cross attention": output_ids}
    assert {name: each.across for name, each in maps.items()} == across
    assert {name: each.down for name, each in maps.items()} == down
    for name, each in maps.items():
        assert each.weights_LxHxTxS.shape == (1, 2, len(down[name]), len(across[name]))
        np.testing.assert_allclose(each.weights_LxHxTxS.sum(axis=-1), 1, atol=1e-5)
    assert not np.triu(maps["decoder self attention"].weights_LxHxTxS, 1).any()
    assert np.triu(maps["encoder self attention"].weights_LxHxTxS, 1).any()


def test_attention_of_its_own_output():
    output_ids = next(translator().translate(["abc"]))[0].text
    for one, other in zip(translator().attention("abc"), translator().attention("abc", output_ids), strict=True):
        assert one.down == other.down and np.array_equal(one.weights_LxHxTxS, other.weights_LxHxTxS)


# --- a decoder alone -----------------------------------------------------------------------------------------------------


def decoder_only(**settings) -> Translator:
    layers = {"model__num_decoder_layers": 2}  # in one layer nothing tells what a source sees
    return small(family="decoder_only", search__batch_size=3, **layers, **settings)


def as_trained(used: Translator, source: str, output_ids: list[int]) -> np.ndarray:
    """Logits after the start and after each target token, for the batch that training makes of the pair."""
    corpus = {"source": Ragged.of([used.source_vocabulary.encode(source)]), "target": Ragged.of([output_ids])}
    features = used.loaded.objective.features(corpus, 0, 0)
    batch = {name: jnp.asarray(features[name])[None] for name in ("inputs", "prefix")}
    length = 40  # one to compile; what comes later is not seen
    batch = {name: jnp.pad(array, ((0, 0), (0, length - array.shape[1]))) for name, array in batch.items()}
    logits = apply_jitted(used.model)({"params": used.params}, batch)[0]
    return np.asarray(logits, np.float64)[len(source) : len(source) + len(output_ids) + 1]


@functools.cache
def apply_jitted(model):
    return jax.jit(model.apply)


def test_decoder_only_logits_are_those_of_training():
    used = decoder_only()
    pairs = [("abc", "ABC".lower()), ("fedcbafedcba", ""), ("", "a")]
    for (source, target), logits in zip(pairs, used.logits(*zip(*pairs, strict=True)), strict=True):
        np.testing.assert_allclose(logits, as_trained(used, source, used.target_vocabulary.encode(target)), atol=2e-4)


class Verbatim(Characters):
    """Special ids are also decoded."""

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.mark.parametrize("beam", [1, 2])
def test_decoder_only_greedy_output_does_not_depend_on_the_batch(beam):
    """Sources of any length are fed at once, padded on the left."""
    used, sources = decoder_only(search__beam_size=beam), ["abcdef", "f", "cab", "edefedcba"]
    used.target_vocabulary = Verbatim("abcdef")
    found = [outputs[0] for outputs in used.translate(sources)]
    assert len({output.text for output in found}) > 2
    for source, output in zip(sources, found, strict=True):
        limit = len(source) + used.config.search.max_extra
        labels = [*map(int, output.text.split()), used.data_info.end][:limit]
        logits = as_trained(used, source, labels)[: len(labels)]
        log_probs = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[np.arange(len(labels)), labels]
        penalty = ((5 + len(labels)) / 6) ** used.config.search.length_penalty
        assert output.score == pytest.approx(log_probs.sum() / penalty, abs=1e-4)
        if beam == 1:
            assert labels == logits.argmax(axis=-1).tolist()


def test_decoder_only_positions_include_the_target():
    used = decoder_only(
        model__positions="learned",
        model__positions__size=20,
        data__max_source_length=20,
        data__max_target_length=20,
        search__beam_size=1,
    )
    outputs = [best[0] for best in used.translate(["abcdefabcdefabcdefabcdef", "abcdefabcdefabcd", "fed"])]
    assert all(np.isfinite(output.score) for output in outputs) and used.notices
    assert len(outputs[0].text) <= 1 and len(outputs[1].text) <= 4 and outputs[2].text
    assert len(used.logits(["a" * 9], ["b" * 10])[0]) == 11
    with pytest.raises(UserError, match="source and target have 21 tokens, the start included, .*positions.size is 20"):
        used.logits(["a" * 9], ["b" * 11])
    assert used.fits([("a" * 9, "b" * 10), ("a" * 9, "b" * 11)]) == [True, False]
    [found] = used.attention("a" * 9, "b" * 11)  # what is only drawn is cut
    assert len(found.down) == 20 and len(used.notices) == 1 and "config.model.positions.size" in used.notices[0]


def test_decoder_only_attention_is_one_map_of_source_and_target():
    [found] = decoder_only().attention("abc", "fe")
    assert found.name == "decoder self attention" and found.across == found.down == ["a", "b", "c", "<s>", "f", "e"]
    weights = found.weights_LxHxTxS
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert (weights[..., :4, :4] > 0).all() and not np.triu(weights[..., 4:, 4:], 1).any() and not weights[..., :4, 4:].any()


# --- models without attention, tasks with a prefix --------------------------------------------------------------------


def test_a_fixed_vector_model_has_no_attention_map():
    used = small(family="recurrent", model__recurrent=Recurrent(attention="none"))
    assert used.attention("abc", "fe") == []
    [found] = small(family="recurrent").attention("abc", "fe")
    assert found.name == "decoder cross attention" and found.weights_LxHxTxS.shape == (1, 1, 3, 4)


def test_the_task_prefix_is_added_once():
    used = small(data__prefix="Fa: ", data__lowercase=True)  # a prefix of training text was lowercased with it
    calls = stub(used)
    list(used.translate(["BC", "fa: bc", "Fa: bc", " "]))
    assert len(calls[0]) == 3 and len(calls[0][0]) == 7 and len(np.unique(calls[0], axis=0)) == 1
    blank = used.logits([""], ["a"])[0]  # blank sources stay blank
    assert np.array_equal(blank, small(data__lowercase=True).logits([""], ["a"])[0])
