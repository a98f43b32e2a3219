"""Folders in and out: every tensor has its place, what comes back is the same to the bit, what is wrong is said in a line."""

import json

import folders
import jax
import numpy as np
import pytest
import safetensors.numpy

from transformer import families
from transformer.config import Data, DataInfo
from transformer.data import prepare, tokenizers
from transformer.data.tokenizers import imported, tokenizer_classes, training, vocabulary
from transformer.errors import UserError
from transformer.interop import huggingface, tensors
from transformer.modes import weights

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def case(folder, name):
    """A folder of that kind: its path and its tensors."""
    tied, fields, tokenizer = not name.endswith("untied"), {}, None
    kind, _, rest = name.partition(" ")
    if kind == "t5":
        tokenizer = folders.unigram()
        V, gated = tokenizer.get_vocab_size() + 3, "1.1" in rest
        fields = folders.T5_FIELDS | {"vocab_size": V, "tie_word_embeddings": tied}
        fields |= {"feed_forward_proj": "gated-gelu" if gated else "relu"}
        shapes = folders.t5(V, tied, gated)
    elif kind == "bart":
        tokenizer = folders.byte_bpe(SPECIAL)
        V = tokenizer.get_vocab_size()
        fields = folders.BART_FIELDS | {"model_type": "bart", "vocab_size": V, "tie_word_embeddings": tied}
        shapes = folders.bart(V, tied)
    elif kind == "marian":
        folder.mkdir()
        V = folders.marian_pair(folder)
        fields = folders.BART_FIELDS | {"model_type": "marian", "vocab_size": V, "scale_embedding": True}
        fields |= {"pad_token_id": V - 1, "decoder_start_token_id": V - 1, "activation_function": "swish"}
        shapes = folders.marian(V)
        if rest == "two tables":
            fields |= {"share_encoder_decoder_embeddings": False}
            shapes = folders.marian(V, target=V)
    elif kind == "gpt2":
        tokenizer = folders.byte_bpe(["<|endoftext|>"])
        V = tokenizer.get_vocab_size()
        fields = folders.GPT2_FIELDS | {"vocab_size": V, "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 0}
        shapes = folders.gpt2(V, tied)
    else:
        tokenizer, head = folders.word_pieces(), rest.partition(" ")[0]
        V = tokenizer.get_vocab_size()
        name = "BertModel" if head == "Model" else f"BertFor{head}"
        fields = folders.BERT_FIELDS | {"vocab_size": V, "architectures": [name], "tie_word_embeddings": tied}
        fields |= folders.LABELS if head.endswith("Classification") else {}
        shapes = folders.bert(V, head, tied)
    made = folders.draw(shapes)
    return folders.make(folder, fields, made, tokenizer), made


CASES = [
    "t5 1.0",
    "t5 1.1 untied",
    "t5 1.1 tied",
    "bart",
    "bart untied",
    "marian",
    "marian two tables",
    "gpt2",
    "gpt2 untied",
    "bert Model",
    "bert PreTraining",
    "bert MaskedLM",
    "bert MaskedLM untied",
    "bert SequenceClassification",
    "bert TokenClassification",
    "bert QuestionAnswering",
]


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_is_written_and_read_again_to_the_bit(tmp_path, name):
    """Every tensor of theirs has one place in ours, and every parameter of ours one in theirs."""
    folder, made = case(tmp_path / "a", name)
    found = huggingface.read(folder)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(found.params))
    assert count == sum(tensor.size for tensor in made.values())
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    written = safetensors.numpy.load_file(tmp_path / "b" / "model.safetensors")
    bare = {n if n in made else n.removeprefix("bert."): t for n, t in written.items()}
    assert bare.keys() == made.keys()
    for tensor, value in made.items():
        np.testing.assert_array_equal(bare[tensor], value, err_msg=tensor)
    again = huggingface.read(tmp_path / "b")
    assert (again.config, again.data_info) == (found.config, found.data_info)
    assert same(again.params, found.params)
    text = "the small cat über 12 naïve"
    for side, each in found.vocabularies.items():
        assert again.vocabularies[side].encode(text) == each.encode(text)
    for file in ("tokenizer.json", "source.spm", "target.spm"):
        if (folder / file).exists():
            assert (tmp_path / "b" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("name", ["t5 1.1 untied", "marian", "gpt2", "bert PreTraining", "bert SequenceClassification"])
def test_the_parameters_are_those_of_the_model_that_the_settings_make(tmp_path, name):
    found = huggingface.read(case(tmp_path / "a", name)[0])
    task = families.task_of(found.config)
    fields = families.text_fields(task)
    for each, vocab in found.vocabularies.items():
        vocab.save(tmp_path, each)
    by_field = prepare.load_vocabularies(found.config.data, fields, tmp_path)
    model = families.FAMILIES[found.config.family].model(found.config, found.data_info)
    objective = families.make_objective(found.config, found.data_info, by_field)
    wanted = jax.eval_shape(lambda: families.init_params(model, objective, 0))
    assert jax.tree.map(np.shape, found.params) == jax.tree.map(lambda leaf: leaf.shape, wanted)


def test_kernels_are_turned_heads_apart_and_layers_stacked(tmp_path):
    folder, made = case(tmp_path / "a", "bart")
    params = huggingface.read(folder).params
    K = folders.D // folders.HEADS
    for layer, i, h, k in [(0, 0, 0, 0), (2, 3, 1, 2), (1, 11, 2, 3)]:
        theirs = made[f"model.decoder.layers.{layer}.self_attn.q_proj.weight"][h * K + k, i]
        assert params["decoder"]["layers"]["self_attention"]["query"]["kernel"][layer, i, h, k] == theirs
        theirs = made[f"model.decoder.layers.{layer}.encoder_attn.v_proj.weight"][h * K + k, i]
        assert params["memory"]["value"]["kernel"][layer, i, h, k] == theirs
        theirs = made[f"model.decoder.layers.{layer}.encoder_attn.k_proj.bias"][h * K + k]
        assert params["memory"]["key"]["bias"][layer, h, k] == theirs
        theirs = made[f"model.decoder.layers.{layer}.encoder_attn.out_proj.weight"][i, h * K + k]
        assert params["decoder"]["layers"]["cross_attention"]["output"]["kernel"][layer, h, k, i] == theirs
    assert params["logits"]["bias"][7] == made["final_logits_bias"][0, 7]


def test_gpt2_s_queries_keys_and_values_are_parts_of_one(tmp_path):
    folder, made = case(tmp_path / "a", "gpt2")
    layers, K = huggingface.read(folder).params["decoder"]["layers"], folders.D // folders.HEADS
    for number, name in enumerate(("query", "key", "value")):
        kernel = made["transformer.h.1.attn.c_attn.weight"][5, number * folders.D + 2 * K + 1]
        assert layers["self_attention"][name]["kernel"][1, 5, 2, 1] == kernel
        bias = made["transformer.h.1.attn.c_attn.bias"][number * folders.D + 2 * K + 1]
        assert layers["self_attention"][name]["bias"][1, 2, 1] == bias


def test_that_sentences_belong_together_is_1_here_and_0_there(tmp_path):
    folder, made = case(tmp_path / "a", "bert PreTraining")
    dense = huggingface.read(folder).params["classifier"]["dense"]
    np.testing.assert_array_equal(dense["kernel"][:, 1], made["cls.seq_relationship.weight"][0])
    np.testing.assert_array_equal(dense["bias"][::-1], made["cls.seq_relationship.bias"])


# --- what files say in other ways --------------------------------------------------------------------------------------


def rewrite(folder, change):
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path)


