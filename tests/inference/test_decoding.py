"""A sentence gets what it gets alone, whoever was in its slot before it and whenever it joins the pool."""

import dataclasses
import random

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.components.masks import All
from transformer.components.positions import Learned
from transformer.config import Config, Data, Model, Recurrent, Search
from transformer.data.tokenizers.vocabulary import Characters
from transformer.inference import decoding
from transformer.inference.loading import LENGTHS

SIZES = {"num_encoder_layers": 1, "num_decoder_layers": 2, "d_model": 16, "d_ff": 16, "num_heads": 2}
MODELS = {
    "encoder-decoder": Config(model=Model(**SIZES)),
    "window": Config(model=Model(**SIZES, window=3)),
    "prefix LM": Config(family="decoder_only", model=Model(**SIZES)),
    "prefix LM, window": Config(family="decoder_only", model=Model(**SIZES, window=5)),
    "table of positions": Config(family="decoder_only", model=Model(**SIZES, positions=Learned(size=24))),
    "bidirectional decoder": Config(model=Model(**SIZES, mask=All())),
    "recurrent": Config(
        family="recurrent",
        model=Model(
            num_encoder_layers=1, num_decoder_layers=1, d_model=16, recurrent=Recurrent(attention="bahdanau", cell="gru")
        ),
    ),
}
CASES = {  # the search, slots, the longest source, limit beyond the source
    "encoder-decoder": (Search(beam_size=3, n_best=2), 4, 20, 50),
    "window": (Search(beam_size=1), 8, 14, 12),
    "prefix LM": (Search(beam_size=3, stopping="bound"), 4, 14, 12),
    "prefix LM, window": (Search(beam_size=1), 4, 14, 12),
    "table of positions": (Search(beam_size=2), 4, 14, 12),
    "bidirectional decoder": (Search(beam_size=1), 4, 14, 12),
    "recurrent": (Search(beam_size=2, stopping="filled"), 8, 14, 12),
}


def case(name, size):
    """A model, drawn, without biases, so that what it says depends on its source; and its search with so many slots."""
    asked, _, longest, extra = CASES[name]
    changes = {"search": asked, "search__batch_size": size, "search__max_extra": extra, "model__tying": "none"}
    config = drawn.changed(MODELS[name], data=Data(source="text", max_source_length=longest), **changes)
    letters = Characters("abcdef")
    made = drawn.loaded(config, {"source": letters, "target": letters}, scale=1.0)

    def plain(path, leaf):
        return {"scale": jnp.ones_like(leaf), "bias": jnp.zeros_like(leaf)}.get(path[-1].key, leaf)

    made = dataclasses.replace(made, params=jax.tree_util.tree_map_with_path(plain, made.params))
    return made, decoding.Search(made.model, made.config, made.data_info)


FAST = ("encoder-decoder", "prefix LM")


@pytest.mark.parametrize("name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in CASES])
def test_the_output_of_a_sentence_does_not_depend_on_the_batch(name, monkeypatch):
    """With 8 slots two are filled at once, where there are two sentences left; with 4 each one as soon as it is free."""
    _, size, longest, extra = CASES[name]
    monkeypatch.setattr(decoding, "REFILL", 4)
    made, used = case(name, size)
    draw = random.Random(0)
    sources = [[draw.randrange(4, 10) for _ in range(2 + n * 5 % (longest - 2))] for n in range(19)]
    found = list(used(made.params, sources))
    assert sorted(number for number, _ in found) == list(range(len(sources)))
    assert [number for number, _ in found] != sorted(range(len(sources)), key=lambda n: -len(sources[n]))
    _, alone = case(name, 1)
    lengths = set()
    for number, hypotheses in found[:: 1 if size == 4 else 2]:
        [(_, wanted)] = alone(made.params, [sources[number]])
        np.testing.assert_array_equal(hypotheses.lengths_BxN, wanted.lengths_BxN)
        count = wanted.lengths_BxN.max()
        lengths.add(int(count))
        np.testing.assert_array_equal(hypotheses.tokens_BxNxL[:, :count], wanted.tokens_BxNxL[:, :count])
        np.testing.assert_allclose(hypotheses.scores_BxN, wanted.scores_BxN, rtol=1e-4)
        np.testing.assert_allclose(hypotheses.log_probs_BxN, wanted.log_probs_BxN, rtol=1e-4)
    assert len(lengths) > 3, "all outputs are alike: the test says nothing"
    if name == "encoder-decoder":
        assert max(lengths) > decoding.first_room(16, 16 + extra), "no sentence needed more room"


def test_outputs_of_a_given_length_and_without_scores():
    made, used = case("encoder-decoder", 4)
    lengths = [3, 9, 1, 14, 6, 2]
    for number, hypotheses in used(made.params, [[4 + n] * (n + 1) for n in range(6)], lengths, False):
        assert hypotheses.lengths_BxN[0] == lengths[number] and hypotheses.scores_BxN is None
        assert made.data_info.end not in hypotheses.tokens_BxNxL[0, : lengths[number]]


def test_lengths_share_a_few_compiled_shapes(monkeypatch):
    made, used = case("encoder-decoder", 8)
    config = drawn.changed(made.config, data__max_source_length=1000)
    used, shapes = decoding.Search(made.model, config, made.data_info), set()

    def begin(params, tokens, segments, limits, **fixed):
        lengths = segments.sum(axis=1)
        assert tokens.shape == segments.shape and len(tokens) == 8 and tokens.shape[1] <= 1000
        np.testing.assert_array_equal(limits, np.where(lengths > 0, lengths + 50, 0))
        shapes.add((tokens.shape[1], *fixed.values()))
        return None

    used.begin = begin
    sources = [[4] * length for length in range(1, 1001)]
    run = decoding._Run(used, range(1000)[::-1], made.params, sources, None, True, 8)
    while run.batches:
        run._read()
    assert len({length for length, *_ in shapes}) == len(shapes) <= len(LENGTHS) + 3


def test_initial_space_is_for_outputs_as_long_as_sources():
    assert decoding.first_room(16, 66) == 32 and decoding.first_room(48, 98) == 64
    assert decoding.first_room(96, 146) == 146  # a second program would save little
