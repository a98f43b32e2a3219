"""Text in, text out: a sentence gets the same in any company, and what a workdir holds is what is used."""

import dataclasses
import functools
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trained
from trained import translator

from transformer import families
from transformer.config import Facts, replace
from transformer.data.vocabulary import Characters
from transformer.errors import UserError
from transformer.inference import predict
from transformer.inference.search import Hypotheses
from transformer.runtime.checkpoints import Checkpoints, average
from transformer.runtime.workdir import Workdir


def workdir() -> Workdir:
    return Workdir(trained.run().workdir)


SENTENCES = ["".join(random.Random(n).choices("abcdef", k=1 + 5 * n % 23)) for n in range(9)]


# --- company -----------------------------------------------------------------------------------------------------------


@functools.cache
def alone(beam: int) -> list[predict.Output]:
    return [next(translator(beam).translate([sentence]))[0] for sentence in SENTENCES]


@pytest.mark.parametrize(("beam", "size", "order"), [(1, 4, 1), (2, 4, 2), (2, 4, 3), (2, 3, 4)])
def test_company_changes_nothing(beam, size, order):
    """Lengths 1 to 23 share batches and two compiled lengths; the batch is in any order and of any size."""
    places = [n for n, sentence in enumerate(SENTENCES) if size == 4 or len(sentence) < 16]  # one more to compile, not two
    random.Random(order).shuffle(places)
    found = list(translator(beam, size).translate(SENTENCES[place] for place in places))
    assert len({output.text for output in alone(beam)}) > 5, "the test says nothing of a model that says one thing"
    for place, outputs in zip(places, found, strict=True):
        want = alone(beam)[place]
        assert outputs[0].score == pytest.approx(want.score, abs=1e-5)
        if outputs[0].text != want.text:  # it must be a tie
            assert score(translator(beam, size), SENTENCES[place], outputs[0].text) == pytest.approx(want.score, abs=1e-4)


def score(used: predict.Predictor, source: str, target: str) -> float:
    """log P / ((5 + n) / 6)^alpha of n tokens (Wu et al. 2016, equation 14), the end among them, by the whole model."""
    logits = used.logits([source], [target])[0].astype(np.float64)
    limit = len(source) + 1 + used.config.search.max_extra
    labels = [*used.target_vocabulary.encode(target), used.facts.end][:limit]
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log_probs[np.arange(len(labels)), labels].sum() / ((5 + len(labels)) / 6) ** used.config.search.length_penalty


def naive(used: predict.Predictor, sources: list[str], limits: list[int]) -> list[str]:
    """Greedy, by the whole model at each step: no cache, and no search."""
    tokens, segments = predict.pad([[*used.source_vocabulary.encode(s), used.facts.end] for s in sources], 20)
    apply = jax.jit(used.model.apply)
    said: list[list[int]] = [[] for _ in sources]
    for n in range(max(limits)):
        inputs, _ = predict.pad(
            [[used.facts.start, *ids][: max(limits)] for ids in said], max(limits)
        )  # later inputs are not seen
        logits = apply({"params": used.params}, {"source": tokens, "source_segments": segments, "inputs": inputs})
        for ids, limit, row in zip(said, limits, logits, strict=True):
            if len(ids) < limit and used.facts.end not in ids:
                ids.append(int(row[n].argmax()))
    return [used.target_vocabulary.decode([i for i in ids if i != used.facts.end]) for ids in said]


def test_greedy_is_the_likeliest_token_at_each_step():
    sources = SENTENCES[:4]
    assert [output.text for output in alone(1)[:4]] == naive(translator(1), sources, [len(s) + 1 + 5 for s in sources])


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


# --- shapes, limits ----------------------------------------------------------------------------------------------------


def small(**settings) -> predict.Predictor:
    """Not trained: drawn parameters, large enough that outputs differ."""
    config = workdir().config()
    for name, value in settings.items():
        config = replace(config, name.replace("__", "."), value)
    facts, family = Facts(10, 10, 10, 10), families.FAMILIES[config.family]
    model = family.model(config, facts)
    shapes = jax.eval_shape(lambda: families.init_params(model, family.objective(config, facts), 0))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), shapes)
    letters = Characters("abcdef")
    return predict.Predictor(config, facts, model, params, {"source": letters, "target": letters})