def test_names_of_a_body_alone_are_read(tmp_path):
    for name, prefix in (("gpt2", "transformer."), ("bart", "model."), ("bert MaskedLM", "bert.")):
        folder, _ = case(tmp_path / name, name)
        whole = huggingface.read(folder).params
        if name.startswith("bert"):
            fields = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
            (folder / "config.json").write_text(json.dumps(fields))
        rewrite(folder, lambda t, p=prefix: {n.removeprefix(p): v for n, v in t.items()})
        assert same(huggingface.read(folder).params, whole)


def test_a_body_of_bart_has_no_bias_on_its_logits(tmp_path):
    folder, _ = case(tmp_path / "a", "bart")
    rewrite(folder, lambda t: {n: v for n, v in t.items() if n != "final_logits_bias"})
    assert not np.any(huggingface.read(folder).params["logits"]["bias"])


def test_old_names_and_copies_are_read(tmp_path):
    folder, made = case(tmp_path / "a", "bert MaskedLM")
    whole = huggingface.read(folder).params
    more = {"cls.predictions.decoder.weight": made["bert.embeddings.word_embeddings.weight"]}
    more |= {"cls.predictions.decoder.bias": made["cls.predictions.bias"], "bert.embeddings.position_ids": np.arange(20)[None]}
    more |= {"bert.pooler.dense.weight": np.ones((folders.D, folders.D), np.float32)}
    rewrite(
        folder,
        lambda t: {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for n, v in t.items()} | more,
    )
    assert same(huggingface.read(folder).params, whole)


