"""config.json: every field is a setting, one value, silent, or refused by name; published files are understood."""

import json
import math
from pathlib import Path

import folders
import jax
import pytest

from transformer import effects, settings
from transformer.components.norms import LayerNorm, RMSNorm
from transformer.components.positions import Learned, NoPositions, Sinusoidal
from transformer.components.rotary import Llama3, Rotary
from transformer.config import Config, DataInfo
from transformer.errors import UserError
from transformer.interop import configs, convert, decoders, encoders, huggingface, seq2seq
from transformer.interop.fields import COMMON_ONLY, OLDER, SEARCH_ONLY, SILENT
from transformer.interop.formats import FORMATS
from transformer.settings import Variations

SMALL = {
    "bert": folders.BERT_FIELDS,
    "gpt2": folders.GPT2_FIELDS,
    "bart": folders.BART_FIELDS,
    "marian": folders.BART_FIELDS,
    "t5": folders.T5_FIELDS | {"scale_decoder_outputs": True},
}
HIDDEN = {"vocab_size": 48, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 28}
SMALL |= {name: HIDDEN for name in decoders.FORMATS if name != "opt"}
SMALL |= dict.fromkeys(("roberta", "xlm-roberta", "camembert", "electra"), folders.BERT_FIELDS)
SMALL |= dict.fromkeys(("mt5", "umt5"), folders.T5_FIELDS) | dict.fromkeys(("pegasus", "mbart", "m2m_100"), folders.BART_FIELDS)
SMALL["modernbert"] = HIDDEN
SMALL["distilbert"] = {"vocab_size": 48, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 28}
SMALL["opt"] = {"hidden_size": 24, "ffn_dim": 28, "num_hidden_layers": 3, "num_attention_heads": 4}
# Settings that change nothing of a trained model, or nothing where positions are those of these families.
IDLE = {
    "dropout_rate",
    "attention.dropout_rate",
    "feed_forward.dropout_rate",
    "head_dropout_rate",
    "dropout_generator",
    "attention_backend",
    "attention_chunk",
    "initializer",
    "init_stddev",
    "attention.query_init",
    "attention.norm_epsilon",
    "embedding_init",
    "unroll",
    "remat",
    "matmul_dtype",
    "dtype",
    "positions.stddev",
    "layer_types",
    "lora_rank",
    "lora_alpha",
    "lora_kernels",
    "base_width",
    "base_d_k",
}
# Those that a family's models cannot have.
ABSENT = {
    "t5": {"token_types"},
    "bart": {"token_types"},
    "marian": {"token_types"},
    "bert": {"num_decoder_layers"},
    "gpt2": {"num_encoder_layers", "token_types"},
}
ABSENT |= dict.fromkeys(decoders.FORMATS, {"num_encoder_layers", "token_types"})
ABSENT |= dict.fromkeys(encoders.FORMATS, {"num_decoder_layers"})
ABSENT |= dict.fromkeys(seq2seq.FORMATS, {"token_types"})
# Written otherwise: swish is silu; a window that no layer has; a start that is null; weights are fp32.
OTHERWISE = {"activation_function", "classifier_dropout", "sliding_window", "bos_token_id", "torch_dtype", "max_window_layers"}
LAYERS = ("model.positions", "model.window", "model.layer_pattern", "model.attention_norm")  # which `LayerFields` says

# As published: facebook/bart-base less its rules of search, Helsinki-NLP/opus-mt-en-de, t5-small, bert-base-uncased, gpt2.
PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


def read(name, fields, generation=None):
    return configs.to_settings(FORMATS[name], fields, generation, "config.json", "generation_config.json")


def refused(name, fields, generation=None) -> str:
    with pytest.raises(UserError) as error:
        read(name, fields, generation)
    assert "\n" not in str(error.value)
    return str(error.value)


def config_of(values) -> Config:
    return settings.assign(Config(), {name: value for name, value in values.items() if not name.startswith("data_info.")})


@pytest.mark.parametrize("name", FORMATS)
def test_every_setting_of_the_model_has_its_place(name):
    """A new setting of ours must be said to be one of theirs, one value, or idle, in each family."""
    form = FORMATS[name]
    said = {ours for field in form.fields for ours in field.ours} | {*form.fixed, *form.training}
    said |= {"model.d_k", "model.d_v"} if form.heads_end else set()
    said |= {f"model.{each}" for each in IDLE | ABSENT[name]}
    said |= {each for each in settings.plain(config_of(read(name, SMALL[name]))) if form.layers and each.startswith(LAYERS)}
    config = config_of(read(name, SMALL[name]))
    mine = {each for each in settings.plain(config) if each.startswith("model.") and not each.startswith("model.recurrent")}
    assert mine - said == set()