def stub(used: predict.Predictor) -> list[tuple]:
    """Replaces the compiled search by one that notes what it is called with, and finds nothing."""
    calls = []

    def search(params, tokens_BxS, segments_BxS, limit_B, max_length):
        calls.append((tokens_BxS, segments_BxS, limit_B, max_length))
        nothing = np.zeros((len(tokens_BxS), 1))
        return Hypotheses(np.zeros((len(tokens_BxS), 1, 1), int), nothing.astype(int), nothing, nothing)

    used._search = search
    return calls


def test_few_shapes_whatever_the_lengths():
    used = small(data__max_source_length=1000, search__batch_size=8)
    calls = stub(used)
    texts = ["a" * length for length in range(1, 1200)]
    random.Random(0).shuffle(texts)
    assert len(list(used.translate(texts))) == len(texts)
    shapes = {(*tokens.shape, max_length) for tokens, _, _, max_length in calls}
    assert len(shapes) <= len(predict.LENGTHS) + 3
    for tokens, segments, limit, max_length in calls:
        lengths = segments.sum(axis=1)
        assert len(tokens) == 8 and tokens.shape[1] <= 1000 and max_length == tokens.shape[1] + 5
        assert all(tokens[lengths > 0, lengths[lengths > 0] - 1] == used.facts.end)
        assert np.array_equal(limit, np.where(lengths > 0, lengths + 5, 0))
    assert sum(int((segments.sum(axis=1) > 0).sum()) for _, segments, _, _ in calls) == len(texts)


@pytest.mark.parametrize(("length", "rounded"), [(1, 16), (16, 16), (17, 32), (256, 256), (257, 512), (513, 768)])
def test_round_length(length, rounded):
    assert predict.round_length(length) == rounded


def test_memory_does_not_grow_with_the_text():
    """Lines are read as they are needed, a chunk ahead at most."""
    used, asked = small(search__batch_size=2), []
    stub(used)
    outputs = used.translate(asked.append(n) or "ab" for n in range(10_000))
    next(outputs)
    assert len(asked) == 2 * predict.CHUNK


def test_a_positions_table_ends_where_sources_may():
    """A length that is compiled for must not reach past it: what stands there is NaN."""
    used = small(
        model__positions="learned",
        model__max_positions=20,
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
    for call in (lambda: used.logits(["a"], ["b" * 20]), lambda: used.attention("a", "b" * 20)):
        with pytest.raises(UserError, match="a target has 21 tokens, the start included, and config.model.max_positions is 20"):
            call()


def test_long_sources_are_cut_and_told():
    used = small(data__max_source_length=10)
    calls = stub(used)
    list(used.translate(["a" * 9, "ab" * 5, "", "c" * 30]))
    assert used.notices == ["2 sentences cut to 10 tokens (config.data.max_source_length), the first of them number 2"]
    assert all(tokens.shape[1] == 10 for tokens, _, _, _ in calls)
    list(used.translate(["a" * 9]))
    assert used.notices == []
    assert np.array_equal(used.logits(["abcdefabcdef"], ["a"])[0], used.logits(["abcdefabc"], ["a"])[0])


def test_text_is_made_as_training_text_was():
    used = small(data__lowercase=True)
    calls = stub(used)
    list(used.translate(["  AbC\t", "abc"]))
    tokens = calls[0][0]
    assert np.array_equal(tokens[0], tokens[1])
    assert list(tokens[0, :4]) == [4, 5, 6, used.facts.end]
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
        assert logits.shape == (len(target) + 1, used.facts.target_size)
        np.testing.assert_allclose(logits, want, atol=2e-5)
    assert used.logits([], []) == []


def test_attention_weights():
    weights, columns, rows = translator().attention("abc", "FE")
    assert columns == ["a", "b", "c", "</s>"] and rows == ["<s>", "F", "E"]
    shapes = {"encoder self attention": (4, 4), "decoder self attention": (3, 3), "decoder cross attention": (3, 4)}
    assert {name: array.shape for name, array in weights.items()} == {n: (1, 2, *shape) for n, shape in shapes.items()}
    for array in weights.values():
        np.testing.assert_allclose(array.sum(axis=-1), 1, atol=1e-5)
    assert not np.triu(weights["decoder self attention"], 1).any()
    assert np.triu(weights["encoder self attention"], 1).any()


# --- load --------------------------------------------------------------------------------------------------------------


def like() -> object:
    return jax.eval_shape(lambda: translator().params)


def restored(step: int) -> object:
    checkpoints = Checkpoints(workdir().checkpoints, workdir().config().checkpoint)
    return checkpoints.restore(step, "params", like())


def same(a: object, b: object, tolerance: float = 0.0) -> bool:
    close = jax.tree.map(lambda x, y: bool(np.allclose(x, y, rtol=0, atol=tolerance)), a, b)
    return all(jax.tree.leaves(close))


def test_the_last_checkpoints_are_averaged():
    early, late = restored(100), restored(150)
    assert not same(early, late, 1e-3)
    mean = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) + np.asarray(b, np.float64)) / 2, early, late)
    used = predict.load(trained.run().workdir)  # config.evaluate.average is 2
    assert used.steps == (100, 150) and same(used.params, mean, 1e-6)
    used = predict.load(trained.run().workdir, {"evaluate.average": "1"})
    assert used.steps == (150,) and same(used.params, late)


