"""Multilingual models: a source begins with the code of its language, and so does each output."""

import dataclasses

import folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import trained

from transformer import families
from transformer.data import corpus
from transformer.data.objectives import Translate
from transformer.data.tokenizers.imported import Tokenizer
from transformer.errors import UserError
from transformer.inference import decoding
from transformer.inference.special import with_codes
from transformer.inference.translate import Translator

CODES = ["<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "fra_Latn"]


@pytest.mark.parametrize("beam", [1, 2])
def test_every_output_begins_with_the_code_which_costs_nothing(beam):
    config = small.config(search__beam_size=beam, search__length_penalty=0.0, search__batch_size=2, search__max_length=5)
    model, params = families.FAMILIES[config.family].model(config, small.DATA_INFO), small.params(config)
    source = jnp.asarray(np.random.default_rng(0).integers(3, 17, (3, 5)), jnp.int32)

    def found(**changes):
        data_info = dataclasses.replace(small.DATA_INFO, **changes)
        rows = decoding.Search(model, config, data_info)(params, source.tolist())
        return np.stack([each.tokens_BxNxL[0, :2] for _, each in sorted(rows, key=lambda row: row[0])])

    for code in (5, 9):
        tokens = found(first=code)
        assert (tokens[:, 0] == code).all()
    # What follows is what the model says after the code, whose own log probability counts nothing.
    states = model.apply({"params": params}, {"source": source, "inputs": jnp.stack([jnp.array([1, 9])] * 3)})
    second = jax.nn.log_softmax(states[:, 1])
    if beam == 1:
        np.testing.assert_array_equal(tokens[:, 1], second.argmax(-1))
    assert (found()[:, 0] != 9).any()


def test_targets_begin_with_the_code_in_training_one_by_one_and_all_at_once():
    texts = {
        "source": corpus.Ragged.joined([corpus.Ragged(np.array([7, 8, 9]), np.array([0, 3]))]),
        "target": corpus.Ragged(np.array([6, 7, 8, 9, 10]), np.array([0, 5])),
    }
    for longest in (9, 4):
        objective = Translate(9, longest, start=1, end=2, begin=4, first=5)
        one = objective.features(texts, 0, 0)
        whole = [5, 6, 7, 8, 9, 10, 2][:longest]
        assert one["targets"].tolist() == whole and one["inputs"].tolist() == [1, *whole][: len(whole)]
        assert one["source"].tolist() == [4, 7, 8, 9, 2]
        both = objective.features_batch(texts, np.array([0, 0]), np.array([0, 0]))
        for name, value in one.items():
            assert both[name].values.tolist() == value.tolist() * 2, name
        assert objective.lengths(texts).tolist() == [[5, 7]]


def test_a_code_may_stand_behind_the_end_of_a_source():
    """As in mBART-cc25; a source that is too long keeps end and code."""
    texts = {
        "source": corpus.Ragged(np.array([7, 8, 9, 7]), np.array([0, 3, 4])),
        "target": corpus.Ragged(np.array([6, 7]), np.array([0, 1, 2])),
    }
    for longest, whole in ((9, [7, 8, 9, 2, 5]), (4, [7, 8, 2, 5])):
        objective = Translate(longest, 9, start=1, end=2, code=5)
        assert objective.features(texts, 0, 0)["source"].tolist() == whole
        both = objective.features_batch(texts, np.array([0, 1]), np.array([0, 0]))["source"]
        assert both.values.tolist() == [*whole, 7, 2, 5]
        assert objective.lengths(texts).tolist() == [[5, 2], [3, 2]]


def test_codes_are_entries_of_the_vocabulary():
    made = Tokenizer(folders.byte_bpe(CODES).to_str())
    config = small.config(search__source_code="fra_Latn", search__target_code="eng_Latn")
    data_info = with_codes(config, small.DATA_INFO, {"joint": made})
    assert (data_info.begin, data_info.first) == (5, 4)
    behind = with_codes(config, dataclasses.replace(small.DATA_INFO, code=3), {"joint": made})
    assert (behind.begin, behind.code, behind.first, behind.start) == (None, 5, None, 4)
    for changes in ({"search__source_code": "deu_Latn"}, {"search__target_code": "deu_Latn", "search__source_code": None}):
        with pytest.raises(UserError) as error:
            with_codes(small.config(**changes), small.DATA_INFO, {"joint": made})
        assert "config.search." in str(error.value) and "\n" not in str(error.value)


def test_what_is_looked_at_begins_with_the_code_as_in_training():
    """The decoder's inputs for a target, and outputs as long as their references."""
    loaded = trained.translator().loaded
    code = loaded.vocabularies["target"].encode("c")[0]
    model = Translator(dataclasses.replace(loaded, data_info=dataclasses.replace(loaded.data_info, first=code)))
    [ids] = loaded.vocabularies["target"].encode_batch(["ab"])
    batch = model.batch(["abc"], ["ab"])
    assert batch["inputs"][0].tolist() == [loaded.data_info.start, code, *ids]
    assert len(model.logits(["abc"], ["ab"])[0]) == len(ids) + 2
    [[found]] = model.translate_to_length([("abc", "abab")])
    plain = Translator(loaded).translate_to_length([("abc", "abab")])[0][0]
    assert len(loaded.vocabularies["target"].encode(found.text)) == 1 + len(loaded.vocabularies["target"].encode(plain.text))