@pytest.mark.parametrize("name", FORMATS)
def test_tables_name_settings_that_exist_and_values_that_they_may_have(name):
    form = FORMATS[name]
    kinds = {n: kind for n, kind, _, _ in settings.fields(config_of(read(name, SMALL[name])))}
    for field in form.fields:
        for ours in field.ours:
            assert ours.replace(configs.DECODER, "model.") in kinds or ours.startswith("data_info.")
            for _, value in field.values or ():
                assert settings.has_type(value, kinds[ours]) or value in (*getattr(kinds[ours], "registry", ()), "inputs")
    for ours, value in (*form.fixed.items(), *form.training.items()):
        assert settings.has_type(value, kinds[ours]) or value in kinds[ours].registry
    named = [each for field in form.fields for each in field.theirs.split()]
    assert len(named) == len(set(named)) and not {*named} & {*SILENT, *form.silent, *form.only}


@pytest.mark.parametrize("name", FORMATS)
def test_published_files_are_understood_and_written_again(name):
    published = PUBLISHED[name]
    values = read(name, published)
    config = config_of(values | {"family": FORMATS[name].family, "objective.kind": "masked_lm"})
    config = settings.replace(config, "objective.kind", next(iter(FORMATS[name].architectures.values())))
    known = {n.removeprefix("data_info."): v for n, v in values.items() if n.startswith("data_info.")}
    sizes = {f"{side}_size": known[f"{side}_rows"] for side in ("source", "target")}
    data_info = DataInfo(**{"start": 0, "end": 0} | sizes | known, model_type=name)
    assert configs.choose(config, data_info) == name
    written = configs.to_fields(name, config, data_info)
    assert (
        read(name, written | {k: published[k] for k in ("num_beams", "max_length", "bad_words_ids") if k in published})
        == values
    )
    for field, value in published.items():
        same = (
            "activation_function",
            "classifier_dropout",
            "sliding_window",
            "bos_token_id",
            "torch_dtype",
            "max_window_layers",
        )
        if field in written and field not in same:
            assert written[field] == value, field


def test_what_published_models_are():
    bart, marian, t5, bert, gpt2 = (config_of(read(n, PUBLISHED[n])).model for n in PUBLISHED if n in OLDER)
    assert (bart.d_model, bart.num_heads, bart.embedding_norm) == (768, 12, True)
    assert (bart.positions, bart.norm) == (Learned(size=1024, offset=2), LayerNorm(epsilon=1e-5))
    assert (marian.positions, marian.embedding_scale) == (Sinusoidal(layout="halves", size=512), "sqrt(d_model)")
    assert marian.feed_forward.activation == "silu"
    assert (t5.d_k, t5.d_v, t5.norm, t5.attention.scale, t5.logits_scale) == (64, 64, RMSNorm(), "none", "1/sqrt(d_model)")
    assert (bert.norm.epsilon, bert.feed_forward.activation, bert.token_types, bert.norm_order) == (1e-12, "gelu", 2, "post")
    assert (gpt2.norm_order, gpt2.d_ff, gpt2.has_final_norm) == ("pre", 3072, True)
    assert gpt2.feed_forward.activation == "gelu_tanh"


def sized(fields):
    """The configuration and the number of parameters of a model with these fields."""
    form = FORMATS[fields["model_type"]]
    kind = form.architectures[fields["architectures"][0]]
    values = read(fields["model_type"], fields) | {"family": form.family, "objective.kind": kind}
    data_info = huggingface._make_data_info(values, {}, (), Path("."))
    config = huggingface._make_config(values, {}, None)
    return config, sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(convert.shapes(config, data_info)))