def test_published_bert_has_both_of_its_pre_training_heads(tmp_path):
    folder, _ = case(tmp_path / "a", "bert PreTraining")
    fields = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(fields))
    assert huggingface.read(folder).config.objective.next_sentence


@pytest.mark.parametrize(
    ("name", "table", "copy"),
    [
        ("t5 1.0", "shared.weight", "decoder.embed_tokens.weight"),
        ("bart", "model.shared.weight", "model.encoder.embed_tokens.weight"),
        ("gpt2", "transformer.wte.weight", "lm_head.weight"),
    ],
)
def test_a_tied_table_is_read_by_any_of_its_names(tmp_path, name, table, copy):
    folder, _ = case(tmp_path / "a", name)
    whole = huggingface.read(folder).params
    rewrite(folder, lambda t: t | {copy: t[table]})
    assert same(huggingface.read(folder).params, whole)
    rewrite(folder, lambda t: {n: v for n, v in t.items() if n != table})
    assert same(huggingface.read(folder).params, whole)


def test_t5_s_head_is_its_own_where_the_tensors_differ(tmp_path):
    """Transformers 5 writes that it ties, and how it scales, whatever the tensors are."""
    folder, _ = case(tmp_path / "a", "t5 1.1 untied")
    fields = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    (folder / "config.json").write_text(json.dumps(fields))
    found = huggingface.read(folder)
    assert (found.config.model.tying, found.config.model.logits_scale) == ("inputs", "none")


def test_marian_s_sinusoids_are_looked_at(tmp_path):
    folder, _ = case(tmp_path / "a", "marian")
    angles = np.arange(30)[:, None] / 10000 ** (np.arange(0, folders.D, 2) / folders.D)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    name = "model.encoder.embed_positions.weight"
    rewrite(folder, lambda t: t | {name: table})
    huggingface.read(folder)
    rewrite(folder, lambda t: t | {name: table[:, ::-1]})
    with pytest.raises(UserError, match="no table of sinusoids"):
        huggingface.read(folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_what_is_stored_in_another_type_is_read_as_float32(tmp_path, dtype):
    folder, _ = case(tmp_path / "a", "gpt2")
    rewrite(folder, lambda t: {n: v.astype(dtype) for n, v in t.items()})
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    table = huggingface.read(folder).params["target_embedding"]["table"]
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, stored["transformer.wte.weight"].astype(np.float32))


def test_shards_are_read_and_written(tmp_path):
    folder, _ = case(tmp_path / "a", "bart")
    found = huggingface.read(folder)
    made = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors.write(folder, made, shard_bytes=5000)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 3 and all(path.stat().st_size < 30_000 for path in shards)
    assert same(huggingface.read(folder).params, found.params)


# --- data_info -------------------------------------------------------------------------------------------------------------


def test_data_info_are_those_of_the_tokenizer_and_the_settings(tmp_path):
    data_info = {name: huggingface.read(case(tmp_path / name, name)[0]).data_info for name in CASES[:10] + CASES[13:14]}
    t5, bart, marian, gpt2, bert = (data_info[n] for n in ("t5 1.0", "bart", "marian", "gpt2", "bert Model"))
    assert (t5.pad, t5.start, t5.end, t5.unknown, t5.sentinels, t5.begin) == (0, 0, 1, 2, 4, None)
    assert t5.target_rows == t5.target_size + 3
    assert (bart.begin, bart.pad, bart.end, bart.start, bart.unknown, bart.mask) == (0, 1, 2, 2, 3, 4)
    assert (marian.end, marian.unknown, marian.begin) == (0, 1, None)
    assert marian.start == marian.pad == marian.target_rows - 1 == marian.source_rows - 1
    assert (gpt2.start, gpt2.end, gpt2.begin, gpt2.mask) == (0, 0, None, None)
    assert (bert.pad, bert.unknown, bert.begin, bert.end, bert.mask) == (0, 1, 2, 3, 4)
    assert data_info["bert SequenceClassification"].labels == ("no", "yes", "both") and bert.labels == ()


