"""A search in parts, with more room or fewer sentences as it goes on, finds what it finds at one go."""

import functools

import drawn
import jax
import numpy as np
import pytest

from transformer.components.masks import All
from transformer.config import Config, Data, Model, Recurrent, Search
from transformer.data.tokenizers.vocabulary import Characters
from transformer.inference import decoding

B, S, SLOTS, LONGEST = 8, 16, 32, 66
MODELS = {
    "encoder-decoder": Config(model=Model(num_encoder_layers=1, num_decoder_layers=2, d_model=16, d_ff=16, num_heads=2)),
    "prefix LM": Config(family="decoder_only", model=Model(num_decoder_layers=2, d_model=16, d_ff=16, num_heads=2)),
    "bidirectional decoder": Config(
        model=Model(num_encoder_layers=1, num_decoder_layers=1, d_model=16, d_ff=16, num_heads=2, mask=All())
    ),
    "recurrent": Config(
        family="recurrent",
        model=Model(
            num_encoder_layers=1, num_decoder_layers=1, d_model=16, recurrent=Recurrent(attention="bahdanau", cell="gru")
        ),
    ),
}
CASES = {
    "encoder-decoder": Search(beam_size=1),
    "encoder-decoder, beams": Search(beam_size=3, n_best=2),
    "prefix LM, beams": Search(beam_size=3, stopping="bound"),
    "bidirectional decoder": Search(beam_size=1),
    "recurrent, beams": Search(beam_size=2, stopping="filled"),
}


def sources(case):
    """A model, drawn, that seldom ends, and what it reads: as long as `S` or shorter, the last a row that fills the batch."""
    config = drawn.changed(MODELS[case.split(",")[0]], data=Data(source="text"), search=CASES[case], model__logits_bias=True)
    letters = Characters("abcdef")
    made = drawn.loaded(config, {"source": letters, "target": letters}, scale=0.5)
    bias = made.params["logits"]["bias"]
    made.params["logits"]["bias"] = bias.at[: made.data_info.unknown].add(-4.0)
    draw, lengths = np.random.default_rng(1), np.append(np.arange(S - B + 1, S) + 1, 0)
    segments = (np.arange(S)[None] < lengths[:, None]).astype(np.int32)
    segments = segments[:, ::-1].copy() if "prefix LM" in case else segments
    return made, draw.integers(4, 10, (B, S)).astype(np.int32) * segments, segments


@pytest.mark.parametrize("case", CASES)
def test_parts_are_the_whole(case):
    made, source, segments = sources(case)
    used = decoding.PartedSearch(made.model, made.config, made.data_info)
    used._go_on, calls = noted(used._go_on)
    whole = functools.partial(decoding.search_batch, made.model, made.config, made.data_info, max_length=LONGEST)
    whole = jax.jit(whole)
    few, many = [20, 60, 9, 31, 14, 32, 5, 0], [40, 33, LONGEST, 12, 33, 50, LONGEST, 0]
    for limits, wanted_calls in ((few, [(B, SLOTS), (B // decoding.FEW, LONGEST)]), (many, [(B, SLOTS), (B, LONGEST)])):
        calls.clear()
        limits = np.array(limits, np.int32)
        wanted = jax.device_get(whole(made.params, source, segments, limits))
        found = used(made.params, source, segments, limits, max_length=LONGEST, exact=False, scored=True)
        assert calls == wanted_calls
        assert len(np.unique(wanted.log_probs_BxN[:-1, 0])) == B - 1 and wanted.lengths_BxN.max() > SLOTS  # all differ
        np.testing.assert_array_equal(found.tokens_BxNxL, wanted.tokens_BxNxL)
        np.testing.assert_array_equal(found.lengths_BxN, wanted.lengths_BxN)
        np.testing.assert_allclose(found.scores_BxN, wanted.scores_BxN, rtol=1e-5)
        np.testing.assert_allclose(found.log_probs_BxN, wanted.log_probs_BxN, rtol=1e-5)


def test_slots_are_for_outputs_like_their_sources():
    assert decoding.first_slots(16, 66) == 32 and decoding.first_slots(48, 98) == 64
    assert decoding.first_slots(96, 146) == 146  # a second program would save little


def noted(function):
    """The function, and a list of how many sentences it was called with and until when."""
    calls = []

    def call(params, memory, state, until, **settings):
        calls.append((len(state.done_B), until))
        return function(params, memory, state, until, **settings)

    return call, calls