@pytest.mark.parametrize(
    ("name", "more", "parameters"),
    [
        ("llama", {}, 1_235_814_400),  # Llama 3.2 1B
        ("llama", dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, head_dim=128,
                       tie_word_embeddings=False), 8_030_261_248),  # Llama 3 8B
        ("mistral", {}, 7_241_732_096),  # Mistral 7B
        ("qwen2", {}, 494_032_768),  # Qwen2.5 0.5B
        ("qwen3", {}, 596_049_920),  # Qwen3 0.6B
        ("qwen3", dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
                       tie_word_embeddings=False), 8_190_735_360),  # Qwen3 8B
        ("gemma", {}, 2_506_172_416),  # Gemma 2B
        ("gemma2", {}, 2_614_341_888),  # Gemma 2 2B
        ("gemma3_text", {}, 999_885_952),  # Gemma 3 1B
        ("phi3", {}, 3_821_079_552),  # Phi-3 mini
        ("olmo2", {}, 1_484_916_736),  # OLMo 2 1B
        ("smollm3", {}, 3_075_098_624),  # SmolLM3 3B
        ("gpt_neox", {}, 162_322_944),  # Pythia 160M
        ("gpt_neox", dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=16),
         1_414_647_808),  # Pythia 1.4B
        ("opt", {}, 125_239_296),  # OPT 125M
        ("mt5", {}, 300_176_768),  # mT5 small
        ("m2m_100", {}, 615_073_792),  # NLLB-200 600M
        ("roberta", {}, 124_697_433),  # RoBERTa base
        ("xlm-roberta", {}, 278_295_186),  # XLM-R base
        ("camembert", {}, 110_655_493),  # CamemBERT base
        ("modernbert", {}, 149_655_232),  # ModernBERT base
        ("distilbert", {}, 66_985_530),  # DistilBERT base
    ],
)  # fmt: skip
def test_published_models_have_their_number_of_parameters(name, more, parameters):
    assert sized(PUBLISHED[name] | more)[1] == parameters


@pytest.mark.parametrize(("name", "field"), [("phi3", "partial_rotary_factor"), ("gpt_neox", "rotary_pct")])
def test_a_fraction_of_each_head_is_rotated_where_they_read_it(name, field):
    for fields in ({field: 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}):
        values = read(name, HIDDEN | fields)
        assert values["model.positions.fraction"] == 0.5
        config = config_of(values | {"family": "decoder_only", "objective.kind": "causal_lm"})
        written = configs.to_fields(name, config, DataInfo(9, 9, 9, 9))
        assert written["rope_parameters"]["partial_rotary_factor"] == 0.5
    assert read("llama", HIDDEN | {"partial_rotary_factor": 1.0})["model.positions.fraction"] == 1


# LlamaConfig().max_position_embeddings of Transformers, and so on.
LONGEST = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768, "gemma": 8192, "gemma2": 8192}
LONGEST |= {"gemma3_text": 131072, "phi3": 4096, "olmo2": 2048, "smollm3": 32768, "gpt_neox": 2048}


@pytest.mark.parametrize("name", LONGEST)
def test_the_longest_text_where_a_file_does_not_say(name):
    assert read(name, HIDDEN)["model.positions.size"] == LONGEST[name]


def test_the_trained_length_of_scaled_positions():
    """Transformers takes the field beside the parameters first, and none of them for `dynamic`."""
    name, scaling = "original_max_position_embeddings", {"rope_type": "yarn", "factor": 2.0}
    trained = "model.positions.scaling.trained_length"
    for inner, outer, wanted in (({}, {}, 64), ({name: 8}, {}, 8), ({}, {name: 4}, 4), ({name: 8}, {name: 4}, 4)):
        fields = HIDDEN | {"max_position_embeddings": 64} | outer
        assert read("llama", fields | {"rope_scaling": scaling | inner})[trained] == wanted
        dynamic = read("llama", fields | {"rope_scaling": scaling | inner | {"rope_type": "dynamic"}})
        assert dynamic[trained] == dynamic["model.positions.size"] == 64
    fields = HIDDEN | {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "yarn", name: 16, "factor": None}}
    assert read("llama", fields)["model.positions.scaling.factor"] == 4