def test_a_forbidden_pad_is_past_the_vocabulary(tmp_path):
    folder, made = case(tmp_path / "a", "marian")
    pad = made["model.shared.weight"].shape[0] - 1
    (folder / "generation_config.json").write_text(json.dumps({"bad_words_ids": [[pad]], "num_beams": 6, "max_length": 9}))
    found = huggingface.read(folder)
    assert found.data_info.target_size == pad == found.data_info.target_rows - 1
    assert (found.config.search.beam_size, found.config.search.output_limit(50)) == (6, 8)
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    assert json.loads((tmp_path / "b/generation_config.json").read_text())["bad_words_ids"] == [[pad]]
    assert huggingface.read(tmp_path / "b").data_info == found.data_info


@pytest.mark.parametrize(("more", "said", "sentinels"), [(100, {}, 100), (7, {"extra_ids": 7}, 7), (3, {}, 0)])
def test_t5_s_sentinels_come_after_its_pieces_where_the_table_has_room(tmp_path, more, said, sentinels):
    (tmp_path / "a").mkdir()
    size = folders.pieces(tmp_path / "a" / "spiece.model").GetPieceSize()
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps(said))
    fields = folders.T5_FIELDS | {"vocab_size": size + more}
    folders.make(tmp_path / "a", fields, folders.draw(folders.t5(size + more)))
    found = huggingface.read(tmp_path / "a")
    data_info = found.data_info
    assert (data_info.sentinels, data_info.target_size, data_info.target_rows) == (sentinels, size + sentinels, size + more)
    huggingface.write(tmp_path / "b", found.config, data_info, found.params, found.vocabularies)
    assert (tmp_path / "b" / "spiece.model").read_bytes() == (tmp_path / "a" / "spiece.model").read_bytes()
    assert huggingface.read(tmp_path / "b").data_info == data_info


# --- what is wrong -----------------------------------------------------------------------------------------------------


def refused(folder) -> str:
    with pytest.raises(UserError) as error:
        huggingface.read(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "pytorch_model-00001-of-00002.bin"])
def test_a_pickle_is_refused_with_the_reason(tmp_path, name):
    folder, _ = case(tmp_path / "a", "gpt2")
    (folder / "model.safetensors").rename(folder / name)
    message = refused(folder)
    assert name in message and "pickle" in message and "can run any program" in message
    assert "weights_only=True" in message and "save_file" in message


def test_a_classifier_of_one_label_is_read(tmp_path):
    folder, _ = case(tmp_path / "a", "bert SequenceClassification")
    fields = json.loads((folder / "config.json").read_text()) | {"id2label": {"0": "score"}, "problem_type": "regression"}
    (folder / "config.json").write_text(json.dumps(fields))
    rewrite(
        folder, lambda t: t | {"classifier.weight": t["classifier.weight"][:1], "classifier.bias": t["classifier.bias"][:1]}
    )
    found = huggingface.read(folder)
    assert found.data_info.labels == ("score",)
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    assert huggingface.read(tmp_path / "b").data_info == found.data_info


def test_a_prompt_begins_as_the_folder_s_tokenizer_says(tmp_path):
    folder, _ = case(tmp_path / "a", "gpt2")
    assert huggingface.read(folder).config.search.start_token is False
    described = json.loads((folder / "tokenizer.json").read_text())
    described["post_processor"] = tokenizer_classes.template(["<|endoftext|>"], [], [], {"<|endoftext|>": 0})
    (folder / "tokenizer.json").write_text(json.dumps(described))
    found = huggingface.read(folder)
    assert found.config.search.start_token is True
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    assert huggingface.read(tmp_path / "b").config == found.config


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-3], lambda b: b[:20], lambda b: b"", lambda b: b"\xff" * 64, lambda b: b"PK\x03\x04" + b"\0" * 60],
    ids=["cut", "header", "empty", "noise", "zip"],
)
def test_a_damaged_file_is_said_in_a_line(tmp_path, damage):
    folder, _ = case(tmp_path / "a", "gpt2")
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert "model.safetensors: damaged" in refused(folder)


