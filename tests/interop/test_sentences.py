"""Encoders without a head: vectors of texts, and the files that say how a sentence encoder makes them."""

import functools
import json

import folders
import numpy as np
import pytest

from transformer import families, settings
from transformer.errors import UserError
from transformer.inference.label import Labeller
from transformer.inference.loading import Loaded
from transformer.interop import huggingface, sentences

TEXTS = ["the small cat", "a bird", "the small cat hears a bird and likes the old house"]


def encoder(folder, pooler=True, **files):
    tokenizer = folders.word_pieces()
    size = tokenizer.get_vocab_size()
    fields = folders.BERT_FIELDS | {"vocab_size": size, "architectures": ["BertModel"]}
    tensors = folders.draw(folders.bert(size, "Model"))
    tensors = {name: tensor for name, tensor in tensors.items() if pooler or "pooler" not in name}
    folders.make(folder, fields, tensors, tokenizer)
    for name, value in files.items():
        path = (
            folder
            / {"modules": "modules.json", "pooling": "1_Pooling/config.json", "length": "sentence_bert_config.json"}[name]
        )
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    return folder


def modules(*kinds):
    paths = {"Pooling": "1_Pooling"}
    return [
        {"idx": n, "path": paths.get(kind, ""), "type": f"sentence_transformers.models.{kind}"} for n, kind in enumerate(kinds)
    ]


def labeller(found: huggingface.Imported, **changes) -> Labeller:
    config = found.config
    for name, value in changes.items():
        config = settings.replace(config, f"embed.{name}", value)
    vocabularies = {"text": found.vocabularies["joint"], "pair": found.vocabularies["joint"]}
    model = families.FAMILIES[config.family].model(config, found.data_info)
    objective = families.make_objective(config, found.data_info, vocabularies)
    return Labeller(Loaded(config, found.data_info, model, objective, found.params, vocabularies))


@functools.cache
def found() -> huggingface.Imported:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return huggingface.read(encoder(Path(folder) / "a"))


def test_a_vector_is_the_mean_of_the_states_or_the_first_and_may_have_length_1():
    used = labeller(found())
    vectors = used.embed(TEXTS)
    model, ids = used.model, [found().data_info.begin, *found().vocabularies["joint"].encode(TEXTS[1]), found().data_info.end]
    states = np.asarray(model.apply({"params": used.params}, {"source": np.array([ids])})["states"])[0]
    assert vectors.shape == (3, folders.D) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[1], states.mean(axis=0), atol=1e-5)
    scaled = labeller(found(), normalize=True).embed(TEXTS)
    np.testing.assert_allclose(scaled, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(labeller(found(), pooling="first").embed(TEXTS)[1], states[0], atol=1e-5)
    assert used.embed([]).shape == (0, folders.D)


def test_predict_writes_the_numbers_of_a_line():
    used = labeller(found())
    wanted = used.embed([{"text": "a cat", "pair": "a bird"}])[0]
    [line] = used.predict([used.parse("a cat\ta bird")])
    np.testing.assert_array_equal(np.array(json.loads(line), np.float32), wanted)
    [line] = labeller(found(), format="tsv").predict([{"text": "a cat", "pair": "a bird"}])
    np.testing.assert_array_equal(np.array(line.split("\t"), np.float32), wanted)


def test_long_texts_are_cut_and_counted():
    used = labeller(found())
    used.embed(["a cat", "cat " * 50])
    assert "20 tokens" in used.notices[0] and "number 2" in used.notices[0]


def test_how_vectors_are_made_is_read_and_written(tmp_path):
    files = {"modules": modules("Transformer", "Pooling", "Normalize"), "length": {"max_seq_length": 11}}
    read = huggingface.read(encoder(tmp_path / "a", pooling={"pooling_mode_cls_token": True}, pooler=False, **files))
    assert (read.config.embed.pooling, read.config.embed.normalize, read.config.data.max_source_length) == ("first", True, 11)
    huggingface.write(tmp_path / "b", read.config, read.data_info, read.params, read.vocabularies)
    assert huggingface.read(tmp_path / "b").config == read.config
    assert sentences.read(encoder(tmp_path / "c")) == {}
    newer = encoder(tmp_path / "d", modules=modules("Transformer", "Pooling"), pooling={"pooling_mode": "mean"})
    assert sentences.read(newer) == {"embed.normalize": False, "embed.pooling": "mean"}


def test_texts_in_lower_case_are_said_in_both_directions(tmp_path):
    files = {"modules": modules("Transformer", "Pooling"), "pooling": {"pooling_mode": "mean"}}
    for lower in (True, False):
        length = {"max_seq_length": 11, "do_lower_case": lower}
        read = huggingface.read(encoder(tmp_path / f"a{lower}", length=length, **files))
        assert read.config.data.lowercase is lower
        huggingface.write(tmp_path / f"b{lower}", read.config, read.data_info, read.params, read.vocabularies)
        assert json.loads((tmp_path / f"b{lower}" / sentences.LENGTH).read_text()) == length


def test_the_length_is_read_from_the_file_of_an_older_folder(tmp_path):
    folder = encoder(tmp_path / "a", modules=modules("Transformer"))
    (folder / "sentence_xlm-roberta_config.json").write_text(json.dumps({"max_seq_length": 9}))
    assert sentences.read(folder)["data.max_source_length"] == 9
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 11}))
    assert sentences.read(folder)["data.max_source_length"] == 11


def test_a_prompt_before_every_text_is_refused(tmp_path):
    folder = encoder(tmp_path / "a", modules=modules("Transformer"))
    for name, refused in (("query", True), (None, False), ("document", False)):
        prompts = {"prompts": {"query": "Find: ", "document": ""}, "default_prompt_name": name}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
        if refused:
            with pytest.raises(UserError, match="default_prompt_name is 'query'"):
                sentences.read(folder)
        else:
            sentences.read(folder)


@pytest.mark.parametrize(
    ("kinds", "pooling", "named"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "max"),
        (("Transformer", "Pooling"), {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "Dense"),
    ],
)
def test_what_makes_vectors_in_another_way_is_refused(tmp_path, kinds, pooling, named):
    with pytest.raises(UserError, match=named):
        sentences.read(encoder(tmp_path / "a", modules=modules(*kinds), pooling=pooling))


def test_nothing_is_trained_without_a_head():
    with pytest.raises(UserError, match="--mode=train"):
        families.check_mode(found().config, "train")
    with pytest.raises(UserError, match="embed"):
        families.make_loss(None, found().config, found().data_info)