def test_dynamic_positions_are_written_where_transformers_computes_the_same():
    fields = HIDDEN | {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    values = read("llama", fields) | {"family": "decoder_only", "objective.kind": "causal_lm"}
    written = configs.to_fields("llama", config_of(values), DataInfo(9, 9, 9, 9))
    assert written["max_position_embeddings"] == 64 and "original_max_position_embeddings" not in str(written)
    with pytest.raises(UserError, match="trained_length is 16 and size 64"):
        configs.to_fields("llama", config_of(values | {"model.positions.scaling.trained_length": 16}), DataInfo(9, 9, 9, 9))


def test_rotary_parameters_of_one_kind_of_layers_alone():
    """The other kind has its own base, as in Transformers."""
    for kind, other in (("full_attention", "local"), ("sliding_attention", "global")):
        for more in ({}, {"sliding_attention" if kind == "full_attention" else "full_attention": None}):
            given = {kind: {"rope_type": "default", "rope_theta": 77.0}} | more
            config = config_of(read("gemma3_text", HIDDEN | {"num_hidden_layers": 6, "rope_parameters": given}))
            turn = settings.replace(config, "family", "decoder_only").model.layers_of_period("decoder")
            assert turn[0 if other == "local" else -1].positions.base == (1e4 if other == "local" else 1e6)
            assert turn[-1 if other == "local" else 0].positions.base == 77


def windows(name, fields):
    config = settings.replace(config_of(read(name, HIDDEN | fields)), "family", "decoder_only")
    turn = config.model.layers_of_period("decoder")
    return [turn[n % len(turn)].window for n in range(config.model.depth("decoder"))]


def test_layers_with_a_window_where_no_field_names_them():
    """Of Qwen from layer 28 on, of SmolLM 3 those without positions, as their classes in Transformers have it."""
    asked = {"use_sliding_window": True, "sliding_window": 5}
    for name in ("qwen2", "qwen3"):
        assert windows(name, asked | {"num_hidden_layers": 30}) == [None] * 28 + [5] * 2
        assert windows(name, asked | {"max_window_layers": 2}) == [None, None, 5]
        assert windows(name, {"num_hidden_layers": 30, "sliding_window": 5}) == [None] * 30
    smol = {"num_hidden_layers": 8, "max_window_layers": 2}
    assert windows("smollm3", smol | asked) == [None, None, None, 5] * 2
    assert windows("smollm3", smol | asked | {"no_rope_layers": [0, 1] * 4}) == [5, None] * 4
    assert windows("smollm3", smol | {"sliding_window": 5}) == [None] * 8


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gemma", "gemma2", "gemma3_text"])
def test_a_number_is_written_where_ours_is_another_one_s(name):
    """Most classes of Transformers refuse null for these."""
    values = read(name, HIDDEN | {"head_dim": 8}) | {"family": "decoder_only", "objective.kind": "causal_lm"}
    config = settings.assign(config_of(values), {"model.num_kv_heads": None, "model.attention.scale_width": None})
    written = configs.to_fields(name, config, DataInfo(9, 9, 9, 9))
    assert written["num_key_value_heads"] == 4
    assert written.get("query_pre_attn_scalar") == (8 if name in ("gemma2", "gemma3_text") else None)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [({}, None), ({"do_sample": True}, 50), ({"do_sample": True, "top_k": 0}, None), ({"top_k": 0}, None), ({"top_k": 7}, 7)],
)
def test_how_many_tokens_are_sampled_from_goes_both_ways(theirs, ours):
    """In Transformers 0 is all, and 50 what samples come from where a file does not say."""
    for values in (read("gpt2", SMALL["gpt2"], theirs), read("gpt2", SMALL["gpt2"] | theirs)):
        assert values.get("search.top_k") == ours
        config = config_of(values | {"family": "decoder_only", "objective.kind": "causal_lm"})
        assert configs.search_fields(config, DataInfo(9, 9, 9, 9))["top_k"] == (ours or 0)
    assert read("bart", SMALL["bart"], {"do_sample": True}).get("search.top_k") is None


def test_gelu_of_gemma_1_is_computed_by_tanh():
    """As GemmaConfig of Transformers has it; Gemma 2 and Llama have the exact function under that name."""
    name = "model.feed_forward.activation"
    for theirs, ours in {"gelu": "geglu_tanh", "gelu_pytorch_tanh": "geglu_tanh", "silu": "swiglu"}.items():
        assert read("gemma", HIDDEN | {"hidden_act": theirs})[name] == ours
    assert read("llama", HIDDEN | {"hidden_act": "gelu"})[name] == "geglu"
    assert read("gpt_neox", HIDDEN | {"hidden_act": "gelu_fast"})[name] == "gelu_tanh"  # of the published 20B
    config = config_of(read("gemma", HIDDEN) | {"family": "decoder_only", "objective.kind": "causal_lm"})
    assert configs.to_fields("gemma", config, DataInfo(9, 9, 9, 9))["hidden_act"] == "gelu_pytorch_tanh"
    with pytest.raises(UserError, match=name):
        configs.to_fields("gemma", settings.assign(config, {name: "geglu"}), DataInfo(9, 9, 9, 9))