def test_eight_bits_are_refused(tmp_path):
    folder, _ = case(tmp_path / "a", "gpt2")
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    assert "of a type that is not read here" in refused(folder)


def test_one_file_goes_before_an_index_that_an_earlier_save_left(tmp_path):
    """As in Transformers, whose save_pretrained removes shards and leaves their index."""
    folder, made = case(tmp_path / "a", "gpt2")
    name = sorted(made)[0]
    tensors.write(folder, made | {name: made[name] + 1}, shard_bytes=20_000)
    np.testing.assert_array_equal(tensors.read(folder)[name], made[name])
    for shard in folder.glob("model-*"):
        shard.unlink()
    huggingface.read(folder)


def test_shards_that_do_not_fit_their_index_are_said(tmp_path):
    folder, made = case(tmp_path / "a", "gpt2")
    (folder / "model.safetensors").unlink()
    tensors.write(folder, made, shard_bytes=20_000)
    index = folder / "model.safetensors.index.json"
    whole = index.read_text()
    first = sorted(folder.glob("model-*"))[0]
    places = json.loads(whole)["weight_map"]
    index.write_text(json.dumps({"weight_map": places | {"another": first.name}}))
    assert "no tensor another" in refused(folder)
    safetensors.numpy.save_file({"another": np.ones(2)}, tmp_path / "secret.safetensors")  # is there, but not in the folder
    index.write_text(json.dumps({"weight_map": places | {"another": "../secret.safetensors"}}))
    assert "../secret.safetensors" in refused(folder)
    index.write_text("[]")
    assert "no JSON object" in refused(folder)
    index.write_text("{}")
    assert "no weight_map" in refused(folder)
    index.write_text(whole)
    first.unlink()
    assert first.name in refused(folder)


@pytest.mark.parametrize("kind", ["gpt2", "t5 1.0"])
def test_tensors_that_lack_are_too_many_or_do_not_fit_are_named(tmp_path, kind):
    folder, made = case(tmp_path / "a", kind)
    name = next(n for n in made if ".1." in n)
    rewrite(folder, lambda t: {n: v for n, v in t.items() if n != name})
    assert name in refused(folder)
    rewrite(folder, lambda t: made | {name: np.concatenate([made[name], made[name]])})
    assert name in refused(folder) and "has the shape" in refused(folder)
    rewrite(folder, lambda t: made | {"decoder.adapter.weight": made[name]})
    assert "no place for decoder.adapter.weight" in refused(folder).replace("transformer.", "")
    rewrite(folder, lambda t: made | {name: made[name].astype(np.int32)})
    assert "is of type int32" in refused(folder)
    rewrite(folder, lambda t: made | {"lm_head.weight": made[next(iter(made))] + 1})
    if kind == "gpt2":
        assert "lm_head.weight differs from transformer.wte.weight" in refused(folder)


@pytest.mark.parametrize("name", ["bart untied", "gpt2 untied", "bert MaskedLM untied"])
def test_a_head_of_its_own_that_lacks_is_no_table(tmp_path, name):
    folder, _ = case(tmp_path / "a", name)
    head = {"bert MaskedLM untied": "cls.predictions.decoder.weight"}.get(name, "lm_head.weight")
    rewrite(folder, lambda t: {n: v for n, v in t.items() if n != head})
    assert f"no tensor {head}" in refused(folder)