def test_the_best_checkpoint():
    rows = [json.loads(line) for line in workdir().metrics_file.read_text().splitlines()]
    losses = {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    best = min(losses, key=losses.__getitem__)
    used = predict.load(trained.run().workdir, {"evaluate.checkpoint": "best"})
    assert used.steps == (best,) and same(used.params, restored(best))


def spoilt(folder, **settings) -> Workdir:
    """A copy of the workdir that says to be of other settings."""
    copy = Workdir(trained.run().copy(folder))
    values = json.loads(copy.config_file.read_text())
    for name, value in settings.items():
        section, _, name = name.partition("__")
        values[section][name] = value
    copy.config_file.write_text(json.dumps(values))
    return copy


def test_best_by_what_no_checkpoint_has(tmp_path):
    copy = spoilt(tmp_path)
    for metrics in copy.checkpoints.glob("*/metrics/metadata"):
        metrics.write_text("{}")
    with pytest.raises(UserError, match="config.evaluate.checkpoint best: no checkpoint of .*run has validation/loss"):
        predict.load(copy.path, {"evaluate.checkpoint": "best"})


def test_a_moving_average_is_used_where_one_is_kept(tmp_path):
    copy = spoilt(tmp_path, train__ema_decay=0.9, evaluate__average=1)
    ones, zeros = (jax.tree.map(lambda x, v=value: np.full(x.shape, v, x.dtype), like()) for value in (1, 0))
    checkpoints = Checkpoints(copy.checkpoints, copy.config().checkpoint)
    checkpoints.save(151, {"params": zeros, "average": ones})
    checkpoints.close()
    assert same(predict.load(copy.path).params, ones)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"model.d_model": "64"}, ["cannot change now", "model.d_model: 32 -> 64"]),
        ({"data.lowercase": "true", "train.seed": "1"}, ["data.lowercase: False -> True", "train.seed: 0 -> 1"]),
        ({"search.beam": "3"}, ["did you mean 'search.beam_size'?"]),
        ({"search.beam_size": "wide"}, ["wants int"]),
        ({"search.n_best": "9"}, ["config.search.n_best 9"]),
        ({"evaluate.average": "10"}, ["config.checkpoint.keep_last"]),
    ],
)
def test_overrides_that_cannot_be(overrides, parts):
    with pytest.raises(UserError) as caught:
        predict.load(trained.run().workdir, overrides)
    assert all(part in str(caught.value) for part in parts)


def test_a_workdir_from_which_something_is_missing(tmp_path):
    copy = Workdir(trained.run().copy(tmp_path))
    missing = {
        "no checkpoint": copy.checkpoints,
        "no vocabulary": copy.vocabulary,
        "facts.json": copy.facts_file,
        "config.json": copy.config_file,
    }
    for told, path in missing.items():
        path.rename(tmp_path / "away")
        with pytest.raises(UserError, match=told):
            predict.load(copy.path)
        (tmp_path / "away").rename(path)
    assert predict.load(copy.path).steps == (100, 150)


def test_average_of_nothing_says_so(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        average(Checkpoints(tmp_path, workdir().config().checkpoint), [], "params", like())


def test_outputs_are_values():
    assert dataclasses.replace(predict.Output("a", 1.0), text="b") == predict.Output("b", 1.0)