def test_layers_of_published_decoders():
    gemma = sized(PUBLISHED["gemma3_text"])[0].model
    local, *_, whole = gemma.layers_of_period("decoder")
    assert gemma.layer_pattern == ("local",) * 5 + ("global",)
    assert (local.window, local.positions.base, whole.window, whole.positions.base) == (512, 1e4, None, 1e6)
    smol = sized(PUBLISHED["smollm3"])[0].model
    assert [type(each.positions) for each in smol.layers_of_period("decoder")] == [Rotary] * 3 + [NoPositions]
    assert sized(PUBLISHED["mistral"])[0].model.window == 4096
    qwen = PUBLISHED["qwen2"] | {"use_sliding_window": True, "max_window_layers": 21}
    assert [each.window for each in sized(qwen)[0].model.layers_of_period("decoder")] == [None] * 21 + [32768] * 3
    llama = sized(PUBLISHED["llama"])[0].model.positions
    assert llama == Rotary(base=5e5, size=131072, scaling=Llama3(factor=32.0, trained_length=8192))
    assert sized(PUBLISHED["gpt_neox"])[0].model.positions == Rotary(fraction=0.25, size=2048)


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("llama", {"rope_scaling": {"rope_type": "spiral"}}, "rope_type"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "turns": 3}}, "turns"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("gemma2", {"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "layer_types"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": None}, "max_window_layers"),
        ("mistral", {"sliding_window": "wide"}, "sliding_window"),
        (
            "mistral",
            {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            "layer_types",
        ),
        ("phi3", {"sliding_window": 5, "layer_types": ["full_attention"] * 3}, "layer_types"),
        ("llama", {"sliding_window": 5, "layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": None}}, "factor"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}, "high_freq_factor"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("modernbert", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("phi3", {"rotary_pct": 0.5}, "rotary_pct"),
        ("phi3", {"partial_rotary_factor": "half"}, "partial_rotary_factor"),
        ("gpt_neox", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"max_position_embeddings": 0}, "max_position_embeddings"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_what_is_not_supported_of_layers_is_named(name, fields, named):
    assert named in refused(name, SMALL[name] | fields)


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("llama", {"model.positions.layout": "interleaved"}, "layout"),
        ("llama", {"model.positions.size": None}, "size"),
        ("llama", {"model.positions.fraction": 0.5}, "config.model.positions.fraction"),
        ("gemma3_text", {"model.positions.fraction": 0.5}, "config.model.positions.fraction"),
        ("llama", {"model.residual": "parallel"}, "config.model.residual"),
        ("gpt_neox", {"model.window": 3}, "config.model.window"),
        ("gemma3_text", {"model.layer_types": Variations({"local": {"window": 3, "d_ff": 7}, "global": {}})}, "d_ff"),
        ("gemma3_text", {"model.layer_types": Variations({"local": {"window": 3}, "global": {"window": 4}})}, "window"),
    ],
)
def test_layers_that_they_have_not_are_named_when_writing(name, changes, named):
    form, fields = FORMATS[name], SMALL[name] | {"num_hidden_layers": 6}
    values = read(name, fields) | {"family": form.family, "objective.kind": "causal_lm"}
    config = settings.assign(config_of(values), changes)
    with pytest.raises(UserError) as error:
        configs.to_fields(name, config, DataInfo(9, 9, 9, 9))
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("bert", "position_embedding_type", "relative_key"),
        ("bert", "hidden_act", "tanh"),
        ("bert", "is_decoder", True),
        ("bert", "add_cross_attention", True),
        ("bert", "pruned_heads", {"0": [1]}),
        ("bert", "problem_type", "multi_label_classification"),
        ("bert", "hidden_size", "768"),
        ("bert", "num_hidden_layers", 2.5),
        ("bert", "quantization_config", {"bits": 8}),
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "reorder_and_upcast_attn", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "n_ctx", 99),
        ("gpt2", "embd_pdrop", 0.7),
        ("bart", "eos_token_id", [1, 2]),
        ("t5", "feed_forward_proj", "gated-relu"),
        ("t5", "is_gated_action", True),
        ("t5", "is_decoder", True),
        ("bart", "encoder_layerdrop", 0.1),
        ("bart", "normalize_before", True),
        ("bart", "normalize_embedding", False),
        ("bart", "no_repeat_ngram_size", 3),
        ("bart", "forced_bos_token_id", "0"),
        ("gpt2", "forced_bos_token_id", 0),
        ("bart", "early_stopping", "sometimes"),
        ("bart", "forced_eos_token_id", 7),
        ("bart", "scale_embedding", "yes"),
        ("marian", "static_position_embeddings", False),
        ("marian", "bad_words_ids", [[5]]),
        ("marian", "num_beams", 0.5),
    ],
)
def test_what_is_not_supported_is_named(name, field, value):
    assert field in refused(name, SMALL[name] | {field: value}) and "config.json: " in refused(
        name, SMALL[name] | {field: value}
    )