def test_folders_that_are_none_are_said(tmp_path):
    assert "no such folder" in refused(tmp_path / "none")
    assert "no config.json" in refused(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert "model_type is 'mamba'" in refused(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMultipleChoice"]}')
    assert "BertForMultipleChoice" in refused(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["T5EncoderModel"]}')
    assert "T5EncoderModel" in refused(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')  # which says the type, too
    assert "there is no tokenizer" in refused(tmp_path)
    folders.word_pieces().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "no model.safetensors" in refused(tmp_path)


def test_a_tokenizer_that_does_not_fit_is_said(tmp_path):
    folder, _ = case(tmp_path / "a", "gpt2")
    folders.byte_bpe(["<|endoftext|>"], 310).save(str(folder / "tokenizer.json"))
    assert "its tokenizer has 310 entries" in refused(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be read" in refused(folder)
    folder, _ = case(tmp_path / "b", "marian")
    (folder / "target.spm").unlink()
    assert "there is no target.spm" in refused(folder)
    folder, _ = case(tmp_path / "c", "bert MaskedLM")
    folders.byte_bpe([]).save(str(folder / "tokenizer.json"))
    assert "BertTokenizer" in refused(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert "it has no token [CLS]" in refused(folder)


def test_a_full_folder_is_not_written_into(tmp_path):
    found = huggingface.read(case(tmp_path / "a", "gpt2")[0])
    with pytest.raises(UserError, match="not empty"):
        huggingface.write(tmp_path / "a", found.config, found.data_info, found.params, found.vocabularies)
    (tmp_path / "empty").mkdir()
    huggingface.write(tmp_path / "empty", found.config, found.data_info, found.params, found.vocabularies)
    assert (tmp_path / "empty" / "model.safetensors").exists()


# --- vocabularies of our own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [vocabulary.Bytes(), vocabulary.Characters(sorted({*"".join(folders.TEXTS), "\n", "€"}))])
def test_bytes_and_characters_are_written_as_a_tokenizer_that_says_the_same(tmp_path, made):
    from transformer.interop import tokenizer_json

    data_info = DataInfo(made.size, made.size, made.size, made.size)
    again = imported.Tokenizer(tokenizer_json.write(made, data_info, ([], [], [])))
    assert again.size == made.size and again.special == made.special
    for text in [*folders.TEXTS[:20], "", "a  b\n c", "€uro 12", "naïve \u0301 日本", "<s> </s>"]:
        assert again.encode(text) == made.encode(text)
        assert again.decode(made.encode(text)) == made.decode(made.encode(text))
        assert len(again.spans(text)) == len(made.spans(text))


@pytest.mark.parametrize("normalization", ["nmt_nfkc", "identity"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_pieces_are_written_as_a_tokenizer_that_says_the_same(kind, normalization):
    from transformer.interop import tokenizer_json

    made = training.train(Data(vocabulary=kind, vocabulary_size=90, normalization=normalization), folders.TEXTS, lambda _: None)
    again = imported.Tokenizer(
        tokenizer_json.write(made, DataInfo(made.size, made.size, made.size, made.size), ([], [], []))  # type: ignore[arg-type]
    )
    for text in [*folders.TEXTS[:20], "", " ", "  the   cat ", "naïve cat"]:
        assert again.encode(text) == made.encode(text)
        assert again.decode(made.encode(text)) == made.decode(made.encode(text))


def test_two_vocabularies_of_bytes_cannot_be_written(tmp_path):
    found = huggingface.read(case(tmp_path / "a", "gpt2")[0])
    two = {"source": vocabulary.Bytes(), "target": vocabulary.Bytes()}
    with pytest.raises(UserError, match="has one vocabulary"):
        huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, two)
    assert not (tmp_path / "b").exists()


def test_an_export_for_lower_case_texts_alone_is_possible_on_request(tmp_path):
    weights.import_weights(tmp_path / "run", {"data.lowercase": "true"}, str(case(tmp_path / "a", "gpt2")[0]))
    with pytest.raises(UserError, match=r"--config\.data\.lowercase=false"):
        weights.export_weights(tmp_path / "run", {}, str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()
    weights.export_weights(tmp_path / "run", {"data.lowercase": "false"}, str(tmp_path / "b"))
    assert (tmp_path / "b" / "tokenizer.json").is_file()


def test_a_sentencepiece_vocabulary_is_written_for_t5_and_marian(tmp_path):
    folders.pieces(tmp_path / "joint.model", size=40, pad_id=0, bos_id=1, eos_id=2, unk_id=3)
    own = tokenizers.load(tmp_path, "joint")
    for name in ("t5 1.0", "marian"):
        found = huggingface.read(case(tmp_path / name, name)[0])
        huggingface.write(tmp_path / f"{name} b", found.config, found.data_info, found.params, {"joint": own})
        again = huggingface.read(tmp_path / f"{name} b")
        for each in again.vocabularies.values():
            for text in folders.TEXTS[:10]:
                assert each.encode(text) == own.encode(text) and each.decode(own.encode(text)) == own.decode(own.encode(text))
            assert {own.pieces([i])[0] for i in each.special} <= {*vocabulary.SPECIAL}