def test_fields_that_change_no_number_are_read():
    for name, fields in [
        ("gpt2", {"n_special": 0, "predict_special_tokens": True, "prefix": "a"}),
        ("bert", {"sentence_transformers": {"x": 1}, "save_step": 3, "prefix": "a"}),
        ("t5", {"bos_token_id": 0}),
    ]:
        assert read(name, SMALL[name] | fields) == read(name, SMALL[name])


def test_unknown_fields_are_named_all_at_once():
    message = refused("bert", SMALL["bert"] | {"first_thing": 1, "second_thing": "b"})
    assert "first_thing is 1" in message and "second_thing is 'b'" in message
    message = refused("bert", SMALL["bert"] | {"is_decoder": True, "add_cross_attention": True})
    assert "is_decoder" in message and "add_cross_attention" in message


def test_fields_with_one_value_refuse_any_other():
    for name, form in FORMATS.items():
        for field, allowed in (COMMON_ONLY | form.only).items():
            if not any(field == each.theirs for each in form.fields) and field not in form.silent:
                assert field in refused(name, SMALL[name] | {field: "another"})
                for value in allowed:
                    read(name, SMALL[name] | {field: value})
    for field in SEARCH_ONLY:
        assert field in refused("bart", SMALL["bart"], {field: "another"})


def test_rules_of_search_that_we_have_not_are_named_all_at_once():
    message = refused("bart", SMALL["bart"], {"no_repeat_ngram_size": 3, "min_length": 56, "min_p": 0.1})
    assert all(name in message for name in ("no_repeat_ngram_size", "min_length", "min_p", "generation_config.json"))
    assert "no_such_rule" in refused("bart", SMALL["bart"], {"no_such_rule": 1})


def test_rules_of_search_that_only_the_other_family_has_are_named():
    """They would be left out, and the outputs would be others."""
    for name, rule in (("gpt2", {"num_beams": 4}), ("bart", {"repetition_penalty": 1.2}), ("t5", {"repetition_penalty": 2.0})):
        assert next(iter(rule)) in refused(name, SMALL[name], rule)
        assert next(iter(rule)) in refused(name, SMALL[name] | rule)
    read("gpt2", SMALL["gpt2"], {"num_beams": 1, "repetition_penalty": 1.2})
    read("bart", SMALL["bart"], {"num_beams": 4, "repetition_penalty": 1.0})
    read("bert", SMALL["bert"] | {"num_beams": 4, "repetition_penalty": 1.2})  # which does not search


def test_a_forced_end_goes_both_ways():
    """Transformers has one by default for BART, Pegasus, mBART and Marian where there is no generation_config.json."""
    for name, alone in {"bart": True, "marian": True, "mbart": True, "pegasus": True, "m2m_100": False, "t5": False}.items():
        end = read(name, SMALL[name])["data_info.end"]
        assert read(name, SMALL[name])["search.force_end"] is alone
        assert read(name, SMALL[name] | {"forced_eos_token_id": None})["search.force_end"] is False
        assert read(name, SMALL[name], {})["search.force_end"] is False
        values = read(name, SMALL[name], {"forced_eos_token_id": end})
        config = config_of(values | {"family": "encoder_decoder", "objective.kind": "translate"})
        written = configs.search_fields(config, DataInfo(99, 99, 99, 99, end=end))
        assert values["search.force_end"] is True and written["forced_eos_token_id"] == end
    assert "forced_eos_token_id" in refused("gpt2", SMALL["gpt2"], {"forced_eos_token_id": 50256})


def test_how_to_search_is_taken_from_the_file_that_is_for_it():
    values = read(
        "bart", SMALL["bart"] | {"num_beams": 9}, {"num_beams": 3, "length_penalty": 2.0, "decoder_start_token_id": 7}
    )
    assert (values["search.beam_size"], values["search.length_penalty"], values["search.penalty_form"]) == (3, 2.0, "power")
    assert values["data_info.start"] == 7
    assert read("bart", SMALL["bart"] | {"num_beams": 9})["search.beam_size"] == 9


@pytest.mark.parametrize(("theirs", "ours"), [(False, "likely"), (True, "filled"), ("never", "bound")])
def test_when_a_search_ends_goes_both_ways(theirs, ours):
    values = read("bart", SMALL["bart"], {"early_stopping": theirs})
    assert values["search.stopping"] == ours
    form = FORMATS["bart"]
    config = config_of(values | {"family": form.family, "objective.kind": next(iter(form.architectures.values()))})
    assert configs.search_fields(config, DataInfo(9, 9, 9, 9))["early_stopping"] is theirs


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("bart", {"model.attention.qk_norm": True}, "config.model.attention.qk_norm"),
        ("bart", {"model.positions": "rotary"}, "config.model.positions rotary"),
        ("gpt2", {"model.positions": "alibi"}, "config.model.positions alibi"),
        ("bart", {"model.d_k": 5}, "config.model.d_k"),
        ("bart", {"model.feed_forward.activation": "swiglu"}, "config.model.feed_forward.activation"),
        ("bart", {"model.tying": "two_way"}, "config.model.tying"),
        ("bart", {"family": "recurrent"}, "config.family recurrent"),
        ("marian", {"model.positions.layout": "interleaved"}, "config.model.positions.layout"),
        ("t5", {"model.d_v": 7}, "config.model.d_v"),
        ("t5", {"model.layer_types": Variations({"decoder": {"d_ff": 7}})}, "d_ff"),
        ("bart", {"model.layer_types": Variations({"encoder": {"feed_forward.activation": "relu"}})}, "activation"),
        ("bart", {"model.layer_types": Variations({"decoder": {"window": 7}})}, "config.model.window"),
        ("t5", {"model.attention.scale": "1/d_k"}, "config.model.attention.scale"),
        ("gpt2", {"objective.kind": "prefix_lm"}, "config.objective.kind prefix_lm"),
        ("bert", {"model.norm_order": "pre"}, "config.model.norm_order"),
        ("bert", {"model.final_norm": True}, "config.model.final_norm"),
    ],
)
def test_a_setting_that_they_have_not_is_named_when_writing(name, changes, named):
    form = FORMATS[name]
    kind = next(iter(form.architectures.values()))
    config = config_of(read(name, SMALL[name]) | {"family": form.family, "objective.kind": kind})
    config = settings.assign(config, changes)
    with pytest.raises(UserError) as error:
        configs.choose(config, DataInfo(9, 9, 9, 9))
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["classify", "tag"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_a_masked_language_model_becomes_a_classifier_as_its_type_has_it(name, kind):
    """What stands below the classifier is nothing that a masked language model has, so that no file says it."""
    before = effects.without_idle(
        config_of(read(name, SMALL[name]) | {"family": "encoder_only", "objective.kind": "masked_lm"})
    )
    config = settings.replace(before, "objective.kind", kind)
    used = configs.with_published_head(config, before, name, ["objective.kind"])
    assert not [each for each, _ in effects.idle(used) if each in configs.HEAD]
    assert configs.choose(used, DataInfo(9, 9, 9, 9, model_type=name)) == name
    given = configs.with_published_head(
        settings.replace(config, "model.prediction_head", "bert"), before, name, ["model.prediction_head"]
    )
    assert given.model.prediction_head == "bert"
    assert configs.with_published_head(config, before, None, []) == config


def test_sinusoids_without_a_limit_are_written_as_a_table_that_is_large_enough():
    """Transformers reads no folder whose number of positions is null."""
    config = settings.assign(
        config_of(read("marian", SMALL["marian"])),
        {"model.positions.size": None, "data.max_source_length": 40, "search.max_extra": 30, "search.max_length": None},
    )
    assert configs.to_fields("marian", config, DataInfo(9, 9, 9, 9))["max_position_embeddings"] == 1 + 40 + 30
